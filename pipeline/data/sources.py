"""`FileSource`: an opened image file of any format, and what every format's pixels go through when they are read.

The dtypes that leave here are uint8, uint16 and float32: bool becomes 0/255, wider or signed numbers become float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ImageError
from pipeline.types import Array, Geometry, Image, Window

KEPT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
NAMES = {1: ("grey",), 3: ("red", "green", "blue")}


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


def check_size(where: str, spatial: tuple[int, ...], max_megapixels: float) -> None:
    """Raise ImageError for no pixels at all or for more than the limit, before anything is allocated."""
    count = 1
    for length in spatial:
        count *= int(length)
    if count <= 0:
        raise ImageError(
            where, f"an image of {' x '.join(map(str, spatial))}", "at least one pixel", "export the image again"
        )
    if count > max_megapixels * 1e6:
        hint = "crop it, or raise the limit (max_megapixels) if the memory allows"
        raise ImageError(where, f"{count / 1e6:,.1f} Mpx", f"at most {max_megapixels:,.0f} Mpx", hint)


@dataclass
class FileSource:
    """An image file whose header has been read; see `pipeline.types.ImageSource`.

    `decode` answers with the pixels `(C, (Z,) Y, X)` as stored, alpha dropped and palettes expanded.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    geometry: Geometry
    decode: Callable[[], Array]
    channels: tuple[str, ...] = ()
    alpha: bool = False  # the file has an alpha channel, which reading drops
    mode: str = ""  # how the file stores colour: grey, RGB, RGBA, palette ...
    white: int | None = None  # the number that stands for white turned round, where the file stores white as 0
    _held: Array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.channels = self.channels or channel_names(self.shape[0])

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape[1:],)

    def read(self, window: Window | None = None, level: int = 0) -> Image:
        """Read the image, or a window of it in ((Z,) Y, X); raises ImageError for anything short of every pixel.

        A windowed read decodes the file once and holds it for the next window.
        """
        if window is None:
            return Image(self._pixels() if self._held is None else self._held, self.geometry)
        spatial = self.shape[1:]
        if len(window.start) != len(spatial) or any(
            a < 0 or b > n or a >= b for a, b, n in zip(window.start, window.stop, spatial, strict=True)
        ):
            raise ImageError(
                str(self.path), f"window {window.start}-{window.stop}", f"a box inside {spatial}", "clip the window"
            )
        if self._held is None:
            self._held = self._pixels()
        return Image(self._held[(slice(None), *window.slices)], self.geometry)

    def numbers(self) -> Array:
        """Labels (C, (Z,) Y, X) as stored: white-is-zero is a way of showing, and many write their masks with it."""
        pixels = self.decode()
        if self.white is None or pixels.dtype.kind not in "bu":
            return pixels
        return ~pixels if pixels.dtype.kind == "b" else (self.white - pixels).astype(pixels.dtype)

    def _pixels(self) -> Array:
        pixels = self.decode()
        if pixels.shape != self.shape:
            raise ImageError(
                str(self.path),
                f"pixels of shape {pixels.shape}",
                f"the header's {self.shape}",
                "export the image again",
            )
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
