"""`FileSource`: an opened image file of any format, and what every format's pixels go through when they are read.

The dtypes that leave here are uint8, uint16 and float32: bool becomes 0/255, wider or signed numbers become float32.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.blocks import BlockCache, Grid, OnDecode, Quad, capacity, read_box
from pipeline.data.multiscales import Multiscale
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry, Image, Unit, Window

KEPT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
DEFLATE = 1100  # times smaller than its content a deflated file can be (1,032, and headers)
ANY_CODEC = 100_000  # the same for every codec in use; a header that claims more is wrong
BROKEN = (  # what readers, ours and others', run into where a file says what cannot be
    *(OSError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError),
    *(RuntimeError, MemoryError, SyntaxError, struct.error, zlib.error),
)


def kept_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """The dtype that pixels stored as `dtype` have once read; raises ImageError for complex numbers and records.

    >>> kept_dtype(np.dtype(">u2"), "a.tif"), kept_dtype(np.dtype(np.int16), "b.tif")
    (dtype('uint16'), dtype('float32'))
    """
    if dtype.kind not in "buif":
        raise ImageError(where, f"pixels of type {dtype}", "integers or real numbers", "save the image as 8 or 16 bit")
    native = dtype.newbyteorder("=")
    if native.kind == "b":
        return np.dtype(np.uint8)
    return native if native in KEPT else np.dtype(np.float32)


def channel_names(count: int) -> tuple[str, ...]:
    return NAMES.get(count) or tuple(f"channel {i}" for i in range(count))


def check_size(where: str, spatial: Sequence[int], max_megapixels: float) -> None:
    """Raise ImageError for no pixels at all or for more at once than the limit, before anything is allocated."""
    count = prod(int(length) for length in spatial)
    if count <= 0 or min(spatial) <= 0:
        raise ImageError(
            where, f"an image of {' x '.join(map(str, spatial))}", "at least one pixel", "export the image again"
        )
    if count > max_megapixels * 1e6:
        came = f"{count / 1e6:,.1f} Mpx that must be decoded at once"
        hint = "convert it to a tiled OME-TIFF, which is read by windows, or raise the limit (max_megapixels)"
        raise ImageError(where, came, f"at most {max_megapixels:,.0f} Mpx", hint)


def check_grid(where: str, grid: Grid, max_megapixels: float) -> None:
    """Raise ImageError for what cannot be read by windows of the limit: a large block, or a large volume."""
    spatial = grid.shape[1:] if grid.shape[1] > 1 else grid.shape[2:]
    check_size(where, spatial, np.inf)
    large = spatial if len(spatial) == 3 else [min(b, n) for b, n in zip(grid.block[2:], spatial, strict=True)]
    check_size(where, large, max_megapixels)


def check_claim(where: str, claimed: int, actual: int, times: int = ANY_CODEC) -> None:
    """Raise ImageError where a header claims `claimed` bytes of pixels that `actual` bytes of file cannot hold."""
    if claimed > times * max(actual, 1):
        came = f"a header that claims {claimed / 1e6:,.1f} MB of pixels in {actual:,} bytes"
        raise ImageError(where, came, "a file that holds its pixels", "copy or export the file again")


def stated_geometry(where: str, spacing: Sequence[float], unit: Unit, affine: Array | None = None) -> Geometry:
    """The geometry that a file states; raises ImageError where that is zero, negative, infinite or not a number."""
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        came = f"a pixel size of {tuple(float(s) for s in spacing)} {unit}"
        raise ImageError(where, came, "finite numbers above 0", "repair the header or export the image again")
    return Geometry(tuple(float(s) for s in spacing), unit, affine)


def pyramid_geometries(geometry: Geometry, levels: Sequence[tuple[int, ...]]) -> tuple[Geometry, ...]:
    """The geometry of every level: larger pixels, by a whole number where the shapes are those of one."""

    def ratio(full: int, small: int) -> float:
        whole = round(full / small)
        return float(whole) if abs(full / whole - small) <= 1 else full / small

    return tuple(
        geometry
        if shape == levels[0]
        else Geometry(
            tuple(s * ratio(a, b) for s, a, b in zip(geometry.spacing, levels[0], shape, strict=True)), geometry.unit
        )
        for shape in levels
    )


@dataclass(frozen=True)
class Missing:
    """How many tiles, strips or chunks a level of a file leaves out, of how many, and what is read in their place."""

    count: int = 0
    total: int = 0
    note: str = ""  # what a person should know of it


@dataclass
class FileSource:
    """An image file whose header has been read; see `pipeline.types.ImageSource`.

    `grids` and `geometries` hold one entry a pyramid level, the full one first, and so does `absent` of formats that
    may leave out tiles; `axes` is CYX or CZYX.
    """

    path: Path
    axes: str
    grids: tuple[Grid, ...]
    geometries: tuple[Geometry, ...]
    channels: tuple[str, ...] = ()
    alpha: bool = False  # the file has an alpha channel, which reading drops
    mode: str = ""  # how the file stores colour: grey, RGB, RGBA, palette ...
    white: int | None = None  # the number that stands for white turned round, where the file stores white as 0
    absent: tuple[Missing, ...] = ()
    multiscale: Multiscale | None = None  # what an OME-Zarr states of its grid, for its labels to state too
    max_megapixels: float = 400.0  # most that is read at once
    on_decode: OnDecode | None = field(default=None, repr=False)  # told (level, C, Z, Y, X) of every block decoded
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    geometry: Geometry = field(init=False)
    levels: tuple[tuple[int, ...], ...] = field(init=False)
    block: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        first = self.grids[0]
        check_grid(str(self.path), first, self.max_megapixels)
        spatial = [grid.shape[1:] if self.axes == "CZYX" else grid.shape[2:] for grid in self.grids]
        self.levels = tuple(spatial)
        self.shape = (first.shape[0], *self.levels[0])
        self.dtype = kept_dtype(first.dtype, str(self.path))
        self.geometry = self.geometries[0]
        self.block = (min(first.block[2], first.shape[2]), min(first.block[3], first.shape[3]))
        self.channels = self.channels or channel_names(self.shape[0])
        self._cache = BlockCache(max(capacity(grid) for grid in self.grids))

    @property
    def missing(self) -> Missing:
        """What the full level leaves out."""
        return self.absent[0] if self.absent else Missing()

    def keep(self, rows: int) -> None:
        """Keep so many decoded rows that full-width bands sharing up to `rows` of them decode every block once."""
        self._cache.capacity = capacity(self.grids[0], rows)

    def again(self) -> "FileSource":
        """The same image with a cache of its own, for who reads elsewhere at the same time.

        Of a file whose cache holds all of it (PNG, JPEG, one strip), the cache is shared.
        """
        other = replace(self)
        if self._is_held:
            other._cache = self._cache
        return other

    @property
    def _is_held(self) -> bool:
        """Whether whoever reads a window has decoded the whole height of it."""
        return self.grids[0].block[2] >= self.grids[0].shape[2]

    @property
    def kept(self) -> int:
        """Bytes of decoded blocks, at most, that this source and `again` keep together."""
        return self._cache.capacity * (1 if self._is_held else 2)

    def told(self, pixel_size: float | None) -> "FileSource":
        """The same image with square pixels (cubic voxels) of this size (um), whatever its file says; None: as it is.

        The size is the full level's. Labels of NIfTI and OME-Zarr still lie where their file says.
        """
        if pixel_size is None:
            return self
        full = Geometry((pixel_size,) * len(self.levels[0]), "um", self.geometry.affine)
        return replace(self, geometries=pyramid_geometries(full, self.levels))

    def at_level(self, level: int) -> "FileSource":
        """The same image from a pyramid level on; raises ImageError where there is no such level."""
        if level == 0:
            return self
        if level >= len(self.grids):
            shapes = ", ".join(f"{i}: {' x '.join(map(str, s))}" for i, s in enumerate(self.levels))
            raise ImageError(str(self.path), f"--level {level}", f"one of {shapes}", "give another --level")
        stated = self.multiscale and self.multiscale.from_level(level)
        grids, geometries, absent = self.grids[level:], self.geometries[level:], self.absent[level:]
        return replace(self, grids=grids, geometries=geometries, absent=absent, multiscale=stated)

    def read(self, window: Window | None = None, level: int = 0) -> Image:
        """Read the image, or a window of it in ((Z,) Y, X) of a level; raises ImageError for damaged or missing pixels.

        A window decodes the blocks that it touches and keeps the last of them for the next; a whole image keeps none,
        and is refused above `max_megapixels`.
        """
        return Image(self._finish(self._stored(window, level)), self.geometries[level])

    def decode(self, window: Window | None = None) -> Array:
        """Pixels `(C, (Z,) Y, X)`, all or a window's, as stored: no alpha, no palette, white as the highest number."""
        return self._stored(window, 0)

    def numbers(self, window: Window | None = None) -> Array:
        """Labels (C, (Z,) Y, X) as stored: white-is-zero is a way of showing, and many write their masks with it."""
        pixels = self.decode(window)
        if self.white is None or pixels.dtype.kind not in "bu":
            return pixels
        return ~pixels if pixels.dtype.kind == "b" else (self.white - pixels).astype(pixels.dtype)

    def _stored(self, window: Window | None, level: int) -> Array:
        spatial, grid = self.levels[level], self.grids[level]
        if window is None:
            check_size(str(self.path), spatial, self.max_megapixels)
            box = Window((0,) * len(spatial), spatial)
        else:
            box = self._check(window, spatial)
        flat = len(spatial) == 2
        start: Quad = (0, *((0, *box.start) if flat else box.start))  # type: ignore[assignment]
        stop: Quad = (grid.shape[0], *((1, *box.stop) if flat else box.stop))  # type: ignore[assignment]
        pixels = read_box(grid, level, start, stop, self._cache, window is not None, self.on_decode)
        return pixels[:, 0] if flat else pixels

    def _check(self, window: Window, spatial: tuple[int, ...]) -> Window:
        if len(window.start) != len(spatial) or any(
            a < 0 or b > n or a >= b for a, b, n in zip(window.start, window.stop, spatial, strict=True)
        ):
            raise ImageError(
                str(self.path), f"window {window.start}-{window.stop}", f"a box inside {spatial}", "clip the window"
            )
        return window

    def _finish(self, pixels: Array) -> Array:
        if pixels.dtype.kind == "b":
            pixels = pixels.astype(np.uint8) * np.uint8(255)
        pixels = np.ascontiguousarray(pixels, dtype=self.dtype)
        if self.dtype.kind == "f" and not np.isfinite(pixels).all():
            count = int((~np.isfinite(pixels)).sum())
            raise ImageError(
                str(self.path),
                f"{count} values that are NaN or infinite",
                "finite pixels",
                "replace them before segmenting",
            )
        return pixels
