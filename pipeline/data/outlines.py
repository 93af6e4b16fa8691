"""Outlines along pixel edges, and back: what GeoJSON holds of an object.

Pixel (y, x) covers [x, x + 1] x [y, y + 1]. A polygon holds the pixels whose centres it holds (even-odd), so tracing
along the pixel edges and filling again gives the same pixels.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Array

Ring = list[tuple[int, int]]  # closed: the first (x, y) is also the last
Polygon = list[NDArray[np.int64]]  # rings (N, 2) of (x, y), the outer one first
Box = tuple[int, int, NDArray[np.bool_]]  # top, left, crop


def trace_all(crops: Sequence[NDArray[np.bool_]]) -> list[list[Polygon]]:
    """The polygons of `trace` for each of many crops (Y, X), as arrays; objects of one ring are traced together.

    >>> [ring.tolist() for polygon in trace_all([np.array([[True, True]])])[0] for ring in polygon]
    [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]
    """
    tops = np.cumsum([0, *(crop.shape[0] + 2 for crop in crops)])
    stack = np.zeros((int(tops[-1]), 2 + max((crop.shape[1] for crop in crops), default=0)), bool)
    for top, crop in zip(tops.tolist(), crops, strict=False):
        stack[top + 1 : top + 1 + crop.shape[0], 1 : 1 + crop.shape[1]] = crop
    y, x, crossed = _turns(stack)
    bounds = np.searchsorted(y, tops).tolist()
    odd = set(np.searchsorted(tops, crossed, side="right") - 1)
    points, follow = np.stack([x, y], axis=1), _follow(x)
    found: list[list[Polygon]] = []
    for number, crop in enumerate(crops):
        first, last = bounds[number], bounds[number + 1]
        ring = [] if number in odd or first == last else _ring_from(first, follow)
        if ring and len(ring) == last - first + 1:
            found.append([[points[ring] - (0, tops[number])]])
        else:  # in pieces, with holes, or meeting itself at a corner
            found.append([[np.array(ring) for ring in polygon] for polygon in trace(crop)])
    return found


def _turns(inside: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """The corners y, x (from that of the first pixel's end) where the outline turns, in raster order.

    And the rows of those that it passes twice, which are left out: there, two pixels meet at the corner only.
    """
    across = inside[:, 1:] != inside[:, :-1]
    turns = np.flatnonzero(across[1:] ^ across[:-1])
    twice = across[1:] & across[:-1]
    twice &= inside[1:, :-1] != inside[:-1, :-1]
    y, x = np.divmod(turns, inside.shape[1] - 1)
    return y, x, np.flatnonzero(twice) // (inside.shape[1] - 1)


def _follow(x: Array) -> list[int]:
    """For each turn, given in raster order, the second next along the outline.

    Turns of a row are joined in pairs, 0 to 1, 2 to 3, ... (`turn ^ 1`), and so are those of a column.
    """
    order = np.argsort(x.astype(np.uint16) if x.max(initial=0) < 2**16 else x, kind="stable")
    column = np.empty(x.size, np.int64)
    column[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    follow: list[int] = column[np.arange(x.size) ^ 1].tolist()
    return follow


def _ring_from(first: int, follow: list[int]) -> list[int]:
    """The closed ring of turns that begins to the right of the object's first, which is clockwise on the screen."""
    ring, at = [first, first ^ 1], follow[first]
    while at != first:
        ring += (at, at ^ 1)
        at = follow[at]
    return [*ring, first]


def trace(inside: NDArray[np.bool_]) -> list[list[Ring]]:
    """The outline of (Y, X) as polygons, one a 4-connected piece: the outer ring first, then the holes.

    Rings touch themselves nowhere: where pixels meet at a corner only, they are cut apart.

    >>> trace(np.array([[True, True]]))
    [[[(0, 0), (2, 0), (2, 1), (0, 1), (0, 0)]]]
    """
    count, pieces = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {piece: [] for piece in range(1, count)}
    for piece in range(1, count):
        for ring in _rings(pieces == piece):
            if _signed_area(ring) > 0:
                outer[piece] = ring
            else:
                holes[piece].append(ring)
    return [[outer[piece], *holes[piece]] for piece in range(1, count)]


def _edges(inside: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Directed pixel edges with the object on the right: corner (x, y) -> the corners (x, y) that follow."""
    padded = np.pad(inside, 1)
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above is outside: along the top, to the right
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for beyond, (ax, ay), (bx, by) in sides:
        rows, columns = np.nonzero(inside & ~beyond)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            follow.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    return follow


def _rings(inside: NDArray[np.bool_]) -> list[Ring]:
    """Simple closed rings of corners, outer ones clockwise on the screen (positive area), holes the other way."""
    follow = _edges(inside)
    rings = []
    while follow:
        start = next(iter(follow))
        path, came = [start], (0, 0)
        while True:
            here = path[-1]
            there = _take(follow, here, came)
            came = (there[0] - here[0], there[1] - here[1])
            if there == start and start not in follow:
                break
            path.append(there)
        rings += _cut(_corners(path))
    return rings


def _take(
    follow: dict[tuple[int, int], list[tuple[int, int]]], here: tuple[int, int], came: tuple[int, int]
) -> tuple[int, int]:
    """The next corner; where two ways part, the right turn, which stays with the same pixel."""
    ways = follow[here]
    right = (here[0] - came[1], here[1] + came[0])
    there = right if right in ways else ways[0]
    ways.remove(there)
    if not ways:
        del follow[here]
    return there


def _corners(path: Ring) -> Ring:
    """The path without the points on straight lines; not closed."""
    before, after = path[-1:] + path[:-1], path[1:] + path[:1]
    return [p for a, p, b in zip(before, path, after, strict=True) if (a[0] == p[0]) != (p[0] == b[0])]


def _cut(path: Ring) -> list[Ring]:
    """Cut a path at the corners that it passes twice; close each ring."""
    rings: list[Ring] = []
    stack: dict[tuple[int, int], None] = {}  # in order of their coming
    for corner in path:
        if corner in stack:
            loop = [corner]
            while (last := stack.popitem()[0]) != corner:
                loop.append(last)
            rings.append([corner, *loop[:0:-1], corner])
        stack[corner] = None
    ring = list(stack)
    rings.append([*ring, ring[0]])
    return rings


def _signed_area(ring: Ring) -> int:
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairwise(ring))


def fill(polygon: Sequence[Array], shape: tuple[int, int]) -> Box:
    """The pixels of (Y, X) whose centres lie inside the rings (N, 2) of (x, y), even-odd, as a crop.

    >>> top, left, crop = fill([np.array([[1, 1], [3, 1], [3, 2], [1, 2]])], (4, 4))
    >>> top, left, crop.tolist()
    (1, 1, [[True, True]])
    """
    points = np.concatenate(polygon)
    low = np.clip(np.floor(points.min(axis=0)), 0, shape[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)), 0, shape[::-1]).astype(int)
    (left, top), (width, height) = low.tolist(), (high - low).tolist()
    if not (width and height):
        return top, left, np.zeros((0, 0), bool)
    toggles = np.zeros((height, width + 1), np.int32)
    for ring in polygon:
        for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if ay != by:
                rows = np.arange(*_rows(ay, by, top, height))
                crossings = ax + (rows + top + 0.5 - ay) * (bx - ax) / (by - ay)
                columns = np.clip(np.ceil(crossings - 0.5) - left, 0, width).astype(int)
                toggles[rows, columns] += 1
    return top, left, (np.cumsum(toggles[:, :width], axis=1) & 1).astype(bool)


def _rows(ay: float, by: float, top: int, height: int) -> tuple[int, int]:
    """The rows of the box whose centres lie in [lower, upper) of an edge."""
    lower, upper = min(ay, by), max(ay, by)
    first, last = int(np.ceil(lower - 0.5)) - top, int(np.ceil(upper - 0.5)) - top
    return max(first, 0), max(min(last, height), 0)
