"""A small training and made images for it."""

from pathlib import Path

import numpy as np

from pipeline.config import CropSampling, EarlyStopping, NucleiUNet, TrainConfig
from pipeline.model.prepare import fit
from pipeline.training.dataset import Example
from pipeline.types import Case, Modality

CONFIG = TrainConfig(
    network=NucleiUNet(filters=(4, 8, 8)),
    sampling=CropSampling(size=48, per_epoch=6),
    batch_size=3,
    epochs=3,
    stopping=EarlyStopping(patience=50, minimum_epochs=0),
    ema=0.5,
)


def example(seed: int, config: TrainConfig = CONFIG, modality: Modality = "fluorescence", side: int = 64) -> Example:
    """Bright discs on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint32)
    for number in range(1, 7):
        top, left = rng.integers(8, side - 8, 2)
        labels[(y - top) ** 2 + (x - left) ** 2 < 49] = number
    grey = (labels > 0) * 150 + rng.integers(0, 60, (side, side))
    pixels = np.repeat(grey.astype(np.uint8)[None], 3, axis=0)
    case = Case(f"c{seed}", Path(f"c{seed}.png"), f"c{seed}.png", modality=modality)
    return Example(case, pixels, labels, fit(pixels, config.prepare, stride=16))
