"""Grids of a label image's pyramid, and what OME-Zarr (NGFF 0.4 and 0.5) states of them.

The labels of an OME-Zarr image state its own axes, units, transformations and version, so that whoever opens both sees
one on the other; its levels are those of the image where that has a pyramid, else each is half the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.types import FORMAT_VERSION, Geometry

SMALLEST = 1024  # no further level below this side
Version = Literal["0.4", "0.5"]
Transforms = tuple[Mapping[str, Any], ...]
_UNITS = {"um": "micrometer", "mm": "millimeter"}
_KINDS = ("scale", "translation")


def pyramid_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes `((Z,) Y, X)` of the levels of a pyramid, each half the one before along Y and X, rounded up.

    >>> pyramid_shapes((5000, 3000))
    [(5000, 3000), (2500, 1500), (1250, 750), (625, 375)]
    """
    shapes = [shape]
    while max(shapes[-1][-2:]) > SMALLEST:
        *planes, height, width = shapes[-1]
        shapes.append((*planes, -(-height // 2), -(-width // 2)))
    return shapes


def sampled(full: int, small: int, level: int) -> NDArray[np.intp]:
    """Which of `full` pixels along an axis a level of `small` ones holds: every 2^level-th where that fits.

    >>> sampled(5, 3, 1), sampled(9, 3, 1), sampled(5, 2, 1), sampled(10, 4, 1)
    (array([0, 2, 4]), array([0, 3, 6]), array([0, 2]), array([0, 2, 5, 7]))
    """
    for step in (2**level, round(full / small)):
        if small in (full // step, -(-full // step)):
            return np.arange(small) * step
    return np.arange(small) * full // small


@dataclass(frozen=True)
class Level:
    """One level: its shape `((Z,) Y, X)` and its coordinateTransformations, of those axes."""

    shape: tuple[int, ...]
    transforms: Transforms


@dataclass(frozen=True)
class Multiscale:
    """A pyramid of `((Z,) Y, X)`. `axes` are objects of NGFF; `shared` are transformations of every level.

    NGFF 0.4 lies in Zarr v2, 0.5 in Zarr v3.
    """

    version: Version
    axes: tuple[Mapping[str, str], ...]
    levels: tuple[Level, ...]
    shared: Transforms = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels[0].shape

    def from_level(self, level: int) -> "Multiscale":
        """The same image from a level of its pyramid on."""
        return replace(self, levels=self.levels[level:])

    def deepened(self) -> "Multiscale":
        """With levels of its own where the image has but one; they are twice as coarse each along Y and X."""
        if len(self.levels) > 1:
            return self
        first = self.levels[0]
        shapes = pyramid_shapes(first.shape)
        levels = (Level(shape, _coarser(first.transforms, 2**n)) for n, shape in enumerate(shapes))
        return replace(self, levels=tuple(levels))

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of the group of a label image that is called `name`."""
        datasets = [
            {"path": str(number), "coordinateTransformations": [dict(t) for t in level.transforms]}
            for number, level in enumerate(self.levels)
        ]
        stated: dict[str, Any] = {"axes": [dict(axis) for axis in self.axes], "datasets": datasets, "name": name}
        stated |= {"type": "nearest"} | (
            {"coordinateTransformations": [dict(t) for t in self.shared]} if self.shared else {}
        )
        ours = {"maskline": {"format_version": FORMAT_VERSION, "kind": "labels"}}
        if self.version == "0.4":
            return ours | {"multiscales": [{"version": "0.4", **stated}], "image-label": {"version": "0.4"}}
        return ours | {"ome": {"version": "0.5", "multiscales": [stated], "image-label": {}}}


def _coarser(transforms: Transforms, step: int) -> Transforms:
    """The transformations of a level whose pixels are `step` times as large along Y and X."""
    return tuple(
        {"type": "scale", "scale": [*t["scale"][:-2], *(value * step for value in t["scale"][-2:])]}
        if t["type"] == "scale"
        else t
        for t in transforms
    )


def plan_multiscale(shape: tuple[int, ...], geometry: Geometry) -> Multiscale:
    """The pyramid, in NGFF 0.5, of labels `((Z,) Y, X)` that come from no OME-Zarr.

    >>> plan_multiscale((1500, 20), Geometry((0.5, 0.5), "um")).levels[1].transforms
    ({'type': 'scale', 'scale': [1.0, 1.0]},)
    """
    unit = {"unit": _UNITS[geometry.unit]} if geometry.unit in _UNITS else {}
    axes = tuple({"name": name, "type": "space", **unit} for name in "zyx"[-len(shape) :])
    scale = {"type": "scale", "scale": [float(s) for s in geometry.spacing[-len(shape) :]]}
    return Multiscale("0.5", axes, (Level(shape, (scale,)),)).deepened()


def pick_transforms(stated: Any, places: Sequence[int], axes: int) -> Transforms:
    """The scales and translations among the transformations of an image of so many `axes`, of the axes at `places`."""
    return tuple(
        {"type": t["type"], t["type"]: [float(t[t["type"]][place]) for place in places]}
        for t in stated or ()
        if t.get("type") in _KINDS and len(t.get(t["type"]) or ()) == axes
    )
