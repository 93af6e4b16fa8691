"""Label images as spans: horizontal stretches of pixels of one object, in raster order.

A label image has some twenty times fewer spans than object pixels, so that components, areas, boxes, moments and
outlines of all objects are a few numpy calls on them. What is said of an object here depends on its own pixels alone.

>>> labels = np.array([[1, 1, 0, 2], [1, 0, 2, 2]], np.uint32)
>>> spans = find_spans(labels)
>>> [column.tolist() for column in (spans.row, spans.start, spans.stop, spans.value)]
[[0, 0, 1, 1], [0, 3, 0, 2], [2, 4, 1, 4], [1, 2, 1, 2]]
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Array

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """`(n,)` columns: pixels `start <= x < stop` of `row` have `value`. Raster order; none is empty, none is 0."""

    row: Integers
    start: Integers
    stop: Integers
    value: Array

    @property
    def length(self) -> Integers:
        return self.stop - self.start

    def take(self, which: Array) -> "Spans":
        """Those of an index or boolean array."""
        return Spans(self.row[which], self.start[which], self.stop[which], self.value[which])

    def pixels(self, width: int) -> Integers:
        """Flat indices of every pixel in an image of that width, span by span."""
        return expand(self.row * width + self.start, self.length)


def expand(first: Integers, count: Integers) -> Integers:
    """`first, first + 1, ...` of each, `count` long, one after the other.

    >>> expand(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(count) - count
    return np.repeat(first - before, count) + np.arange(int(count.sum()))


def find_spans(labels: Array) -> Spans:
    """The spans of `(Y, X)` labels or a boolean mask."""
    flat, width = labels.ravel(), labels.shape[1]
    change = np.empty(labels.shape, bool)
    np.not_equal(flat[1:], flat[:-1], out=change.ravel()[1:])
    change[:, 0] = True
    at = np.flatnonzero(change)
    value = flat.take(at)
    inside = np.flatnonzero(value)
    begin, end = at.take(inside), np.append(at, flat.size).take(inside + 1)
    row = begin // width
    start = begin - row * width
    return Spans(row, start, start + end - begin, value.take(inside))


def connect(spans: Spans) -> tuple[int, Integers]:
    """How many 4-connected components there are, and that of each span: 0, 1, ... in raster order of first pixels.

    >>> connect(find_spans(np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]], bool)))[1].tolist()
    [0, 1, 1, 1]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    size = spans.row.size
    if not size:
        return 0, np.zeros(0, np.int64)
    stride = int(spans.stop.max()) + 1
    first, last = spans.row * stride + spans.start, spans.row * stride + spans.stop
    low = np.searchsorted(last, first + stride, side="right")  # the spans below that share a column: low <= j < high
    high = np.searchsorted(first, last + stride, side="left")
    count = np.maximum(high - low, 0)
    below = expand(low, count)
    bounds = np.concatenate([[0], np.cumsum(count)])
    graph = csr_array((np.ones(below.size, np.int8), below, bounds), shape=(size, size))
    found, component = connected_components(graph, directed=False)
    return int(found), component.astype(np.int64)
