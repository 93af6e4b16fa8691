"""From cases to training samples: images in memory once, samples that depend on (seed, epoch, index) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skimage.transform import resize
from torch.utils.data import Dataset

from pipeline.config import (
    ClassesTarget,
    CropSampling,
    FixedSize,
    MaskTarget,
    PatchSampling,
    SceneAugmentation,
    TrainConfig,
)
from pipeline.data.ingest import load_case
from pipeline.errors import TrainingError
from pipeline.model.prepare import take_channels
from pipeline.model.targets import encode
from pipeline.model.volumes import VolumePreparation, nearest
from pipeline.training.augment import build_augmentation, seed_sample
from pipeline.training.pixel_weights import pixel_weights, weighs_pixels
from pipeline.training.scenes import draw_scene
from pipeline.training.volumes import PatchDataset, prepared, understood, volume_target
from pipeline.types import Array, Case, Event, Geometry, Labels, Pixels, Watch, unwatched


@dataclass(frozen=True)
class Example:
    """One labelled image in memory: `pixels` `(C, (Z,) Y, X)` in the file's dtype, `labels` `((Z,) Y, X)` uint32."""

    case: Case
    pixels: Array
    labels: Labels
    preparation: Any  # Preparation, or VolumePreparation where it is a volume
    geometry: Geometry | None = None  # as the file states it


def load_examples(
    cases: Sequence[Case], config: TrainConfig, stride: int | tuple[int, ...], watch: Watch = unwatched
) -> tuple[Example, ...]:
    """Read labelled cases; raises what `load_case` raises, and TrainingError where there is none."""
    examples = []
    for number, case in enumerate(cases):
        image, labels = load_case(case)
        pixels = take_channels(image.pixels, config.prepare.channels)
        preparation = prepared(case, pixels, image.geometry, config, stride)
        examples.append(Example(case, pixels, understood(case, labels, config), preparation, image.geometry))
        watch(Event("load", number + 1, len(cases)))
    if not examples:
        raise TrainingError("data", "no labelled image", "at least one", "give images with masks, or check the splits")
    return tuple(examples)


def merged_target(labels: Labels, shape: tuple[int, int], target: MaskTarget) -> Pixels:
    """The merged mask on another grid, `(1, y, x)` float32 of 0 and 1.

    `clean` averages down and cuts at .5. `literal` takes what is non-zero after resizing with anti-aliasing; as the
    kernels are non-negative, doing so for each instance and taking the maximum, as the guide does, is the same.
    """
    soft = resize((labels > 0).astype(np.float64), shape, order=1, mode="constant", anti_aliasing=True)
    mask: Pixels = (soft > (0.0 if target.merge == "literal" else 0.5)).astype(np.float32)[None]
    return mask


def grid_target(example: Example, config: TrainConfig) -> Array:
    """The target on the network's grid, `(K, y, x)` float32 or class numbers `(y, x)`, padded like the image."""
    if isinstance(example.preparation, VolumePreparation):
        return volume_target(example, config)
    if isinstance(config.prepare.size, FixedSize) and isinstance(config.target, ClassesTarget):
        planes = encode(nearest(example.labels, example.preparation.shape), config.target)
    elif isinstance(config.prepare.size, FixedSize):
        if not isinstance(config.target, MaskTarget):
            raise TrainingError("target", config.target.kind, "mask, with a fixed size", "set prepare.size to native")
        planes = merged_target(example.labels, example.preparation.shape, config.target)
    else:
        planes = encode(example.labels, config.target)
    height, width = (-n % example.preparation.stride for n in planes.shape[-2:])
    return np.pad(planes, ((0, 0), (0, height), (0, width))[-planes.ndim :], mode="symmetric")


def grid_weight(example: Example, config: TrainConfig) -> Pixels | None:
    """The weights of the pixels on the network's grid, `(1, y, x)` float32; None where the loss takes none."""
    if not weighs_pixels(config.loss):
        return None
    labels = example.labels
    if isinstance(config.prepare.size, FixedSize):
        labels = resize(labels, example.preparation.shape, order=0, preserve_range=True, anti_aliasing=False)
    height, width = (-n % example.preparation.stride for n in labels.shape)
    weights = pixel_weights(labels, config.loss)
    return None if weights is None else np.pad(weights, ((0, height), (0, width)), mode="symmetric")[None]


