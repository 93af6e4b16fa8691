"""Augmentation of volumes: MONAI's dictionary transforms, drawn and applied to one box of one volume.

Samples are dictionaries: `image` `(C, Z, Y, X)` float32, prepared; `label` `(1, Z, Y, X)` float32 numbers of objects or
classes; at the end `target` `(K, Z, Y, X)` float32.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, SpatialPadd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_numpy

from pipeline.config import ClassesTarget, NoAugmentation, PatchSampling, Target, VolumeAugmentation
from pipeline.data.classes import IGNORED
from pipeline.model.targets import encode

_BOTH = ("image", "label")


class EncodeVolumed(MapTransform):
    """Numbers to target channels, after all geometry is done, so that borders keep their width in voxels."""

    def __init__(self, target: Target) -> None:
        super().__init__(("label",))
        self.target = target

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        label = convert_to_numpy(data["label"])[0]
        image = np.ascontiguousarray(convert_to_numpy(data["image"]), np.float32)
        return {"image": image, "target": encode(np.rint(label).astype(np.uint32), self.target)}


class CountForegroundd(MapTransform):
    """`counted`: the label without what is ignored, which of class numbers 255 is; so no box is centred on that."""

    def __init__(self, target: Target) -> None:
        super().__init__(("label",))
        self.classes = isinstance(target, ClassesTarget)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        label = data["label"]
        return {**data, "counted": label * (label != IGNORED) if self.classes else label}


def build_volume_augmentation(
    config: VolumeAugmentation | NoAugmentation, sampling: PatchSampling, target: Target
) -> Compose:
    """Box of `sampling.size`, augmented as configured, target encoded; answers with a list of one.

    Boxes are centred on what is neither background nor ignored. Gamma keeps each box' own range of values.
    """
    crop: list[Any] = [
        SpatialPadd(_BOTH, sampling.size, mode="symmetric"),
        CountForegroundd(target),
        RandCropByPosNegLabeld(
            _BOTH,
            label_key="counted",
            spatial_size=sampling.size,
            pos=sampling.foreground,
            neg=1 - sampling.foreground,
            num_samples=1,
        ),
    ]
    changes = [] if isinstance(config, NoAugmentation) else _changes(config)
    return Compose([*crop, *changes, EncodeVolumed(target)])


def _changes(config: VolumeAugmentation) -> list[Any]:
    low, high = config.scale
    return [
        *(RandFlipd(_BOTH, prob=0.5, spatial_axis=axis) for axis, flips in enumerate(config.flip) if flips),
        RandAffined(
            _BOTH,
            prob=0.5,
            rotate_range=tuple(np.deg2rad(angle) for angle in config.rotate),
            scale_range=((1 / high - 1, 1 / low - 1),) * 3,  # MONAI's matrix goes from the result to the source
            mode=("bilinear", "nearest"),
            padding_mode="reflection",
        ),
        RandScaleIntensityd("image", factors=config.intensity, prob=0.5),
        RandShiftIntensityd("image", offsets=config.intensity, prob=0.5),
        RandAdjustContrastd("image", prob=0.3, gamma=config.gamma, retain_stats=True),
        RandGaussianNoised("image", prob=0.3, std=config.noise),
    ]
