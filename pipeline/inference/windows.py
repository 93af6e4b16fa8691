"""Every pixel lies in exactly one core.

Integers only: no pixels, no network. Cores start on multiples of the stride; a read window is its core and a halo,
clipped to the image, so at the image's edges the network's own padding is what the whole image would see.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from pipeline.inference.cores import Frame
from pipeline.types import Window


@dataclass(frozen=True)
class Tile:
    """What is read and which part of the answer is kept, both in image coordinates."""

    read: Window
    core: Window

    @property
    def inner(self) -> tuple[slice, ...]:
        """The core's slices inside the read window."""
        return tuple(
            slice(core - start, stop - start)
            for core, stop, start in zip(self.core.start, self.core.stop, self.read.start, strict=True)
        )

    @property
    def frame(self) -> Frame:
        """Of a tile of an image: how far it reaches beyond its core, at the top, left, bottom and right."""
        (top, left), (bottom, right) = (self.core.start, self.core.stop)
        return (
            top - self.read.start[0],
            left - self.read.start[1],
            self.read.stop[0] - bottom,
            self.read.stop[1] - right,
        )


def plan_tiles(shape: tuple[int, ...], core: int, halo: int, stride: int) -> Iterator[Tile]:
    """Tiles over `shape` (each side a multiple of `stride`), in raster order.

    >>> [(t.read.start, t.read.stop, t.core.start, t.core.stop) for t in plan_tiles((48,), 32, 16, 16)]
    [((0,), (48,), (0,), (32,)), ((16,), (48,), (32,), (48,))]
    """
    core = max(stride, core // stride * stride)
    for start in product(*(range(0, side, core) for side in shape)):
        stop = tuple(min(side, a + core) for a, side in zip(start, shape, strict=True))
        read_start = tuple(max(0, a - halo) for a in start)
        read_stop = tuple(min(side, b + halo) for b, side in zip(stop, shape, strict=True))
        yield Tile(Window(read_start, read_stop), Window(start, stop))
