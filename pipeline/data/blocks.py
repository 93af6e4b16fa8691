"""Images as grids of blocks: what a window touches is decoded, once, and nothing else.

A block is what the file compresses as one piece: a tile, a strip, a chunk, a slice; for files that can only be decoded
whole, everything. Windows that follow each other in bands share the blocks at their edges, so the last rows of blocks
are kept, bounded in bytes (see `capacity`). Threads may read at the same time; each block is still decoded once.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ImageError
from pipeline.types import Array

OVERLAP = 256  # rows that bands of a 2-D image may share and still find every block decoded
MOST_KEPT = 512_000_000  # bytes of decoded blocks, unless a single row of blocks is larger
Quad = tuple[int, int, int, int]  # along C, Z, Y, X
OnDecode = Callable[[tuple[int, ...]], None]


@dataclass(frozen=True)
class Grid:
    """One pyramid level `(C, Z, Y, X)` cut into blocks of `block`; Z is 1 where there is none.

    `load(index)` decodes the block at `index` (C, Z, Y, X) as `(c, z, y, x)` in the stored `dtype`, alpha dropped and
    palettes expanded; it may reach beyond the image. Raises ImageError where the block is damaged or missing.
    """

    shape: Quad
    block: Quad
    dtype: np.dtype[Any]
    load: Callable[[Quad], Array]

    @property
    def is_whole(self) -> bool:
        """Whether it can only be decoded whole."""
        return all(b >= n for b, n in zip(self.block, self.shape, strict=True))

    def touched(self, start: Quad, stop: Quad) -> Iterator[Quad]:
        """The blocks that a box touches: row after row of blocks, each through all planes, so that the last stay."""
        c, z, y, x = (range(a // n, -(-b // n)) for a, b, n in zip(start, stop, self.block, strict=True))
        for row, plane, channel, column in product(y, z, c, x):
            yield channel, plane, row, column


def capacity(grid: Grid, overlap: int = OVERLAP) -> int:
    """Bytes of decoded blocks to keep so that full-width bands sharing up to `overlap` rows decode each block once.

    >>> capacity(Grid((1, 1, 1000, 500), (1, 1, 100, 100), np.dtype(np.uint8), np.zeros), 90)
    100000
    """
    full = [-(-n // b) * b for n, b in zip(grid.shape, grid.block, strict=True)]  # blocks may reach beyond the image
    rows = min(full[2], (-(-overlap // grid.block[2]) + 1) * grid.block[2])
    line = full[0] * full[3] * grid.dtype.itemsize
    one = line * grid.block[1] * grid.block[2]
    return max(one, min(MOST_KEPT, line * full[1] * rows))


class BlockCache:
    """Decoded blocks, the least lately used of them let go above `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._blocks: OrderedDict[tuple[int, ...], Future[Array]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...], decode: Callable[[], Array], keep: bool) -> Array:
        """The block of this key, decoded by whoever asks first; others wait. An error is every waiter's, kept by none.

        Without `keep`, a block that is there is used, and one that is decoded is not put there.
        """
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
            elif keep:
                mine: Future[Array] = Future()
                self._blocks[key] = mine
        if found is not None:
            return found.result()
        return self._decode(key, decode, mine) if keep else decode()

    def _decode(self, key: tuple[int, ...], decode: Callable[[], Array], mine: "Future[Array]") -> Array:
        try:
            block = decode()
        except BaseException as error:
            with self._lock:
                del self._blocks[key]
            mine.set_exception(error)
            raise
        mine.set_result(block)
        with self._lock:
            self._bytes += block.nbytes
            self._let_go()
        return block

    def _let_go(self) -> None:
        for key in list(self._blocks):
            if self._bytes <= self.capacity:
                return
            if self._blocks[key].done():
                self._bytes -= self._blocks.pop(key).result().nbytes


def read_box(
    grid: Grid, level: int, start: Quad, stop: Quad, cache: BlockCache, keep: bool, seen: OnDecode | None
) -> Array:
    """The pixels `(C, Z, Y, X)` of a box, in the stored dtype; see `Grid`."""

    def decode(index: Quad) -> Array:
        pixels = grid.load(index)
        if seen is not None:
            seen((level, *index))
        return pixels

    if grid.is_whole:  # no copy of what is one piece
        block = cache.get((level, 0, 0, 0, 0), lambda: decode((0, 0, 0, 0)), keep)
        return block[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    out = np.empty([b - a for a, b in zip(start, stop, strict=True)], grid.dtype)
    for index in grid.touched(start, stop):
        block = cache.get((level, *index), lambda index=index: decode(index), keep)  # type: ignore[misc]
        first = [i * n for i, n in zip(index, grid.block, strict=True)]
        low = [max(a, f) for a, f in zip(start, first, strict=True)]
        high = [min(b, f + n) for b, f, n in zip(stop, first, grid.block, strict=True)]
        there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        out[there] = block[tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))]
    return out


def whole(load: Callable[[], Array], shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Grid:
    """The grid of a file that can only be decoded whole; `load` gives `(C, (Z,) Y, X)` and is held to `shape`."""
    quad: Quad = (shape[0], shape[1] if len(shape) == 4 else 1, shape[-2], shape[-1])

    def decode(index: Quad) -> Array:
        pixels = load()
        if prod(pixels.shape) != prod(quad) or pixels.shape[-2:] != quad[-2:]:
            came, wanted = f"pixels of shape {pixels.shape}", f"the header's {shape}"
            raise ImageError(where, came, wanted, "export the image again")
        return pixels.reshape(quad)

    return Grid(quad, quad, dtype, decode)


class FileBytes:
    """Bytes of a file by their place, from any thread; the file is opened when first asked and closed with this."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; raises ImageError where the file ends before or cannot be read."""
        try:
            with self._lock:
                if self._file is None:
                    self._file = self.path.open("rb", buffering=0)
                    weakref.finalize(self, self._file.close)
                self._file.seek(offset)
                data = bytearray()
                while len(data) < count and (part := self._file.read(count - len(data))):
                    data += part
        except OSError as error:
            raise ImageError(
                str(self.path), str(error), "a file that can be read", "check the disk or network"
            ) from error
        if len(data) < count:
            came = f"a file that ends early (at byte {offset + len(data)})"
            raise ImageError(str(self.path), came, "a whole image", "copy or export the file again")
        return bytes(data)