def draw_weights(examples: Sequence[Example], balance: float) -> np.ndarray:
    """Probability of each example: classes of (modality, size) count by their number to the power 1 - `balance`.

    >>> from types import SimpleNamespace as N
    >>> few = N(case=N(modality="stained"), labels=np.zeros((256, 256)))
    >>> many = N(case=N(modality="fluorescence"), labels=np.zeros((256, 256)))
    >>> draw_weights([few, many, many, many, many], 1.0).round(3).tolist()
    [0.5, 0.125, 0.125, 0.125, 0.125]
    """
    classes = [(e.case.modality, round(np.log2(max(e.labels.size, 1)) / 2)) for e in examples]
    number = {c: classes.count(c) for c in set(classes)}
    weights = np.array([number[c] ** -balance for c in classes])
    return np.asarray(weights / weights.sum())


def _warpable(labels: Labels) -> Array:
    """Labels in a type that OpenCV can warp: uint16, or float32 (exact to 2^24) above 65,535 objects."""
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.float32)


def _channels_last(pixels: Array) -> Array:
    """`(C, Y, X)` to `(Y, X, C)` in memory, in a type that OpenCV can warp; one channel where all are the same."""
    grey = all(np.array_equal(pixels[0], plane) for plane in pixels[1:])
    kept = pixels[:1] if grey else pixels
    return np.ascontiguousarray(np.moveaxis(kept, 0, 2), np.uint8 if pixels.dtype == np.uint8 else np.float32)


class CropDataset(Dataset[dict[str, Any]]):
    """Augmented crops: sample `index` of `epoch` is the same whoever asks, whenever.

    Raises TrainingError where the crop does not suit the network's stride.
    """

    def __init__(self, examples: Sequence[Example], config: TrainConfig, sampling: CropSampling) -> None:
        stride = examples[0].preparation.stride
        if sampling.size % stride:
            wanted = f"a multiple of the network's stride {stride}"
            raise TrainingError("sampling.size", f"{sampling.size}", wanted, "change the size of the crops")
        self.examples, self.seed, self.length = examples, config.seed, sampling.per_epoch
        self.images = [_channels_last(example.pixels) for example in examples]
        self.labels = [_warpable(example.labels) for example in examples]
        self.weights = draw_weights(examples, sampling.balance)
        changes: Any = config.augmentation  # of images, as the config has been checked for
        self.transform = build_augmentation(changes, sampling.size, config.prepare.channels, config.target, config.loss)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw which example each sample of the epoch comes from, and the seed it is augmented with."""
        generator = np.random.default_rng((self.seed, epoch))
        self.chosen = generator.choice(len(self.examples), size=self.length, p=self.weights)
        self.seeds = generator.integers(2**31, size=self.length)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        chosen = self.chosen[index]
        seed_sample(self.transform, int(self.seeds[index]))
        preparation = self.examples[chosen].preparation
        sample = self.transform(
            {"image": self.images[chosen], "label": self.labels[chosen], "preparation": preparation}
        )
        return {key: torch.from_numpy(sample[key]) for key in ("image", "target", "weight") if key in sample}


class WholeDataset(Dataset[dict[str, Any]]):
    """Whole images on the network's fixed grid, in an order drawn for each epoch, prepared once.

    Sample `index` of `epoch` is the same whoever asks, whenever.
    """

    def __init__(self, examples: Sequence[Example], config: TrainConfig) -> None:
        if not isinstance(config.prepare.size, FixedSize):
            raise TrainingError(
                "sampling", "whole images", "a fixed size to bring them to", "set prepare.size.kind: fixed"
            )
        self.seed = config.seed
        self.scene = config.augmentation if isinstance(config.augmentation, SceneAugmentation) else None
        self.samples = [
            (e.preparation.apply(e.pixels), grid_target(e, config), grid_weight(e, config)) for e in examples
        ]
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order, and the seed that each sample is augmented with."""
        generator = np.random.default_rng((self.seed, epoch))
        self.order = generator.permutation(len(self.samples))
        self.seeds = generator.integers(2**31, size=len(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, target, weight = self.samples[self.order[index]]
        if self.scene is not None:
            change = draw_scene(self.scene, np.random.default_rng(self.seeds[index]))
            image, target = change.light(change.place(image)), change.place(target)
            weight = None if weight is None else change.place(weight)
        sample = {"image": torch.from_numpy(image), "target": torch.from_numpy(target)}
        return sample if weight is None else {**sample, "weight": torch.from_numpy(weight)}


def build_dataset(examples: Sequence[Example], config: TrainConfig) -> CropDataset | WholeDataset | PatchDataset:
    """The training samples that the config asks for."""
    if isinstance(config.sampling, PatchSampling):
        return PatchDataset(examples, config, config.sampling)
    if isinstance(config.sampling, CropSampling):
        return CropDataset(examples, config, config.sampling)
    return WholeDataset(examples, config)
