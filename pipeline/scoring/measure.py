"""One row an object: where it lies, how large it is, how bright, which shape, how sure the model was.

Definitions are those of `skimage.measure.regionprops` (which is the oracle of the tests), computed for all objects at
once. Lengths are in pixels (`_px`), and in the geometry's unit as well (`_um`, `_mm`) where it has one. `y` and `x` are
array axes: `centroid_y_px` is 0 at the centre of the first row; `bbox_*_px` are half-open.

>>> from pipeline.types import Geometry, Image
>>> labels = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 5]], np.uint32)
>>> table = measure(labels, Image(np.full((1, 3, 3), 7, np.uint8), Geometry.pixels()))
>>> table[["label", "centroid_y_px", "area_px2", "intensity_sum_c0"]].values.tolist()
[[1.0, 0.5, 4.0, 28.0], [5.0, 2.0, 1.0, 7.0]]
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spans import Integers, Spans, find_spans
from pipeline.errors import MaskError
from pipeline.scoring.measure_volumes import volume_columns
from pipeline.scoring.outline import convex_areas, perimeters
from pipeline.types import Array, Geometry, Image, Labels

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]
_UNITS = ("px", "um", "mm")
_POSITIONS = ("centroid_y", "centroid_x")
_BOX = ("bbox_top_px", "bbox_left_px", "bbox_bottom_px", "bbox_right_px")
_LENGTHS = ("perimeter", "major_axis", "minor_axis", "equivalent_diameter")
_STATISTICS = ("mean", "min", "max", "sum")
_PLAIN = ("eccentricity", "orientation_rad", "solidity", "circularity", "confidence", "touches_edge")


def _columns(units: Iterable[str], channels: int) -> list[str]:
    units = list(units)
    return [
        "label",
        *(f"{name}_{unit}" for unit in units for name in _POSITIONS),
        *_BOX,
        *(f"area_{unit}2" for unit in units),
        *(f"intensity_{name}_c{channel}" for channel in range(channels) for name in _STATISTICS),
        *(f"{name}_{unit}" for unit in units for name in _LENGTHS),
        *_PLAIN,
    ]


def order_columns(names: Iterable[str]) -> list[str]:
    """The canonical order of any union of columns that `measure` gives; others go to the front, as they came.

    >>> order_columns(["area_um2", "touches_edge", "image", "area_px2", "label"])
    ['image', 'label', 'area_px2', 'area_um2', 'touches_edge']
    """
    names = list(dict.fromkeys(names))
    channels = [int(name.rpartition("_c")[2]) + 1 for name in names if name.startswith("intensity_")]
    most = max(channels, default=0)
    solid = volume_columns(most) if any(name.startswith("volume_") for name in names) else []
    place = {name: i for i, name in enumerate(dict.fromkeys([*solid, *_columns(_UNITS, most)]))}
    return sorted(names, key=lambda name: place.get(name, -1))


@dataclass(frozen=True)
class _Objects:
    """The spans of all objects, sorted by object, in raster order within each; `starts` is where each object begins."""

    labels: Integers
    spans: Spans
    starts: Integers
    code: Integers  # 0-based object of each span
    areas: Integers
    box: tuple[Integers, ...]  # top, left, bottom, right

    def sums(self, values: Array) -> Floats:
        """Sum of per-span values over each object."""
        return np.bincount(self.code, weights=values, minlength=self.labels.size).astype(np.float64)


def measure(labels: Labels, image: Image, confidence: Floats | None = None) -> "pandas.DataFrame":
    """Measure every object of `labels` `(Y, X)` on `image` `(C, Y, X)`, ordered by label.

    Parameters
    ----------
    labels : uint32 `(Y, X)`
        0 is background; ids need not be consecutive.
    image : Image
        Intensities are the file's own values, per channel (`_c0`, `_c1`, ...). Its geometry decides the units.
    confidence : float64 `(n,)`, optional
        Of each object in the order of the labels, as `pipeline.scoring.confidence` gives it; NaN without.

    Returns
    -------
    DataFrame
        One row an object, the same columns and types with none. Areas, centroids, axes and diameters in the unit heed
        anisotropic spacing; the perimeter does not exist there (NaN). The perimeter of a single pixel is 0, its
        circularity NaN. `orientation_rad` is the angle of the major axis to the y axis, in [-pi/2, pi/2].

    Raises
    ------
    MaskError
        Labels are not 2-D, or lie on another grid than the image, or have other objects than `confidence`.
    """
    import pandas as pd

    _check(labels, image)
    objects = _objects(labels)
    found: dict[str, Array] = {"label": objects.labels, **_place(objects, labels.shape)}
    found |= _size(objects, labels, image.geometry)
    for channel, statistics in enumerate(_intensities(objects, image.pixels)):
        found |= {f"intensity_{k}_c{channel}": v for k, v in statistics.items()}
    if confidence is not None and confidence.size != objects.labels.size:
        came, wanted = f"{confidence.size} confidences", f"{objects.labels.size}, as many as there are objects"
        raise MaskError("labels", came, wanted, "measure the labels that the confidences are of")
    found["confidence"] = np.full(objects.labels.size, np.nan) if confidence is None else confidence
    units = ["px"] if image.geometry.unit == "px" else ["px", image.geometry.unit]
    return pd.DataFrame({name: found[name] for name in _columns(units, image.pixels.shape[0])})


def _check(labels: Labels, image: Image) -> None:
    if labels.ndim != 2:
        raise MaskError("labels", f"{labels.ndim}-D labels", "2-D", "measure each plane by itself")
    if labels.shape != image.spatial_shape:
        wanted = f"the image's {image.spatial_shape}"
        raise MaskError("labels", f"shape {labels.shape}", wanted, "measure labels on the grid they were made on")


def _objects(labels: Labels) -> _Objects:
    spans = find_spans(labels)
    few = spans.value.max(initial=0) < 2**16  # numpy sorts 16 bits by counting
    spans = spans.take(np.argsort(spans.value.astype(np.uint16) if few else spans.value, kind="stable"))
    starts = np.flatnonzero(np.diff(spans.value.astype(np.int64), prepend=0))
    code = np.repeat(np.arange(starts.size), np.diff(starts, append=spans.value.size))
    sides = ((np.minimum, spans.row), (np.minimum, spans.start), (np.maximum, spans.row + 1), (np.maximum, spans.stop))
    box = tuple(_reduce(function, values, starts) for function, values in sides)
    areas = _reduce(np.add, spans.length, starts)
    return _Objects(spans.value[starts].astype(np.int64), spans, starts, code, areas, box)


def _reduce(function: np.ufunc, values: Array, starts: Integers, kind: type | None = None) -> Array:
    return function.reduceat(values, starts, dtype=kind) if starts.size else values[:0]


def _place(objects: _Objects, shape: tuple[int, ...]) -> dict[str, Array]:
    top, left, bottom, right = objects.box
    touches = (top == 0) | (left == 0) | (bottom == shape[0]) | (right == shape[1])
    return {**dict(zip(_BOX, objects.box, strict=True)), "touches_edge": touches}


def _intensities(objects: _Objects, planes: Array) -> Iterator[Mapping[str, Floats]]:
    """Of each channel of `(C, Y, X)`."""
    at = objects.spans.pixels(planes.shape[2])
    starts = np.cumsum(objects.areas) - objects.areas
    wide = np.int64 if planes.dtype.kind in "biu" and planes.dtype.itemsize < 8 else np.float64
    for plane in planes:
        values = plane.ravel().take(at)
        total = _reduce(np.add, values, starts, wide).astype(np.float64)
        low, high = (_reduce(f, values, starts).astype(np.float64) for f in (np.minimum, np.maximum))
        yield {"mean": total / objects.areas, "min": low, "max": high, "sum": total}


def _size(objects: _Objects, labels: Labels, geometry: Geometry) -> dict[str, Array]:
    """Everything that has a length, in pixels and in the unit, and the ratios made of them."""
    areas = objects.areas.astype(np.float64)
    perimeter = perimeters(labels, objects.labels)
    found: dict[str, Array] = {
        "solidity": areas / convex_areas(objects.spans, objects.code, areas.size),
        "circularity": np.divide(4 * np.pi * areas, perimeter**2, out=np.full_like(areas, np.nan), where=perimeter > 0),
    }
    moments = _moments(objects)
    for unit, spacing in {"px": (1.0, 1.0), geometry.unit: geometry.spacing}.items():
        step_y, step_x = (1.0, 1.0) if unit == "px" else spacing[-2:]
        isotropic = np.isclose(step_y, step_x, rtol=1e-6)
        area = areas * step_y * step_x
        found |= {f"{name}_{unit}": value for name, value in _ellipses(moments, step_y, step_x).items()}
        found[f"area_{unit}2"] = area
        found[f"equivalent_diameter_{unit}"] = np.sqrt(4 * area / np.pi)
        found[f"perimeter_{unit}"] = perimeter * step_y if isotropic else np.full_like(perimeter, np.nan)
    last = geometry.unit  # shape ratios are those of the real object, where its size is known
    return found | {name: found[f"{name}_{last}"] for name in ("eccentricity", "orientation_rad")}


def _moments(objects: _Objects) -> tuple[Floats, ...]:
    """Centroid y and x and central second moments yy, xx, xy over the area, in pixels.

    Summed in whole numbers from the middle of each object's box, so that they depend on its shape alone.
    """
    top, left, bottom, right = objects.box
    middle_y, middle_x = (top + bottom) // 2, (left + right) // 2
    spans, areas, length = objects.spans, objects.areas, objects.spans.length
    y = spans.row - middle_y[objects.code]
    low, high = (side - middle_x[objects.code] for side in (spans.start, spans.stop))
    x_sum = (low + high - 1) * length // 2
    xx_sum = ((high - 1) * high * (2 * high - 1) - (low - 1) * low * (2 * low - 1)) // 6  # of squares low .. high - 1
    from_y, from_x = objects.sums(y * length) / areas, objects.sums(x_sum) / areas
    yy, xx, xy = (objects.sums(values) / areas for values in (y * y * length, xx_sum, y * x_sum))
    central = yy - from_y**2, xx - from_x**2, xy - from_y * from_x
    return middle_y + from_y, middle_x + from_x, *central


def _ellipses(moments: tuple[Floats, ...], step_y: float, step_x: float) -> dict[str, Floats]:
    """Centroid, and the ellipse with the same second moments: axes (4 standard deviations), angle, eccentricity."""
    steps = step_y, step_x, step_y**2, step_x**2, step_y * step_x
    centre_y, centre_x, yy, xx, xy = (moment * step for moment, step in zip(moments, steps, strict=True))
    middle, spread = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    major, minor = middle + spread, np.maximum(middle - spread, 0)
    flattening = np.divide(minor, major, out=np.ones_like(major), where=major > 0)
    diagonal = np.where(xy > 0, np.pi / 4, -np.pi / 4)
    return {
        "centroid_y": centre_y,
        "centroid_x": centre_x,
        "major_axis": 4 * np.sqrt(major),
        "minor_axis": 4 * np.sqrt(minor),
        "eccentricity": np.sqrt(1 - flattening),
        "orientation_rad": np.where(yy == xx, diagonal, 0.5 * np.arctan2(2 * xy, yy - xx)),
    }
