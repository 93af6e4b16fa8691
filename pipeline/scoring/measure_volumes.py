"""One row an object of a volume: where, how large, how bright.

Lengths are in voxels (`_px`), and in the geometry's unit as well where it has one; the spacing may differ between axes.
`bbox_*_px` are half-open.

>>> labels = np.zeros((2, 2, 3), np.uint32)
>>> labels[0, :, 1:] = 4
>>> image = Image(np.full((1, 2, 2, 3), 7, np.uint8), Geometry((3.0, 1.0, 0.5), "mm"))
>>> measure_volume(labels, image)[["label", "volume_px3", "volume_mm3", "intensity_sum_c0"]].values.tolist()
[[4.0, 4.0, 6.0, 28.0]]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import MaskError
from pipeline.types import Array, Geometry, Image, Labels

if TYPE_CHECKING:
    import pandas

_AXES = ("z", "y", "x")
_BOX = (("front", "back"), ("top", "bottom"), ("left", "right"))
_STATISTICS = ("mean", "min", "max", "sum")
_UNITS = ("px", "um", "mm")
_AT_ONCE = 2_000_000  # voxels that are looked at together


def volume_columns(channels: int, units: Sequence[str] = _UNITS) -> list[str]:
    """Every column that there may be, in order."""
    return [
        *("label", "class"),
        *(f"centroid_{axis}_{unit}" for unit in units for axis in _AXES),
        *(f"bbox_{sides[end]}_px" for end in (0, 1) for sides in _BOX),
        *(f"volume_{unit}3" for unit in units),
        *(f"area_{unit}2" for unit in units),
        *(f"intensity_{name}_c{channel}" for channel in range(channels) for name in _STATISTICS),
        *(f"equivalent_diameter_{unit}" for unit in units),
        *("confidence", "touches_edge"),
    ]


def measure_volume(labels: Labels, image: Image, confidence: Any = None) -> "pandas.DataFrame":
    """Measure every object of `labels` `((Z,) Y, X)` on `image` `(C, (Z,) Y, X)`, ordered by label.

    Sizes are `volume_*3` in volumes and `area_*2` in images. `confidence` has one number an object, NaN without. Raises
    MaskError where labels and image, or labels and confidence, do not belong together.
    """
    import pandas as pd

    if labels.shape != image.spatial_shape:
        wanted = f"the image's {image.spatial_shape}"
        raise MaskError("labels", f"shape {labels.shape}", wanted, "measure labels on the grid they were made on")
    numbers = np.unique(np.concatenate([np.unique(part) for part in parts_of(labels)] or [np.zeros(0, labels.dtype)]))
    numbers = numbers[numbers > 0]
    sums = _add_up(labels, image.pixels, numbers)
    sure = np.full(len(numbers), np.nan)
    if confidence is not None:
        if len(confidence) != len(numbers):
            came, wanted = f"{len(confidence)} confidences", f"{len(numbers)}, as many as there are objects"
            raise MaskError("labels", came, wanted, "measure the labels that the confidences are of")
        sure[:] = confidence
    found = {"label": numbers.astype(np.int64), "confidence": sure}
    found |= box_columns(sums.start, sums.stop, labels.shape)
    found |= size_columns(sums.count.astype(np.float64), sums.places, image.geometry)
    for channel in range(len(image.pixels)):
        found |= _intensities(sums, channel)
    return pd.DataFrame({name: found[name] for name in volume_columns(len(image.pixels)) if name in found})


@dataclass(frozen=True)
class _Sums:
    """What is known of each object, `(n,)`, of each axis as well, `(n, axes)`, or of each channel, `(channels, n)`."""

    count: Array
    places: Array  # sums of coordinates
    start: Array
    stop: Array
    total: Array
    least: Array
    most: Array


def parts_of(labels: Labels) -> Iterator[Labels]:
    """Planes (rows of an image) that follow each other, about two million pixels at once."""
    step = max(1, _AT_ONCE // max(1, labels[:1].size))
    for first in range(0, len(labels), step):
        yield labels[first : first + step]


def _add_up(labels: Labels, pixels: Array, numbers: Any) -> _Sums:
    """In one pass, part by part; sums are taken in raster order, so that parts leave no trace in their last digit."""
    size, axes, channels = len(numbers) + 1, labels.ndim, len(pixels)  # place 0 is for what is not asked for
    count, places = np.zeros(size, np.int64), np.zeros((axes, size))
    start, stop = np.tile(np.array(labels.shape)[:, None], size), np.zeros((axes, size), np.int64)
    total = np.zeros((channels, size))
    ends = pixels.max(initial=0), pixels.min(initial=0)
    least, most = (np.full((channels, size), end, pixels.dtype) for end in ends)
    first = 0
    for part in parts_of(labels):
        inside = np.flatnonzero(part)
        own = _index(part.ravel()[inside], numbers)
        count += np.bincount(own, minlength=size)
        for axis, along in enumerate(np.unravel_index(inside, part.shape)):
            place = along + first if axis == 0 else along
            places[axis] += np.bincount(own, weights=place, minlength=size)
            np.minimum.at(start[axis], own, place)
            np.maximum.at(stop[axis], own, place + 1)
        both = np.concatenate([np.arange(size), own])  # sums go on from what they were
        for channel, plane in enumerate(pixels[:, first : first + len(part)]):
            values = plane.ravel()[inside]
            total[channel] = np.bincount(both, weights=np.concatenate([total[channel], values]))
            np.minimum.at(least[channel], own, values)
            np.maximum.at(most[channel], own, values)
        first += len(part)
    sums = (count, places.T, start.T, stop.T)
    return _Sums(*(found[1:] for found in sums), *(found[:, 1:] for found in (total, least, most)))


def _index(values: Array, numbers: Any) -> Array:
    """The place of each value in the sorted `numbers`, from 1; 0 where it is none of them."""
    if not len(numbers):
        return np.zeros(len(values), np.int64)
    largest = int(numbers[-1])
    if largest > 1 << 24:
        place = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
        return np.where(numbers[place] == values, place + 1, 0)
    table = np.zeros(largest + 2, np.int64)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return np.asarray(table[np.minimum(values, largest + 1)])


def box_columns(starts: Any, stops: Any, shape: Sequence[int]) -> dict[str, Any]:
    """Boxes [start, stop) `(n, axes)`, and whether they reach the image's edge; 0 and False for what is not there."""
    touches = ((starts == 0) | (stops == np.asarray(shape))).any(axis=1) & (stops > 0).any(axis=1)
    names = _BOX[3 - len(shape) :]
    first = {f"bbox_{sides[0]}_px": starts[:, k] for k, sides in enumerate(names)}
    return first | {f"bbox_{sides[1]}_px": stops[:, k] for k, sides in enumerate(names)} | {"touches_edge": touches}


