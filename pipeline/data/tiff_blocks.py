"""The strips and tiles of a TIFF as blocks: checked against the file before any is decoded, decoded one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pipeline.data.blocks import FileBytes, Grid, Quad
from pipeline.data.sources import BROKEN, Missing, check_claim
from pipeline.errors import ImageError
from pipeline.types import Array

HINT = "copy or export the file again"
STRIP = 4 << 20  # bytes of rows that uncompressed pixels are read in
NAMED = 5  # of the tiles that are not there
_JPEG = (6, 7, 34892, 33007)


@dataclass(frozen=True)
class Look:
    """What is done to stored samples: alpha dropped (`colours` are kept), a palette expanded, white turned round."""

    colours: int
    palette: Array | None
    inverted: int  # bits of a sample where white is 0, else 0

    def apply(self, pixels: Array) -> Array:
        """(S, Y, X) as stored to (C, Y, X)."""
        if self.palette is not None:
            return np.asarray(self.palette[:, pixels[0]] >> 8).astype(np.uint8)
        pixels = pixels[: self.colours]
        if not self.inverted:
            return pixels
        if pixels.dtype.kind == "b":
            return ~pixels
        return (2**self.inverted - 1 - pixels).astype(pixels.dtype) if pixels.dtype.kind == "u" else pixels


@dataclass(frozen=True)
class Layout:
    """How one level keeps its planes. `offsets` and `counts` are (plane, segment); `planes` are numbered (C, Z)."""

    path: Path
    page: Any
    planes: NDArray[np.intp]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    look: Look

    @property
    def separate(self) -> int:
        """How many planes of samples each page keeps one after the other; 1 where samples lie side by side."""
        return int(self.page.shaped[0])

    @property
    def shape(self) -> Quad:
        channels, stack = self.planes.shape
        return channels * self.look.colours, stack, int(self.page.imagelength), int(self.page.imagewidth)

    @property
    def chunk(self) -> tuple[int, int]:
        """Rows and columns of a tile or strip."""
        if self.page.is_tiled:
            return int(self.page.tilelength), int(self.page.tilewidth)
        return min(int(self.page.rowsperstrip), int(self.page.imagelength)), int(self.page.imagewidth)

    @property
    def across(self) -> int:
        return ceil(int(self.page.imagewidth) / self.chunk[1])

    @property
    def segments(self) -> int:
        """Tiles or strips that each page must have."""
        return self.separate * ceil(int(self.page.imagelength) / self.chunk[0]) * self.across


def lay_out(path: Path, series: Any, planes: NDArray[np.intp], look: Look) -> Layout:
    """Where the segments of the planes asked for lie; raises ImageError where pages or segments are missing."""
    page = series.keyframe
    if page.shaped[1] != 1:
        raise ImageError(str(path), "a TIFF with 3-D tiles", "planes", "save the stack as one page a slice")
    tables = _raw(series, planes) or [(p.dataoffsets, p.databytecounts) for p in _pages(path, series, planes)]
    if any(len(offsets) != len(counts) or not len(offsets) for offsets, counts in tables):
        raise ImageError(str(path), f"a TIFF that ends early ({path.stat().st_size} bytes)", "a whole image", HINT)
    if len({len(offsets) for offsets, _ in tables}) != 1:
        raise ImageError(str(path), "pages cut into different tiles", "pages that are alike", HINT)
    offsets, counts = (np.array([table[i] for table in tables], np.int64) for i in (0, 1))
    return Layout(path, page, np.arange(planes.size).reshape(planes.shape), offsets, counts, look)


def _pages(path: Path, series: Any, planes: NDArray[np.intp]) -> list[Any]:
    pages = [series.pages[int(number)] for number in planes.ravel()]
    if any(page is None for page in pages):
        hint = "copy or export the file again; an image spread over several files must become one OME-TIFF"
        raise ImageError(str(path), "a page that is missing", "every page", hint)
    return pages


def _raw(series: Any, planes: NDArray[np.intp]) -> list[tuple[list[int], list[int]]]:
    """The planes of a series that is one run of plain numbers, where only the first page may be described."""
    page = series.keyframe
    start = series.dataoffset if page.is_contiguous and not page.is_tiled else None
    if start is None:
        return []
    size = int(page.nbytes)
    return [([int(start) + int(number) * size], [size]) for number in planes.ravel()]


def check_layout(layout: Layout) -> Missing:
    """Raise ImageError where a segment is missing or lies beyond the end of the file; answers those that may be."""
    path, page = layout.path, layout.page
    size = path.stat().st_size
    offsets, counts = layout.offsets, layout.counts
    if (offsets < 0).any() or (counts < 0).any() or (offsets + counts > size)[counts > 0].any():
        raise ImageError(str(path), f"a TIFF that ends early ({size} bytes)", "a whole image", HINT)
    kind = "tile" if page.is_tiled else "strip"
    if is_raw(layout):
        return Missing()
    if offsets.shape[1] != layout.segments:
        claimed = f"{page.imagelength} x {page.imagewidth} pixels ({page.imagelength * page.imagewidth / 1e6:,.1f} Mpx)"
        came = f"a header of {claimed} in {layout.segments:,} {kind}s, and places of {offsets.shape[1]:,}"
        raise ImageError(str(path), came, "a place for each", HINT)
    empty = (counts == 0) & (offsets == 0)
    for plane, number in np.argwhere(((counts == 0) | (offsets == 0)) & ~empty)[:1]:
        came = f"{kind} {number} of page {plane}, which has a place but no bytes"
        raise ImageError(str(path), came, f"every {kind}, or none at offset 0 where it is background", HINT)
    rows, columns = layout.chunk
    claimed = int((~empty).sum()) * min(rows, page.imagelength) * min(columns, page.imagewidth) * page.dtype.itemsize
    check_claim(str(path), claimed, int(counts.sum()))
    return _left_out(layout, kind, np.argwhere(empty), empty.size)


def _left_out(layout: Layout, kind: str, empty: Array, total: int) -> Missing:
    if not len(empty):
        return Missing(0, total)
    named = ", ".join(str(number) for _, number in empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
    value = layout.page.nodata
    note = f"{len(empty):,} of {total:,} {kind}s are not in the file, read as background {value}: {kind} {named}"
    return Missing(len(empty), total, note)


def is_raw(layout: Layout) -> bool:
    """Whether each page is one run of plain numbers, of which any rows can be read."""
    page = layout.page
    if not page.is_contiguous or page.is_tiled:
        return False
    runs = all((o[:-1] + c[:-1] == o[1:]).all() for o, c in zip(layout.offsets, layout.counts, strict=True))
    return runs and bool((layout.counts.sum(axis=1) >= page.nbytes).all() and (layout.offsets[:, 0] > 0).all())


def level_grid(layout: Layout, file: FileBytes) -> Grid:
    """The blocks of one level; must be called while tifffile has the file open, for it reads what decoding needs."""
    channels = layout.look.colours if layout.separate == 1 else 1
    stored = np.dtype(np.uint8) if layout.look.palette is not None else np.dtype(layout.page.dtype)
    if is_raw(layout):
        row = layout.page.nbytes // max(1, layout.page.imagelength * layout.separate)
        rows = min(int(layout.page.imagelength), max(1, STRIP // max(1, row)))
        return Grid(layout.shape, (channels, 1, rows, layout.shape[3]), stored, _raw_loader(layout, file, rows))
    return Grid(layout.shape, (channels, 1, *layout.chunk), stored, _segment_loader(layout, file))


def _place(layout: Layout, index: Quad) -> tuple[int, int]:
    """The page and the plane of samples in it that a block belongs to."""
    if layout.separate == 1:
        return int(layout.planes[index[0], index[1]]), 0
    outer, sample = divmod(index[0], layout.look.colours)
    return int(layout.planes[outer, index[1]]), sample


def _raw_loader(layout: Layout, file: FileBytes, rows: int) -> Callable[[Quad], Array]:
    page, look = layout.page, layout.look
    height, width, samples = int(page.imagelength), int(page.imagewidth), int(page.shaped[4])
    dtype = np.dtype(page.parent.byteorder + page.dtype.char)
    line = width * samples * dtype.itemsize

    def load(index: Quad) -> Array:
        plane, sample = _place(layout, index)
        first = index[2] * rows
        count = min(rows, height - first)
        data = file.read(int(layout.offsets[plane, 0]) + (sample * height + first) * line, count * line)
        pixels = np.frombuffer(data, dtype).reshape(count, width, samples)
        pixels = pixels.astype(dtype.newbyteorder("="), copy=False)
        return look.apply(pixels.transpose(2, 0, 1))[:, None]

    return load


def _segment_loader(layout: Layout, file: FileBytes) -> Callable[[Quad], Array]:
    page, look, down = layout.page, layout.look, layout.segments // layout.separate // layout.across
    decode = page.decode
    jpeg = page.compression in _JPEG
    extra = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if jpeg else {}
    where, nodata = str(layout.path), page.nodata
    kind = "tile" if page.is_tiled else "strip"

    def load(index: Quad) -> Array:
        plane, sample = _place(layout, index)
        number = (sample * down + index[2]) * layout.across + index[3]
        offset, count = int(layout.offsets[plane, number]), int(layout.counts[plane, number])
        data = file.read(offset, count) if count else None
        try:
            if jpeg and data:
                _check_end(data)
            pixels, _, shape = decode(data, number, **extra)
        except (*BROKEN, imagecodecs.DelayedImportError) as error:
            came = f"a damaged {kind} {number} ({error})"
            raise ImageError(where, came, "a whole image", HINT) from error
        if pixels is None:
            pixels = np.full(shape, nodata, page.dtype)
        return look.apply(pixels[0].transpose(2, 0, 1))[:, None]

    return load


def _check_end(data: bytes) -> None:
    """libjpeg fills what is missing with grey and says nothing."""
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("its JPEG stream ends early")


def level_series(series: Any, reduced: Sequence[Any]) -> list[Any]:
    """The pyramid of a series: its own levels, else smaller images of the same kind that are marked as reduced."""
    own = list(series.levels)
    found = own if len(own) > 1 else [series, *sorted(reduced, key=lambda s: -int(np.prod(s.shape)))]
    kept = [series]
    for level in found[1:]:
        page, last = level.keyframe, kept[-1].keyframe
        smaller = 0 < page.imagelength < last.imagelength and 0 < page.imagewidth < last.imagewidth
        if smaller and _alike(series, level):
            kept.append(level)
    return kept


def _alike(series: Any, level: Any) -> bool:
    """Whether a level shows the same planes in the same way, and is not a label or an overview of something else."""
    a, b = series.keyframe, level.keyframe
    same = a.dtype == b.dtype and a.photometric == b.photometric and a.samplesperpixel == b.samplesperpixel
    planes = [n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS"]
    others = [n for n, axis in zip(level.shape, level.axes, strict=True) if axis not in "YXS"]
    stretch = (a.imagelength / b.imagelength) / (a.imagewidth / b.imagewidth)
    slack = 1.5 / min(b.imagelength, b.imagewidth)
    return same and planes == others and a.planarconfig == b.planarconfig and abs(stretch - 1) <= slack
