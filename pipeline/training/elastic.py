"""Elastic deformation of images and labels, as the 2015 U-Net was trained with: MONAI's, in this training's layout."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms.spatial.dictionary import Rand2DElasticd
from monai.transforms.transform import MapTransform, Randomizable
from monai.utils.type_conversion import convert_to_numpy


class RandElasticd(Randomizable, MapTransform):
    """Every sample bent: points `spacing` px apart move by Gaussian steps of `std` px, what lies between by splines.

    `image` `(Y, X, C)` is interpolated linearly and mirrored beyond its edges, `label` `(Y, X)` takes the nearest
    pixel's number; both keep their dtype, and labels above 2^24 are beyond float32. (Ronneberger et al. 2015: 10 px, on
    a coarse grid of 3 x 3.)
    """

    def __init__(self, std: float, spacing: int) -> None:
        MapTransform.__init__(self, ("image", "label"))
        self.bend = Rand2DElasticd(
            ("image", "label"),
            spacing=(spacing, spacing),
            magnitude_range=(std, std),
            prob=1.0,
            mode=("bilinear", "nearest"),
            padding_mode="reflection",
        )

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "RandElasticd":
        """Its draws are MONAI's."""
        self.bend.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        image, label = sample["image"], sample["label"]
        planes = np.ascontiguousarray(np.moveaxis(image, 2, 0), np.float32)
        bent = self.bend({"image": planes, "label": label[None].astype(np.float32)})
        moved = np.moveaxis(convert_to_numpy(bent["image"]), 0, 2)
        whole = np.issubdtype(image.dtype, np.integer)
        sample["image"] = np.ascontiguousarray(np.rint(moved) if whole else moved, image.dtype)
        sample["label"] = np.ascontiguousarray(convert_to_numpy(bent["label"])[0], label.dtype)
        return sample
