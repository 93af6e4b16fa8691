"""Did the borders of tiles and blocks leave a trace in the objects? Told of every image larger than memory.

Objects that were cut at a border do not cross it. So the objects that cross one of the grid's lines are counted against
what their sizes let expect wherever the grid lay: 1 is no trace, 0 is every object cut. And around a few corners of
blocks the image is segmented at once and compared with what was stitched.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.spans import Integers
from pipeline.scoring.metrics import match
from pipeline.types import Labels, Window

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 30.0  # expected crossings below which a ratio says nothing


def lines_of(starts: Iterable[int], given: int, wanted: int) -> Integers:
    """Where parts of a grid of `given` rows begin, in a file of `wanted` rows: the first row whose centre lies there.

    >>> lines_of([0, 4, 8], 10, 10).tolist(), lines_of([0, 4, 8], 10, 5).tolist(), lines_of([0, 3], 10, 30).tolist()
    ([4, 8], [2, 4], [9])
    """
    at = np.ceil(np.array([*starts], np.float64) * (wanted / given) - 0.5).astype(np.int64)
    return np.unique(at[(at > 0) & (at < wanted)])


@dataclass
class Crossings:
    """Objects that cross `lines` (of either axis) of an image `(Y, X)`, and how many were to be expected.

    Of a grid coarser than the file, a line is known to `slack` px: an object crosses it if it does even when it is
    taken to end so much earlier on either side.
    """

    lines: tuple[Integers, Integers]
    shape: tuple[int, int]
    slack: int = 0
    observed: int = 0
    expected: float = 0.0

    def add(self, objects: "pd.DataFrame") -> None:
        """Count objects by their boxes (`bbox_*_px`, half-open, in the whole image).

        An object of `h` rows that lies anywhere crosses one of `n` lines in `Y` rows with probability n (h - 1) / Y.
        """
        for axis, (low, high) in enumerate((("bbox_top_px", "bbox_bottom_px"), ("bbox_left_px", "bbox_right_px"))):
            lines = self.lines[axis]
            first = objects[low].to_numpy(np.int64) + self.slack
            last = np.maximum(first, objects[high].to_numpy(np.int64) - 1 - self.slack)
            crosses = np.searchsorted(lines, first, "right") < np.searchsorted(lines, last, "right")
            self.observed += int(np.count_nonzero(crosses))
            self.expected += float(np.minimum((last - first) * (len(lines) / self.shape[axis]), 1.0).sum())

    @property
    def ratio(self) -> float:
        """Observed over expected crossings; NaN where too few are expected to say anything."""
        return self.observed / self.expected if self.expected >= ENOUGH else float("nan")


@dataclass
class Sample:
    """A window whose stitched labels are gathered as they become final, to be compared with the window done at once."""

    window: Window
    labels: Labels = field(init=False)

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.window.shape, np.uint32)

    def add(self, window: Window, labels: Labels) -> None:
        """Take what of a final core lies in the sample."""
        start = [max(a, b) for a, b in zip(window.start, self.window.start, strict=True)]
        stop = [min(a, b) for a, b in zip(window.stop, self.window.stop, strict=True)]
        if start[0] < stop[0] and start[1] < stop[1]:
            here, there = (
                tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, origin.start, strict=True))
                for origin in (self.window, window)
            )
            self.labels[here] = labels[there]

    def agreement(self, whole: Labels) -> float:
        """AP at IoU .9 of the gathered labels against the same window segmented at once, `(y, x)`; 1 for both empty.

        Objects at the window's edge are left out: at once they are cut there.
        """
        return match(_inside(whole), _inside(self.labels)).ap(0.9)


def _inside(labels: Labels) -> Labels:
    """Labels without the objects that touch the frame."""
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    kept: Labels = np.where(np.isin(labels, edge), np.uint32(0), labels)
    return kept


def choose_windows(shape: tuple[int, int], side: int, size: int = 512, most: int = 3) -> list[Window]:
    """Windows of `size` px around corners of the grid of blocks, spread over the image; fewer where it has fewer.

    >>> [window.start for window in choose_windows((5000, 3000), 2048)]
    [(1792, 1792), (3840, 1792)]
    """
    half = size // 2
    corners = [
        (y, x)
        for y in range(side, shape[0] - half, side)
        for x in range(side, shape[1] - half, side)
        if y >= half and x >= half
    ]
    chosen = _spread(corners, most)
    return [Window((y - half, x - half), (y + half, x + half)) for y, x in chosen]


def _spread(corners: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    if len(corners) <= most:
        return list(corners)
    return [corners[round((k + 0.5) * len(corners) / most - 0.5)] for k in range(most)]
