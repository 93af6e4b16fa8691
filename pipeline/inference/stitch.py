"""Blocks of objects in raster order in, a label image without seams out, part by part.

A block brings the objects that begin in its core, whole; where they reach into a neighbour's core they are painted
there before that part is handed out. Numbers run on from block to block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.types import Labels, Window


@dataclass(frozen=True)
class Owned:
    """The objects of one block: `labels` `(y, x)` uint32 in `region`, 1..count, on the file's grid."""

    row: int
    column: int
    core: Window
    region: Window
    labels: Labels
    count: int


@dataclass
class Stitcher:
    """Paints blocks that come in raster order. `overlapped` counts pixels two objects claimed: the first has them."""

    cores: dict[tuple[int, int], Window]
    count: int = 0
    overlapped: int = 0
    _waiting: dict[tuple[int, int], list[tuple[int, int, Labels]]] = field(default_factory=dict)

    def add(self, owned: Owned) -> Iterator[tuple[Window, Labels]]:
        """Take the next block; yields the cores that are final now, with their labels."""
        numbered = np.where(owned.labels > 0, owned.labels + np.uint32(self.count), np.uint32(0))
        self.count += owned.count
        row, column = owned.row, owned.column
        for place in ((r, c) for r in (row, row + 1) for c in (column - 1, column, column + 1)):
            if place in self.cores:
                self._lay(place, owned.region, numbered)
        if (row, column - 1) in self.cores:
            yield self._finish((row, column - 1))
        if (row, column + 1) not in self.cores:
            yield self._finish((row, column))

    def _lay(self, place: tuple[int, int], region: Window, labels: Labels) -> None:
        """Keep what of `labels` lies in another core, cut to what is not empty."""
        core = self.cores[place]
        start = [max(a, b) for a, b in zip(core.start, region.start, strict=True)]
        stop = [min(a, b) for a, b in zip(core.stop, region.stop, strict=True)]
        if start[0] >= stop[0] or start[1] >= stop[1]:
            return
        top, left = region.start
        part = labels[start[0] - top : stop[0] - top, start[1] - left : stop[1] - left]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if rows.size:
            crop = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
            pieces = self._waiting.setdefault(place, [])
            pieces.append((int(start[0] + rows[0]), int(start[1] + columns[0]), crop))

    def _finish(self, place: tuple[int, int]) -> tuple[Window, Labels]:
        core = self.cores[place]
        answer = np.zeros(core.shape, np.uint32)
        for y, x, crop in self._waiting.pop(place, []):
            top, left = y - core.start[0], x - core.start[1]
            there = answer[top : top + crop.shape[0], left : left + crop.shape[1]]
            claimed = crop > 0
            self.overlapped += int(np.count_nonzero(claimed & (there > 0)))
            there[claimed & (there == 0)] = crop[claimed & (there == 0)]
        return core, answer
