"""One row an object of a volume: where, how large, how bright.

Lengths are in voxels (`_px`), and in the geometry's unit as well where it has one; the spacing may differ between axes.
`bbox_*_px` are half-open.

>>> labels = np.zeros((2, 2, 3), np.uint32)
>>> labels[0, :, 1:] = 4
>>> image = Image(np.full((1, 2, 2, 3), 7, np.uint8), Geometry((3.0, 1.0, 0.5), "mm"))
>>> measure_volume(labels, image)[["label", "volume_px3", "volume_mm3", "intensity_sum_c0"]].values.tolist()
[[4.0, 4.0, 6.0, 28.0]]
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from pipeline.errors import MaskError
from pipeline.types import Geometry, Image, Labels

if TYPE_CHECKING:
    import pandas

_AXES = ("z", "y", "x")
_BOX = (("front", "back"), ("top", "bottom"), ("left", "right"))
_STATISTICS = ("mean", "min", "max", "sum")
_UNITS = ("px", "um", "mm")


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
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    sure = np.full(len(numbers), np.nan)
    if confidence is not None:
        if len(confidence) != len(numbers):
            came, wanted = f"{len(confidence)} confidences", f"{len(numbers)}, as many as there are objects"
            raise MaskError("labels", came, wanted, "measure the labels that the confidences are of")
        sure[:] = confidence
    found = {"label": numbers.astype(np.int64), "confidence": sure, **_places(labels, numbers)}
    found |= _sizes(labels, numbers, image.geometry)
    for channel, values in enumerate(image.pixels):
        found |= _intensities(labels, values, numbers, channel)
    return pd.DataFrame({name: found[name] for name in volume_columns(len(image.pixels)) if name in found})


def _places(labels: Labels, numbers: Any) -> dict[str, Any]:
    dimensions = labels.ndim
    starts, stops = np.zeros((2, len(numbers), dimensions), np.int64)
    _, compact = np.unique(np.concatenate([[0], numbers, labels.ravel()]), return_inverse=True)
    order = compact[1 : len(numbers) + 1]
    boxes = ndimage.find_objects(compact[len(numbers) + 1 :].reshape(labels.shape).astype(np.int32))
    for row, number in enumerate(order):
        box = boxes[number - 1] if number <= len(boxes) else None
        if box is not None:
            starts[row], stops[row] = [side.start for side in box], [side.stop for side in box]
    return box_columns(starts, stops, labels.shape)


def box_columns(starts: Any, stops: Any, shape: Sequence[int]) -> dict[str, Any]:
    """Boxes [start, stop) `(n, axes)`, and whether they reach the image's edge; 0 and False for what is not there."""
    dimensions = starts.shape[1]
    touches = ((starts == 0) | (stops == np.asarray(shape))).any(axis=1) & (stops > 0).any(axis=1)
    names = _BOX[3 - dimensions :]
    first = {f"bbox_{sides[0]}_px": starts[:, k] for k, sides in enumerate(names)}
    return first | {f"bbox_{sides[1]}_px": stops[:, k] for k, sides in enumerate(names)} | {"touches_edge": touches}


def _sizes(labels: Labels, numbers: Any, geometry: Geometry) -> dict[str, Any]:
    dimensions = labels.ndim
    counts = ndimage.sum_labels(np.ones(labels.shape), labels, numbers)
    along = [ndimage.sum_labels(_coordinate(labels.shape, k), labels, numbers) for k in range(dimensions)]
    return size_columns(counts, np.stack(along, axis=1), geometry)


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


def _coordinate(shape: tuple[int, ...], axis: int) -> Any:
    """The coordinate along `axis` of every voxel, without holding it in memory."""
    along = np.arange(shape[axis], dtype=np.float64).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(along, shape)


def _intensities(labels: Labels, values: Any, numbers: Any, channel: int) -> dict[str, Any]:
    if not len(numbers):
        return {f"intensity_{name}_c{channel}": np.zeros(0) for name in _STATISTICS}
    found = {
        "mean": ndimage.mean(values, labels, numbers),
        "sum": ndimage.sum_labels(values, labels, numbers),
        "min": ndimage.minimum(values, labels, numbers),
        "max": ndimage.maximum(values, labels, numbers),
    }
    return {f"intensity_{name}_c{channel}": np.asarray(column, np.float64) for name, column in found.items()}
