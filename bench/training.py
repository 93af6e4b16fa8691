"""maskline's training against MONAI's fast recipe at 256 x 256: images a second, one ratio from one run.

    python bench/training.py [--what data|step] [--data MANIFEST] [--device auto] [--repeats N]

Both train the network of configs/nuclei.yaml on the same images with the same list of augmentations. MONAI's recipe is
its own for speed: CacheDataset of everything deterministic, dictionary transforms, ThreadDataLoader, metadata tracking
off; bfloat16 on a GPU. `data` times the way to a batch alone, `step` the batch and the optimiser's step. Interleaved.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, ThreadDataLoader
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    SpatialPadd,
)

import unet
from pipeline.config import CropSampling, NucleiAugmentation, TrainConfig, load_config
from pipeline.data.manifest import load_data
from pipeline.inference.engines import choose_device
from pipeline.training.augment import ChannelsFirst, RandColourd
from pipeline.training.dataset import CropDataset, Example, load_examples
from pipeline.training.encode import EncodeTargetd
from pipeline.training.gaps import RandGapsd
from pipeline.training.loader import load_for
from pipeline.training.train import Training, start_training, train_step
from unet.losses import build_loss

BOTH = ("image", "label")


class LabelPlane(monai.transforms.MapTransform):
    """`(1, Y, X)` labels, as MONAI's spatial transforms want them, to the plane that the targets are made of."""

    def __call__(self, data: Any) -> Any:
        sample = dict(data)
        sample["label"] = np.asarray(sample["label"])[0]
        return sample


class Colours(monai.transforms.MapTransform):
    """Our RandGapsd and RandColourd, which MONAI lacks, between its channel-first transforms."""

    def __init__(self, change: NucleiAugmentation) -> None:
        super().__init__(("image",))
        colours = RandColourd(change.stain, change.grey, change.tint)
        self.inner = Compose([RandGapsd(change.gaps), colours, ChannelsFirst(3)])

    def __call__(self, data: Any) -> Any:
        image = np.ascontiguousarray(np.moveaxis(np.asarray(data["image"]), 0, 2))
        return self.inner({**data, "image": image})


def recipe(config: TrainConfig, size: int) -> Compose:
    """The list of pipeline.training.augment in MONAI's own transforms, where it has them."""
    change = config.augmentation
    assert isinstance(change, NucleiAugmentation)
    zoom = (change.scale[0] - 1, change.scale[1] - 1)
    return Compose(
        [
            SpatialPadd(BOTH, (size, size), mode="reflect"),
            RandSpatialCropd(BOTH, (size, size), random_size=False),
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandRotate90d(BOTH, prob=0.75),
            RandAffined(
                BOTH,
                prob=1.0,
                rotate_range=np.pi / 4,
                scale_range=(zoom, zoom),
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            LabelPlane(("label",)),
            Colours(change),
            RandAdjustContrastd(("image",), prob=1.0, gamma=change.gamma, invert_image=False),
            RandScaleIntensityd(("image",), prob=1.0, factors=change.intensity),
            RandShiftIntensityd(("image",), prob=1.0, offsets=change.intensity / 2),
            RandGaussianSmoothd(("image",), prob=0.2, sigma_x=(0.3, change.blur), sigma_y=(0.3, change.blur)),
            RandGaussianNoised(("image",), prob=0.3, std=change.noise),
            EncodeTargetd(config.target),
        ]
    )


def theirs(examples: Sequence[Example], config: TrainConfig, size: int) -> ThreadDataLoader:
    """CacheDataset of normalised images in memory, random transforms after it, a loader in a thread."""
    samples = [
        {"image": e.preparation.normalise(e.pixels), "label": e.labels[None].astype(np.float32)} for e in examples
    ]
    data = CacheDataset(samples, recipe(config, size), cache_rate=1.0, progress=False)
    return ThreadDataLoader(data, batch_size=config.batch_size, shuffle=True, num_workers=0)


def ours(
    examples: Sequence[Example], config: TrainConfig, sampling: CropSampling, device: str
) -> Iterator[dict[str, torch.Tensor]]:
    """The product's own loader, epoch after epoch; on a GPU it has worker processes."""
    loader = load_for(device, CropDataset(examples, config, sampling), config.batch_size)
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def endless(loader: Any) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


def plain_training(config: TrainConfig, device: str) -> Any:
    """The step as tutorials write it: the network as it is built, AdamW by default, no clipping, no average."""
    network = unet.build(config.network.kind, **config.network.model_dump(exclude={"kind"})).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), config.optimiser.lr)
    loss_function = build_loss(config.loss.kind, softmax=False, **config.loss.loss_parameters()).to(device)

    def step(batch: dict[str, torch.Tensor]) -> float:
        image, target = torch.as_tensor(batch["image"]).to(device), torch.as_tensor(batch["target"]).to(device)
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            logits = network(image)
        loss = loss_function(logits.float(), target)
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step


def rate(batches: Iterator[dict[str, torch.Tensor]], step: Any, count: int) -> float:
    """Images a second over `count` batches."""
    began, images = time.perf_counter(), 0
    for _ in range(count):
        batch = next(batches)
        images += len(batch["image"])
        if step is not None:
            step(batch)
    return images / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--what", choices=["data", "step"], default="step")
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--config", type=Path, default=Path("configs/nuclei.yaml"))
    parser.add_argument("--every", type=int, default=6, help="take every n-th training image")
    parser.add_argument("--batches", type=int, default=12, help="batches a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    monai.data.set_track_meta(False)
    device = choose_device(arguments.device)
    config = load_config(TrainConfig, arguments.config, ("pretrained=none",))
    assert isinstance(config.sampling, CropSampling)
    sampling = config.sampling.model_copy(update={"size": 256})
    cases = load_data(arguments.data).split("train")[:: arguments.every]
    examples = load_examples(cases, config, 16)
    print(f"{len(examples)} images, batches of {config.batch_size}, {torch.get_num_threads()} threads, {device}")
    training: Training = start_training(config, device)
    training.network.train()
    steps: list[Any] = [None, None]
    if arguments.what == "step":
        steps = [lambda batch: train_step(training, batch), plain_training(config, device)]
    batches = [ours(examples, config, sampling, device), endless(theirs(examples, config, 256))]
    for each, step in zip(batches, steps, strict=True):
        rate(each, step, 3)  # warm
    ratios = []
    for repeat in range(1, arguments.repeats + 1):
        mine, other = (rate(each, step, arguments.batches) for each, step in zip(batches, steps, strict=True))
        ratios.append(mine / other)
        print(f"{repeat}: MONAI {other:.1f} images/s, maskline {mine:.1f} images/s, {ratios[-1]:.2f}x")
    what = "the data path" if arguments.what == "data" else "the whole step"
    span = f"range {min(ratios):.2f}-{max(ratios):.2f}"
    print(f"training, {what}: {statistics.median(ratios):.2f}x over MONAI's fast recipe ({span})")


if __name__ == "__main__":
    main()
