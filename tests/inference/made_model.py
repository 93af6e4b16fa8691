"""A small model with drawn weights, an image in memory, the engine that not every machine has. The tests' stand-ins."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import unet
from pipeline.config import NucleiUNet, PrepareConfig, SeparatedTarget
from pipeline.model.bundle import ModelRecord, TrainedModel, describe_network
from pipeline.types import Geometry, Image, Window
from unet.folding import processor_has_bfloat16

BFLOAT16 = pytest.param(
    "torch-bfloat16",
    marks=pytest.mark.skipif(not processor_has_bfloat16(), reason="no bfloat16 in this processor"),
)


def make_model(diameter: float | None = None, channels: int = 3) -> TrainedModel:
    config = NucleiUNet(filters=(4, 6, 8), in_channels=channels)
    torch.manual_seed(2)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(network, channels)
    record = ModelRecord(
        name="t",
        network=config,
        prepare=PrepareConfig(channels=channels),
        target=SeparatedTarget(),
        outputs=("foreground", "border", "distance"),
        stride=stride,
        halo=halo,
        diameter=diameter,
    )
    return TrainedModel(network, record, "digest")


@dataclass
class Source:
    """An image in memory that acts as an opened file."""

    pixels: np.ndarray
    geometry: Geometry = field(default_factory=Geometry.pixels)
    path: Path = Path("memory")

    def read(self, window: Window | None = None) -> Image:
        return Image(self.pixels, self.geometry)
