"""Tiles of one picture: images whose edges continue each other.

Cut without overlap, tiles share no pixel, so they are not duplicates; but they show one slide, often one nucleus in two
halves, and a split that parts them is not honest. *Only upright neighbours are looked for: right beside, or below.*
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Array, Pixels

SEAM = 0.92  # correlation of the two edge profiles of a seam
MARGIN = 0.08  # by which the seam beats every other for either edge
SAME_STRENGTH, SAME_LEVEL = 0.85, 0.95  # smaller over larger, of the variation along both edges and of their means
FLAT = 0.01  # an edge that varies by less than this part of its mean says nothing
BLOCK = 1024  # edges compared with all others at a time
SMOOTH, DRIFT = 1.0, 16.0  # px, along the edge: noise below and uneven light above are taken away


class Edge(NamedTuple):
    """One side of an image: band-passed `profile` of norm 1 (all zero if flat), the strength it had, the mean."""

    profile: Pixels
    strength: float
    level: float


Edges = tuple[Edge, Edge, Edge, Edge]  # left, right, top, bottom


def edges_of(grey: Pixels) -> Edges:
    """The four edges of `(Y, X)`, in square roots of intensity, where noise is alike in dark and bright."""
    first, last = (0, min(1, grey.shape[1] - 1)), (-1, max(-2, -grey.shape[1]))
    above, below = (0, min(1, grey.shape[0] - 1)), (-1, max(-2, -grey.shape[0]))
    left, right = (_edge(grey[:, outer], grey[:, inner]) for outer, inner in (first, last))
    top, bottom = (_edge(grey[outer], grey[inner]) for outer, inner in (above, below))
    return left, right, top, bottom


def _edge(outer: Pixels, inner: Pixels) -> Edge:
    """The outermost line carried on by half a pixel, where the neighbour's line, carried on, meets it."""
    line = np.sqrt(np.clip(1.5 * outer - 0.5 * inner, 0, None))[:, None]
    smooth = cv2.GaussianBlur(line, (1, 2 * round(2 * SMOOTH) + 1), SMOOTH)
    band = (smooth - cv2.GaussianBlur(smooth, (1, 2 * round(3 * DRIFT) + 1), DRIFT))[:, 0]
    level, strength = float(line.mean()), float(np.linalg.norm(band))
    if strength <= FLAT * level * np.sqrt(len(band)):
        return Edge(np.zeros_like(band), 0.0, level)
    return Edge(band / strength, strength, level)


def find_seams(seen: Sequence[Edges]) -> Iterator[tuple[int, int, float]]:
    """Pairs `(left or upper, right or lower, correlation)` that continue each other, and no other as well."""
    for end, start in ((1, 0), (3, 2)):
        lengths: dict[int, list[int]] = defaultdict(list)
        for k, edges in enumerate(seen):
            if edges[end].strength or edges[start].strength:
                lengths[len(edges[end].profile)].append(k)
        for members in lengths.values():
            ends, starts = _Side.of([seen[k][end] for k in members]), _Side.of([seen[k][start] for k in members])
            yield from ((members[i], members[j], score) for i, j, score in _clear_winners(ends, starts))


class _Side(NamedTuple):
    """The same side of N images: profiles (N, length), strengths and levels (N,)."""

    profiles: Pixels
    strengths: Array
    levels: Array

    @classmethod
    def of(cls, edges: Sequence[Edge]) -> "_Side":
        profiles, strengths, levels = zip(*edges, strict=True)
        return cls(np.stack(profiles), np.array(strengths), np.array(levels))


def _clear_winners(ends: _Side, starts: _Side) -> Iterator[tuple[int, int, float]]:
    """Ends and starts that are each other's best by MARGIN, and correlate by more than SEAM."""
    start, score, second = _best_two(ends, starts)
    end, _, second_end = _best_two(starts, ends)
    mutual = end[start] == np.arange(len(start))
    clear = score - np.maximum(second, second_end[start]) > MARGIN
    for i in np.flatnonzero(mutual & clear & (score > SEAM)):
        yield int(i), int(start[i]), float(score[i])


def _best_two(one: _Side, other: _Side) -> tuple[NDArray[np.intp], Array, Array]:
    """For each of `one` the best of `other` (not its own), its correlation, and the second best's; a block at a time.

    Edges that differ in level or strength correlate by 0.
    """
    best, score, second = [], [], []
    for first in range(0, len(one.levels), BLOCK):
        rows = slice(first, first + BLOCK)
        found = one.profiles[rows] @ other.profiles.T
        for mine, theirs, least in (
            (one.strengths, other.strengths, SAME_STRENGTH),
            (one.levels, other.levels, SAME_LEVEL),
        ):
            found[np.minimum.outer(mine[rows], theirs) < least * np.maximum.outer(mine[rows], theirs)] = 0
        here = np.arange(len(found))
        found[here, first + here] = 0
        best.append(found.argmax(axis=1))
        score.append(found.max(axis=1))
        found[here, best[-1]] = 0
        second.append(found.max(axis=1))
    return np.concatenate(best), np.concatenate(score), np.concatenate(second)
