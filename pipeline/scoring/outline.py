"""Perimeters and convex areas of all objects of a label image at once, as scikit-image defines them."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Labels

Integers = NDArray[np.int64]
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
    padded = np.pad(labels, 2)
    flat, width = padded.ravel(), padded.shape[1]
    inside = np.flatnonzero(flat)
    own = flat[inside]
    edge = np.zeros(inside.size, bool)
    for y, x in _STRAIGHT:
        edge |= flat[inside + (y * width + x)] != own
    border = np.zeros_like(flat)
    border[inside[edge]] = own[edge]
    at, own = inside[edge], own[edge]
    pattern = np.ones(at.size, np.int64)
    for weight, steps in ((2, _STRAIGHT), (10, _DIAGONAL)):
        for y, x in steps:
            pattern += weight * (border[at + (y * width + x)] == own)
    lengths = np.bincount(np.searchsorted(ids, own), weights=_LENGTHS[pattern], minlength=ids.size)
    return lengths.astype(np.float64)


def convex_areas(y: Integers, x: Integers, code: Integers, objects: int) -> NDArray[np.float64]:
    """Pixels whose centres lie in the convex hull of each object, the hull reaching to the middle of pixel edges.

    `y`, `x` and `code` (0-based object) are those of all foreground pixels, sorted by object and in raster order.

    >>> bent = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]])
    >>> convex_areas(bent[:, 0], bent[:, 1], np.zeros(5, np.int64), 1)
    array([6.])
    """
    if not objects:
        return np.zeros(0)
    new = np.flatnonzero((np.diff(code, prepend=-1) != 0) | (np.diff(y, prepend=-1) != 0))  # first pixel of each row
    row, whose = y[new], code[new]
    left, right = x[new], np.append(x[new[1:] - 1], x[-1])
    first = np.searchsorted(whose, np.arange(objects))
    owner, edges = _hull_edges(row, left, right, np.append(first, whose.size))
    return _count_rows(owner, edges, row[first], whose, first)


def _hull_edges(row: Integers, left: Integers, right: Integers, bounds: Integers) -> tuple[Integers, Integers]:
    """Edges `(E, 4)` y0, x0, y1, x1 with y0 < y1 of each object's hull, in half pixels, and the object of each."""
    tips = [(2 * row, 2 * left - 1), (2 * row, 2 * right + 1)]
    tips += [(2 * row + step, 2 * side) for step in (-1, 1) for side in (left, right)]
    points = np.stack([np.stack(tip, axis=-1) for tip in tips], axis=1).astype(np.int32)  # (rows, 6, 2)
    owners, edges = [], []
    for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
        hull = cv2.convexHull(points[start:stop].reshape(-1, 1, 2))[:, 0].astype(np.int64)
        edges.append(np.hstack([hull, np.roll(hull, -1, axis=0)]))
        owners.append(np.full(len(hull), number))
    edge, owner = np.concatenate(edges), np.concatenate(owners)
    edge = np.where((edge[:, 0] > edge[:, 2])[:, None], edge[:, [2, 3, 0, 1]], edge)
    slanted = edge[:, 0] < edge[:, 2]
    return owner[slanted], edge[slanted]


def _count_rows(
    owner: Integers, edges: Integers, top: Integers, whose: Integers, first: Integers
) -> NDArray[np.float64]:
    """Whole pixels between the edges of each row, in exact integers. Rows of an object may have gaps."""
    y0, x0, y1, x1 = edges.T
    begin, end = -(-y0 // 2), y1 // 2  # the rows that an edge crosses, inclusive
    rows = np.maximum(end - begin + 1, 0)
    edge = np.repeat(np.arange(rows.size), rows)
    y = begin[edge] + np.arange(edge.size) - np.repeat(np.cumsum(rows) - rows, rows)
    height = y1[edge] - y0[edge]
    across = x0[edge] * height + (2 * y - y0[edge]) * (x1[edge] - x0[edge])  # in half pixels x height
    bottom = np.maximum.reduceat(y, np.flatnonzero(np.diff(owner[edge], prepend=-1)))
    slots = np.cumsum(bottom - top + 1)
    slot = np.append(0, slots[:-1])[owner[edge]] + y - top[owner[edge]]
    low, high = np.full(slots[-1], np.iinfo(np.int64).max), np.full(slots[-1], np.iinfo(np.int64).min)
    np.minimum.at(low, slot, -(-across // (2 * height)))
    np.maximum.at(high, slot, across // (2 * height))
    return np.add.reduceat(high - low + 1, np.append(0, slots[:-1])).astype(np.float64)
