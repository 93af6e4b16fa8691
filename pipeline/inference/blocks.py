"""Every pixel lies in the core of exactly one block, and an object belongs to the block in whose core it begins.

Integers only. Blocks are where an image larger than memory is decoded; they lie on a grid of their own, whatever tiles
the network was given, so that tiles leave no trace in the objects. A block looks `margin` px beyond its core on every
side: an object no larger than that is seen whole by the block that owns it, and by no other block as its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.inference.windows import Tile
from pipeline.types import Window


@dataclass(frozen=True)
class Sizes:
    """In px: what decides memory and the largest object that is seen whole. The network's tiles are not among it."""

    band: int = 1024  # rows of probabilities that are written together
    side: int = 2048  # of a block's core
    margin: int = 256  # around a core
    widest: int = 1024  # around a core, once an object turns out to be larger than the margin; below `side`


SIZES = Sizes()


def band_of(width: int) -> int:
    """Rows of a band for an image of this width, so that very wide ones take no more memory.

    >>> band_of(20_000), band_of(60_000)
    (1024, 512)
    """
    return 1024 if width <= 32_768 else 512


@dataclass(frozen=True)
class Block:
    """One block: its place in the grid, its core, and the image it lies in."""

    row: int
    column: int
    core: Window
    shape: tuple[int, int]

    def region(self, margin: int) -> Window:
        """The core and `margin` around it, clipped to the image."""
        start = tuple(max(0, a - margin) for a in self.core.start)
        stop = tuple(min(n, b + margin) for b, n in zip(self.core.stop, self.shape, strict=True))
        return Window(start, stop)


def plan_blocks(shape: tuple[int, int], side: int) -> Iterator[Block]:
    """The blocks of an image `(Y, X)`, in raster order.

    >>> [(b.row, b.column, b.core.start, b.core.stop) for b in plan_blocks((3, 5), 3)]
    [(0, 0, (0, 0), (3, 3)), (0, 1, (0, 3), (3, 5))]
    """
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            stop = (min(shape[0], top + side), min(shape[1], left + side))
            yield Block(top // side, left // side, Window((top, left), stop), shape)


def divide_band(band: int, side: int, stride: int) -> tuple[int, int]:
    """The core `(rows, columns)` of tiles of about `side * side` px whose rows share those of a band evenly.

    >>> divide_band(1024, 1024, 16), divide_band(1024, 768, 16), divide_band(64, 48, 16), divide_band(1024, 100, 128)
    ((1024, 1024), (512, 1152), (32, 64), (128, 128))
    """
    side = max(stride, min(side, band) // stride * stride)
    rows = -(-band // -(-band // side) // stride) * stride
    return rows, max(stride, side * side // rows // stride * stride)


def plan_band(rows: tuple[int, int], shape: tuple[int, int], core: tuple[int, int], halo: int) -> list[Tile]:
    """The tiles of one band of `rows` [first, last) of a network's grid `(Y, X)`, in raster order.

    `core` `(rows, columns)` and the band's first row are multiples of the stride; read windows are clipped to the grid,
    not to the band.
    """
    tiles = []
    for top in range(rows[0], rows[1], core[0]):
        for left in range(0, shape[1], core[1]):
            stop = (min(rows[1], top + core[0]), min(shape[1], left + core[1]))
            read_start = (max(0, top - halo), max(0, left - halo))
            read_stop = (min(shape[0], stop[0] + halo), min(shape[1], stop[1] + halo))
            tiles.append(Tile(Window(read_start, read_stop), Window((top, left), stop)))
    return tiles