def size_columns(counts: Any, along: Any, geometry: Geometry) -> dict[str, Any]:
    """Sizes, diameters and centroids from numbers `(n,)` of pixels and sums `(n, axes)` of their coordinates."""
    dimensions, centres = along.shape[1], along
    centres = np.divide(centres, counts[:, None], out=np.full_like(centres, np.nan), where=counts[:, None] > 0)
    size = "volume" if dimensions == 3 else "area"
    found: dict[str, Any] = {}
    for unit, spacing in {"px": (1.0,) * dimensions, geometry.unit: geometry.spacing[-dimensions:]}.items():
        steps = (1.0,) * dimensions if unit == "px" else spacing
        real = counts * float(np.prod(steps))
        found[f"{size}_{unit}{dimensions}"] = real
        diameter = np.cbrt(6 * real / np.pi) if dimensions == 3 else np.sqrt(4 * real / np.pi)
        found[f"equivalent_diameter_{unit}"] = diameter
        for k, axis in enumerate(_AXES[3 - dimensions :]):
            found[f"centroid_{axis}_{unit}"] = centres[:, k] * steps[k]
    return found


def _intensities(sums: _Sums, channel: int) -> dict[str, Any]:
    columns = [sums.total[channel] / sums.count, sums.least[channel], sums.most[channel], sums.total[channel]]
    named = zip(_STATISTICS, columns, strict=True)
    return {f"intensity_{name}_c{channel}": column.astype(np.float64) for name, column in named}
