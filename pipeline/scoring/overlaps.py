"""The overlap table of two label images: how many pixels each pair of objects shares, and how many each object has.

Invariant: the tables of windows that share no pixel and leave none out add up to the table of the whole image, number
by number, so that what is told from it does not depend on how the images were read:

>>> truth = np.array([[1, 1, 0, 9], [1, 1, 0, 9]])
>>> predicted = np.array([[7, 7, 0, 0], [7, 7, 0, 3]])
>>> sums = OverlapSums()
>>> for column in range(4):
...     sums.add(count_overlaps(truth[:, column], predicted[:, column]))
>>> table = sums.total()
>>> table.true_ids, table.true_areas, table.predicted_ids, table.row, table.column, table.pixels
(array([1, 9]), array([4, 2]), array([3, 7]), array([0, 1]), array([1, 0]), array([4, 1]))
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MaskError

_DENSE = 4  # a dense overlap table may have this many cells a pixel, beyond that pairs are sorted
_WAITING = 1 << 18  # cells and objects of windows that are kept before they are added up

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Overlaps:
    """Sparse: `row`, `column` and `pixels` are the non-empty cells, by row, then column; 0-based objects.

    `true_ids` and `predicted_ids` are the labels of the objects, ascending, the areas their pixels.
    """

    true_ids: Integers
    true_areas: Integers
    predicted_ids: Integers
    predicted_areas: Integers
    row: Integers
    column: Integers
    pixels: Integers

    @property
    def size(self) -> int:
        """How many objects and cells it holds."""
        return self.true_ids.size + self.predicted_ids.size + self.pixels.size


def count_overlaps(truth: NDArray[Any], predicted: NDArray[Any]) -> Overlaps:
    """The table of two label images `((Z,) Y, X)` of integers; 0 is background, ids need not be consecutive.

    Raises MaskError where shapes differ or labels are no integers of 0 and above.
    """
    flat, other = _labels(truth, "truth"), _labels(predicted, "prediction")
    if truth.shape != predicted.shape:
        hint = "score the labels of this very image, at its own size"
        raise MaskError("prediction", f"shape {predicted.shape}", f"the truth's {truth.shape}", hint)
    rows, true_ids, true_areas = _consecutive(flat)
    columns, predicted_ids, predicted_areas = _consecutive(other)
    width = predicted_areas.size + 1
    cells = (true_areas.size + 1) * width
    paired = rows * width + columns
    if cells <= max(_DENSE * flat.size, 1 << 16):
        counts = np.bincount(paired, minlength=cells)
        keys = np.flatnonzero(counts)
        pixels = counts[keys]
    else:
        keys, pixels = np.unique(paired[(rows > 0) & (columns > 0)], return_counts=True)
    row, column = np.divmod(keys, width)
    both = (row > 0) & (column > 0)
    return Overlaps(
        true_ids, true_areas, predicted_ids, predicted_areas, row[both] - 1, column[both] - 1, _int64(pixels[both])
    )


def _int64(values: NDArray[Any]) -> Integers:
    return values.astype(np.int64)


def _labels(labels: NDArray[Any], which: str) -> NDArray[Any]:
    hint = "give a label image: 0 is background, every object has one id"
    if labels.dtype.kind not in "iub":
        raise MaskError(which, f"{labels.dtype} labels", "integers", hint)
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise MaskError(which, f"label {labels.min()}", "0 and above", hint)
    return labels.ravel()


def _consecutive(labels: NDArray[Any]) -> tuple[Integers, Integers, Integers]:
    """Numbers 0..n (0 stays background) for each pixel, ids and areas of 1..n; ids that do not occur are dropped."""
    highest = int(labels.max()) if labels.size else 0
    if highest > max(labels.size, 1 << 16):  # a table of all ids would dwarf the image
        kept, codes = np.unique(labels, return_inverse=True)
        codes = _int64(codes) + (0 if kept[0] == 0 else 1)
        return codes, _int64(kept[kept > 0]), _int64(np.bincount(codes)[1:])
    codes = _int64(labels)
    areas = np.bincount(codes, minlength=1)
    there = areas > 0
    there[0] = False
    ids = np.flatnonzero(there)
    if not there[1:].all():
        codes = np.where(there, np.cumsum(there), 0)[codes]
    return codes, _int64(ids), _int64(areas[ids])


class OverlapSums:
    """Adds up the tables of windows; holds the objects and cells seen so far, and a few windows' that wait."""

    def __init__(self) -> None:
        self._parts: list[Overlaps] = []

    def add(self, part: Overlaps) -> None:
        """Add the table of a window that shares no pixel with those before."""
        self._parts.append(part)
        if sum(waiting.size for waiting in self._parts[1:]) > max(_WAITING, self._parts[0].size):
            self._parts = [_add_up(self._parts)]

    def total(self) -> Overlaps:
        """The table of all windows together."""
        return _add_up(self._parts)


def _add_up(parts: Sequence[Overlaps]) -> Overlaps:
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in (_NOTHING, *parts)]) for f in fields(Overlaps)}
    true_ids, true_areas = _summed(joined["true_ids"], joined["true_areas"])
    predicted_ids, predicted_areas = _summed(joined["predicted_ids"], joined["predicted_areas"])
    rows = np.concatenate([_NONE, *(np.searchsorted(true_ids, part.true_ids)[part.row] for part in parts)])
    columns = (np.searchsorted(predicted_ids, part.predicted_ids)[part.column] for part in parts)
    width = max(1, predicted_ids.size)
    keys, pixels = _summed(rows * width + np.concatenate([_NONE, *columns]), joined["pixels"])
    row, column = np.divmod(keys, width)
    return Overlaps(true_ids, true_areas, predicted_ids, predicted_areas, row, column, pixels)


def _summed(keys: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Keys once each, ascending, with the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts[order], first) if first.size else counts


_NONE: Integers = np.zeros(0, np.int64)
_NOTHING = Overlaps(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
