"""Volumes and class maps in training: examples, boxes of volumes, and how good the network is on whole ones."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn
from torch.utils.data import Dataset

import unet
from pipeline.config import ClassesTarget, PatchSampling, TrainConfig
from pipeline.data.classes import class_map
from pipeline.errors import TrainingError
from pipeline.model.prepare import Preparation, fit
from pipeline.model.targets import encode
from pipeline.model.volumes import VolumePreparation, fit_volume, pad_far
from pipeline.scoring import class_metrics
from pipeline.training.augment import seed_sample
from pipeline.training.volume_augment import build_volume_augmentation
from pipeline.types import Array, Case, Geometry, Labels

Sides = tuple[int, ...]
_WHOLE = 4_000_000  # voxels up to which a volume goes through in one piece


class Example(Protocol):
    """What `pipeline.training.dataset.Example` is for a volume."""

    @property
    def case(self) -> Case: ...
    @property
    def pixels(self) -> Array: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def preparation(self) -> Any: ...


def understood(case: Case, labels: Labels, config: TrainConfig) -> Labels:
    """Labels as the target means them: class numbers as `class_map` has them; objects as they are, also where the two
    classes of a target are in them and out of them, as a loss may weigh what lies between two.

    Raises TrainingError where the manifest says classes and the config objects, MaskError for the other way round.
    """
    target = config.target
    if isinstance(target, ClassesTarget):
        classes = class_map(labels, case.mask_kind, target, f"case {case.id}").astype(np.uint32)
        return labels if target.trimap == 0 else classes
    if case.mask_kind == "classes":
        hint = "ingest the folder with --masks instances"
        raise TrainingError(f"case {case.id}", "label images of classes", "objects, as the target is", hint)
    return labels


def prepared(
    case: Case, pixels: Array, geometry: Geometry, config: TrainConfig, stride: int | Sides
) -> Preparation | VolumePreparation:
    """The preparation of an image or a volume, whichever the network takes; raises TrainingError for the other."""
    dimensions = config.network.dimensions
    if pixels.ndim - 1 != dimensions:
        wanted = f"{dimensions}-D images, as network.dimensions says"
        raise TrainingError(f"case {case.id}", f"a {pixels.ndim - 1}-D image", wanted, "set network.dimensions")
    strides = (stride,) * dimensions if isinstance(stride, int) else stride
    if dimensions == 3:
        return fit_volume(pixels, geometry, config.prepare, strides)
    return fit(pixels, config.prepare, stride=max(strides))


class PatchDataset(Dataset[dict[str, Any]]):
    """Augmented boxes of volumes: sample `index` of `epoch` is the same whoever asks, whenever.

    Volumes are prepared once, on the model's voxel size, and kept in memory. Raises TrainingError where the box does
    not suit the network's strides.
    """

    def __init__(self, examples: Sequence[Example], config: TrainConfig, sampling: PatchSampling) -> None:
        strides = examples[0].preparation.strides
        if any(side % stride for side, stride in zip(sampling.size, strides, strict=True)):
            wanted = f"multiples of the network's strides {strides}"
            raise TrainingError("sampling.size", f"{sampling.size}", wanted, "change the size of the boxes")
        self.seed, self.length = config.seed, sampling.per_epoch
        self.images = [torch.from_numpy(e.preparation.on_grid(e.pixels)) for e in examples]
        self.labels = [
            torch.from_numpy(e.preparation.labels_on_grid(e.labels).astype(np.float32)[None]) for e in examples
        ]
        self.transform = build_volume_augmentation(config.augmentation, sampling, config.target)  # type: ignore[arg-type]
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw which volume each sample of the epoch comes from (each in turn), and the seed it is augmented with."""
        generator = np.random.default_rng((self.seed, epoch))
        rounds = -(-self.length // len(self.images))
        self.chosen = np.concatenate([generator.permutation(len(self.images)) for _ in range(rounds)])[: self.length]
        self.seeds = generator.integers(2**31, size=self.length)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        chosen = self.chosen[index]
        seed_sample(self.transform, int(self.seeds[index]))
        sample = self.transform({"image": self.images[chosen], "label": self.labels[chosen]})[0]
        return {key: torch.from_numpy(sample[key]) for key in ("image", "target")}


def volume_target(example: Example, config: TrainConfig) -> Array:
    """The target on the network's grid, `(K, z, y, x)` float32 or class numbers `(z, y, x)`, padded like the volume."""
    planes = encode(example.preparation.labels_on_grid(example.labels), config.target)
    strides = example.preparation.strides
    return pad_far(planes, strides) if planes.ndim == 4 else pad_far(planes[None], strides)[0]


def whole_logits(network: nn.Module, image: Tensor, config: TrainConfig) -> Tensor:
    """Logits of a whole prepared image or volume; of a volume too large for that, of gaussian-blended windows."""
    laid = image.to(memory_format=unet.images_layout(image))
    if not isinstance(config.sampling, PatchSampling) or image[0, 0].numel() <= _WHOLE:
        logits: Tensor = network(laid)
        return logits.float()
    windows = sliding_window_inference(laid, config.sampling.size, 1, network, overlap=0.5, mode="gaussian")
    assert isinstance(windows, Tensor)
    return windows.float()


def class_numbers(found: Iterator[tuple[Labels, Labels, float]], names: Sequence[str]) -> dict[str, float]:
    """Validation numbers of (truth, prediction, loss) of whole images: val_dice is the mean over images of the mean
    over foreground classes, val_iou the mIoU and val_accuracy that of all pixels; val_dice_NAME is the class' own.
    """
    cases, losses = [], []
    for number, (truth, predicted, loss) in enumerate(found):
        cases.append(class_metrics.ClassCase(str(number), class_metrics.confusion(truth, predicted, len(names))))
        losses.append(loss)
    scores = class_metrics.summarise_classes(cases, names, bootstrap=0)
    numbers = {
        "val_loss": float(np.mean(losses)),
        "val_dice": scores["dice_mean"] or 0.0,
        "val_iou": scores["miou"] or 0.0,
        "val_accuracy": scores["accuracy"] or 0.0,
    }
    return numbers | {f"val_dice_{name}": scores["classes"][name]["dice"] or 0.0 for name in names[1:]}
