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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MaskError
from pipeline.scoring.measure_volumes import volume_columns
from pipeline.scoring.outline import convex_areas, perimeters
from pipeline.types import Array, Geometry, Image, Labels

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
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
    """The foreground pixels, sorted by object, in raster order within each; `starts` is where each object begins."""

    labels: Integers
    starts: Integers
    order: Integers  # flat indices into the image
    code: Integers  # 0-based object of each
    y: Integers
    x: Integers

    @property
    def areas(self) -> Integers:
        return np.diff(self.starts, append=self.order.size)

    def sums(self, values: Array) -> Floats:
        """Sum of per-pixel values over each object."""
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
    for channel, plane in enumerate(image.pixels):
        found |= {f"intensity_{k}_c{channel}": v for k, v in _intensities(objects, plane).items()}
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
    flat = labels.ravel()
    inside = np.flatnonzero(flat)
    order = inside[np.argsort(flat[inside], kind="stable")]
    values = flat[order]
    starts = np.flatnonzero(np.diff(values.astype(np.int64), prepend=0))
    code = np.repeat(np.arange(starts.size), np.diff(starts, append=order.size))
    y, x = np.divmod(order, labels.shape[1])
    return _Objects(values[starts].astype(np.int64), starts, order, code, y, x)


def _reduce(function: np.ufunc, values: Array, starts: Integers) -> Array:
    return function.reduceat(values, starts) if starts.size else values[:0]


def _place(objects: _Objects, shape: tuple[int, ...]) -> dict[str, Array]:
    top, left = (_reduce(np.minimum, axis, objects.starts) for axis in (objects.y, objects.x))
    bottom, right = (_reduce(np.maximum, axis, objects.starts) + 1 for axis in (objects.y, objects.x))
    touches = (top == 0) | (left == 0) | (bottom == shape[0]) | (right == shape[1])
    return {**dict(zip(_BOX, (top, left, bottom, right), strict=True)), "touches_edge": touches}


def _intensities(objects: _Objects, plane: Array) -> Mapping[str, Floats]:
    values = plane.ravel()[objects.order]
    total = objects.sums(values)
    low, high = (_reduce(f, values, objects.starts).astype(np.float64) for f in (np.minimum, np.maximum))
    return {"mean": total / objects.areas, "min": low, "max": high, "sum": total}


def _size(objects: _Objects, labels: Labels, geometry: Geometry) -> dict[str, Array]:
    """Everything that has a length, in pixels and in the unit, and the ratios made of them."""
    areas = objects.areas.astype(np.float64)
    perimeter = perimeters(labels, objects.labels)
    found: dict[str, Array] = {
        "solidity": areas / convex_areas(objects.y, objects.x, objects.code, areas.size),
        "circularity": np.divide(4 * np.pi * areas, perimeter**2, out=np.full_like(areas, np.nan), where=perimeter > 0),
    }
    for unit, spacing in {"px": (1.0, 1.0), geometry.unit: geometry.spacing}.items():
        step_y, step_x = (1.0, 1.0) if unit == "px" else spacing[-2:]
        isotropic = np.isclose(step_y, step_x, rtol=1e-6)
        area = areas * step_y * step_x
        found |= {f"{name}_{unit}": value for name, value in _moments(objects, step_y, step_x).items()}
        found[f"area_{unit}2"] = area
        found[f"equivalent_diameter_{unit}"] = np.sqrt(4 * area / np.pi)
        found[f"perimeter_{unit}"] = perimeter * step_y if isotropic else np.full_like(perimeter, np.nan)
    last = geometry.unit  # shape ratios are those of the real object, where its size is known
    return found | {name: found[f"{name}_{last}"] for name in ("eccentricity", "orientation_rad")}


def _moments(objects: _Objects, step_y: float, step_x: float) -> dict[str, Floats]:
    """Centroid, and the ellipse with the same second moments: axes (4 standard deviations), angle, eccentricity."""
    areas = objects.areas
    y, x = objects.y * step_y, objects.x * step_x
    centre_y, centre_x = objects.sums(y) / areas, objects.sums(x) / areas
    from_y, from_x = y - centre_y[objects.code], x - centre_x[objects.code]
    yy, xx, xy = (objects.sums(v) / areas for v in (from_y**2, from_x**2, from_y * from_x))
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
