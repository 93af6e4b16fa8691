"""Perimeters and convex areas of all objects of a label image at once, as scikit-image defines them."""

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spans import Integers, Spans, expand
from pipeline.types import Labels

_STRAIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _step_lengths() -> NDArray[np.float64]:
    """Length of border that a border pixel stands for, by 1 + 2 x straight + 10 x diagonal neighbours on the border."""
    lengths = np.zeros(50)
    lengths[[5, 7, 15, 17, 25, 27]] = 1
    lengths[[21, 33]] = np.sqrt(2)
    lengths[[13, 23]] = (1 + np.sqrt(2)) / 2
    return lengths


_LENGTHS = _step_lengths()


def perimeters(labels: Labels, ids: Integers) -> NDArray[np.float64]:
    """Perimeter in pixels of each of the sorted `ids` in `labels` `(Y, X)`: Benkrid and Crookes (2000), 4-neighbours.

    >>> square = np.zeros((5, 5), np.uint32)
    >>> square[1:4, 1:4] = 6
    >>> perimeters(square, np.array([6]))
    array([8.])
    """
    width = labels.shape[1]
    inside = np.flatnonzero(_edges(labels))
    own = labels.ravel().take(inside)
    at = inside + 2 * (inside // width) + width + 3  # in an image with a frame of one pixel
    width += 2
    flat = np.zeros((labels.shape[0] + 2) * width, labels.dtype)
    flat[at] = own
    pattern = np.ones(at.size, np.uint8)
    for weight, steps in ((2, _STRAIGHT), (10, _DIAGONAL)):
        for y, x in steps:
            pattern += (flat.take(at + (y * width + x)) == own) * np.uint8(weight)
    largest = int(ids[-1]) if ids.size else 0
    if largest > 2 * labels.size:
        code = np.searchsorted(ids, own)
    else:
        place = np.zeros(largest + 1, np.int64)
        place[ids] = np.arange(ids.size)
        code = place[own]
    return np.bincount(code, weights=_LENGTHS[pattern], minlength=ids.size).astype(np.float64)


def _edges(labels: Labels) -> NDArray[np.bool_]:
    """The object pixels one of whose four neighbours has another label; what lies beyond the image is another."""
    flat, width = labels.ravel(), labels.shape[1]
    edge = np.zeros(labels.shape, bool)
    around = edge.ravel()
    for step in (1, width):
        differs = flat[step:] != flat[:-step]
        around[step:] |= differs
        around[:-step] |= differs
    edge[[0, -1]] = True
    edge[:, [0, -1]] = True
    around &= flat != 0
    return edge


def convex_areas(spans: Spans, code: Integers, objects: int) -> NDArray[np.float64]:
    """Pixels whose centres lie in the convex hull of each object, the hull reaching to the middle of pixel edges.

    `spans` are sorted by their 0-based object `code`, in raster order within each.

    >>> from pipeline.data.spans import find_spans
    >>> bent = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], bool)
    >>> convex_areas(find_spans(bent), np.zeros(3, np.int64), 1)
    array([6.])
    """
    if not objects:
        return np.zeros(0)
    new = (np.diff(code, prepend=-1) != 0) | (np.diff(spans.row, prepend=-1) != 0)
    first = np.flatnonzero(new)
    row, whose = spans.row[first], code[first]
    left, right = spans.start[first], spans.stop[np.append(first[1:], new.size) - 1] - 1
    both = np.concatenate([row, row]), np.concatenate([left, -right]), np.concatenate([whose, whose + objects])
    sums, rows = _sum_first_columns(*_corners(*both))  # a mirrored hull's first columns are its last ones, negated
    return (rows[:objects] - sums[:objects] - sums[objects:]).astype(np.float64)


def _corners(row: Integers, left: Integers, owner: Integers) -> tuple[Integers, Integers, Integers]:
    """Those of the leftmost pixels of each row that are corners of their owner's convex hull, on its left side.

    A pixel on or right of the line between two others of the same object is no corner. All that are so between their
    neighbours go at once, until none is.
    """
    alive = np.ones(row.size, bool)
    at = np.arange(row.size)
    while at.size > 2:
        y, x, own = row[at], left[at], owner[at]
        across = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) - (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        gone = np.flatnonzero((across >= 0) & (own[:-2] == own[2:])) + 1
        alive[at[gone]] = False
        changed = np.zeros(int(own[-1]) + 1, bool)
        changed[own[gone]] = True
        at = at[changed[own] & alive[at]]
    return row[alive], left[alive], owner[alive]


def _sum_first_columns(row: Integers, left: Integers, owner: Integers) -> tuple[Integers, Integers]:
    """The sum of the first columns inside each hull, and its number of rows, in exact integers.

    The hull is that of the pixel centres, widened by half a pixel up, down, left and right: its left side at a row is
    the leftmost of half a pixel left of the centres' hull there, and of that hull half a row above and below.
    """
    begin = np.flatnonzero(np.diff(owner, prepend=-1))
    end = np.append(begin[1:], owner.size) - 1
    rows = row[end] - row[begin] + 1
    slot = np.cumsum(rows) - rows
    edge = np.flatnonzero(owner[1:] == owner[:-1])
    step = row[edge + 1] - row[edge]
    x, height, slope = (np.repeat(v, step) for v in (left[edge], step, left[edge + 1] - left[edge]))
    below = expand(np.ones_like(step), step)  # rows from the edge's upper end: 1, 2, ..., height
    top = np.zeros(int(rows.sum()), bool)
    top[slot] = True
    first, between = np.empty(top.size, np.int64), np.full(top.size, np.iinfo(np.int64).max)
    first[top] = left[begin]
    first[~top] = -((height - 2 * (x * height + below * slope)) // (2 * height))
    between[~top] = -((-2 * x * height - (2 * below - 1) * slope) // (2 * height))  # half a row above
    np.minimum(first, between, out=first)
    np.minimum(first[:-1], between[1:], out=first[:-1])
    return np.add.reduceat(first, slot), rows
