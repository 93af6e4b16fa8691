"""One row a class of a class map, from sums that its parts add up to: whole or by parts, the numbers are the same.

All that is summed are whole numbers, for images of whole numbers, so that nothing depends on what the parts were.

>>> labels = np.array([[0, 0, 2], [0, 2, 2]], np.uint32)
>>> image = Image(np.full((1, 2, 3), 7, np.uint8), Geometry.pixels())
>>> table = measure_classes(labels, image, ("none", "a", "b"))
>>> table[["class", "area_px2", "intensity_sum_c0"]].values.tolist()
[['a', 0.0, nan], ['b', 3.0, 21.0]]
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import MaskError
from pipeline.model.decode import FULL, Bytes
from pipeline.scoring.confidence import Confidence, ConfidenceSums
from pipeline.scoring.measure_volumes import box_columns, parts_of, size_columns, volume_columns
from pipeline.types import Array, Geometry, Image, Labels

if TYPE_CHECKING:
    import pandas

_FAR = np.iinfo(np.int64).max


class ClassSums:
    """What is known of `classes` classes in a map of some `dimensions`, on an image of some `channels`.

    `pixels` and `chosen` are one number a class: how many pixels it has, and the sum of the probabilities (0..255) by
    which they were given to it. Where and how bright a class is, is not summed for the first one, the background.
    """

    def __init__(self, classes: int, dimensions: int, channels: int) -> None:
        self.pixels, self.chosen = np.zeros((2, classes), np.int64)
        self._along, self._stop = np.zeros((2, classes, dimensions), np.int64)
        self._start = np.full((classes, dimensions), _FAR)
        self._total = np.zeros((classes, channels))
        self._least, self._most = np.full((classes, channels), np.inf), np.full((classes, channels), -np.inf)

    def add(self, labels: Labels, pixels: Array, at: Sequence[int], chosen: Bytes | None = None) -> None:
        """A part `((Z,) Y, X)` of the map that begins `at`, its pixels `(C, (Z,) Y, X)` and probabilities."""
        self.count(labels, chosen)
        for number in np.unique(labels):
            if number:
                self._add_class(int(number), labels == number, pixels, at)

    def count(self, labels: Labels, chosen: Bytes | None = None) -> None:
        """Pixels and probabilities alone."""
        self.pixels += np.bincount(labels.ravel(), minlength=len(self.pixels))
        if chosen is not None:
            found = np.bincount(labels.ravel(), weights=chosen.ravel(), minlength=len(self.pixels))
            self.chosen += found.astype(np.int64)

    def _add_class(self, number: int, inside: Array, pixels: Array, at: Sequence[int]) -> None:
        for axis, first in enumerate(at):
            line = inside.sum(axis=tuple(k for k in range(inside.ndim) if k != axis))
            there = np.flatnonzero(line)
            self._along[number, axis] += int(line[there] @ (there + first))
            self._start[number, axis] = min(self._start[number, axis], there[0] + first)
            self._stop[number, axis] = max(self._stop[number, axis], there[-1] + 1 + first)
        for channel, plane in enumerate(pixels):
            values = plane[inside]
            self._total[number, channel] += values.sum(dtype=np.float64)
            self._least[number, channel] = min(self._least[number, channel], values.min())
            self._most[number, channel] = max(self._most[number, channel], values.max())

    @property
    def confidence(self) -> Confidence:
        """Mean probability of the class that was chosen: over the foreground, and for each class that is there."""
        there = np.flatnonzero(self.pixels[1:]) + 1
        pixels, chosen = self.pixels[there], self.chosen[there]
        sums = ConfidenceSums(int(pixels.sum()), int(chosen.sum()), common=1, squares=1)
        return Confidence(chosen / (FULL * pixels), sums)

    def table(self, shape: Sequence[int], geometry: Geometry, names: Sequence[str], sure: Any) -> "pandas.DataFrame":
        """One row a class but the first, also of those that are not there (size 0), of a map of `shape`.

        `sure` has one number for each class that is there, None for NaN. Raises MaskError for another number of them.
        """
        import pandas as pd

        there, channels = self.pixels[1:] > 0, self._total.shape[1]
        found: dict[str, Any] = {"label": np.arange(1, len(names), dtype=np.int64)}
        found["confidence"] = np.full(len(there), np.nan)
        if sure is not None:
            if len(sure) != there.sum():
                came, wanted = f"{len(sure)} confidences", f"{there.sum()}, as many as there are classes"
                raise MaskError("labels", came, wanted, "measure the labels that the confidences are of")
            found["confidence"][there] = sure
        starts = np.where(there[:, None], self._start[1:], 0)
        found |= box_columns(starts, self._stop[1:], shape)
        found |= size_columns(self.pixels[1:].astype(np.float64), self._along[1:].astype(np.float64), geometry)
        for channel in range(channels):
            total = self._total[1:, channel]
            columns = {"min": self._least[1:, channel], "max": self._most[1:, channel], "sum": total}
            columns["mean"] = total / np.maximum(self.pixels[1:], 1)
            found |= {f"intensity_{k}_c{channel}": np.where(there, v, np.nan) for k, v in columns.items()}
        table = pd.DataFrame({name: found[name] for name in volume_columns(channels) if name in found})
        table.insert(1, "class", list(names[1:]))
        return table


def measure_classes(labels: Labels, image: Image, names: Sequence[str], confidence: Any = None) -> "pandas.DataFrame":
    """Measure every class but the background, also those that are not there (size 0): one row each, `class` its name.

    `confidence` has one number for each class that is there. Raises MaskError where labels and image, or labels and
    confidence, do not belong together.
    """
    if labels.shape != image.spatial_shape:
        wanted = f"the image's {image.spatial_shape}"
        raise MaskError("labels", f"shape {labels.shape}", wanted, "measure labels on the grid they were made on")
    sums = ClassSums(len(names), labels.ndim, len(image.pixels))
    first, others = 0, (0,) * (labels.ndim - 1)
    for part in parts_of(labels):
        sums.add(part, image.pixels[:, first : first + len(part)], (first, *others))
        first += len(part)
    return sums.table(labels.shape, image.geometry, names, confidence)
