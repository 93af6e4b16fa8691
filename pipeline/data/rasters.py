"""PNG, JPEG and BMP: header first, pixels on demand, and no file accepted that ends early.

Decoding is imagecodecs' (libpng, libjpeg-turbo), which lets other threads run meanwhile. libpng reports a stream that
ends early, which PIL fills with black and returns; a JPEG must hold its end-of-image marker.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from pipeline.data.blocks import whole
from pipeline.data.sources import ANY_CODEC, BROKEN, DEFLATE, FileSource, check_claim, check_size
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry

_HINT = "copy or export the file again"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # colour type -> channels once alpha is dropped and the palette expanded
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey+alpha", 6: "RGBA"}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a length


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(str(path), str(error), "a file that can be read", "check the path and its rights") from error


def channels_first(pixels: Array, channels: int) -> Array:
    """(Y, X) or (Y, X, S) -> (C, Y, X), keeping the first `channels` of S: alpha comes last.

    >>> channels_first(np.zeros((2, 5, 4)), 3).shape
    (3, 2, 5)
    """
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels[..., :channels], -1, 0)


def _decoder(path: Path, decode: Callable[[bytes], Array], channels: int) -> Callable[[], Array]:
    def read() -> Array:
        try:
            pixels = decode(_bytes(path))
        except BROKEN as error:
            raise ImageError(str(path), f"damaged pixels ({error})", "a whole image", _HINT) from error
        return channels_first(pixels, channels)

    return read


def open_png(path: Path, max_megapixels: float) -> FileSource:
    """A PNG: 1 to 16 bit, grey, RGB, palette, each with or without alpha, interlaced or not."""
    with path.open("rb") as file:
        head = file.read(33)
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise ImageError(str(path), "a PNG that ends within its header", "a whole image", _HINT)
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _PNG_CHANNELS:
        raise ImageError(str(path), f"PNG colour type {colour}", "grey, RGB or palette", _HINT)
    check_size(str(path), (height, width), max_megapixels)
    channels = _PNG_CHANNELS[colour]
    check_claim(str(path), height * -(-width * depth * _PNG_SAMPLES[colour] // 8), path.stat().st_size, DEFLATE)
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    source = _source(path, (channels, height, width), dtype, _decoder(path, decode_png, channels), max_megapixels)
    source.alpha, source.mode = colour in (4, 6), _PNG_MODES[colour]
    return source


def _source(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], Array], max_megapixels: float
) -> FileSource:
    """An image `(C, Y, X)` that can only be decoded whole, and says nothing of its pixels' size."""
    grid = whole(load, shape, dtype, str(path))
    return FileSource(path, "CYX", (grid,), (Geometry.pixels(),), max_megapixels=max_megapixels)


def decode_png(data: bytes) -> Array:
    """Pixels (Y, X) or (Y, X, S) of a PNG; raises ValueError where it ends before its end marker."""
    if data[-12:].find(b"IEND") < 0 and b"IEND\xaeB`\x82" not in data[-65536:]:
        raise ValueError("the file ends early")
    pixels: Array = imagecodecs.png_decode(data)
    return pixels


def _jpeg_frame(data: bytes) -> tuple[int, int, int, int]:
    """(bits, height, width, components) of a JPEG's frame header; ValueError if there is none."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _JPEG_FRAMES:
            bits, height, width, components = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return bits, height, width, components
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("it ends before its frame header")


def _decode_jpeg(data: bytes) -> Array:
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("the file ends early: no end-of-image marker")
    pixels: Array = imagecodecs.jpeg8_decode(data)
    return pixels


def open_jpeg(path: Path, max_megapixels: float) -> FileSource:
    """A JPEG, grey or colour, 8 bit; CMYK is refused. EXIF orientation is not applied: pixels are as stored."""
    try:
        bits, height, width, components = _jpeg_frame(_bytes(path))
    except ValueError as error:
        raise ImageError(str(path), f"a damaged JPEG ({error})", "a whole image", _HINT) from error
    if components not in (1, 3) or bits != 8:
        came = f"a JPEG of {components} components, {bits} bit"
        raise ImageError(str(path), came, "grey or RGB, 8 bit", "convert it to RGB")
    check_size(str(path), (height, width), max_megapixels)
    check_claim(str(path), height * width * components, path.stat().st_size, ANY_CODEC)
    load = _decoder(path, _decode_jpeg, components)
    source = _source(path, (components, height, width), np.dtype(np.uint8), load, max_megapixels)
    source.mode = "grey" if components == 1 else "RGB"
    return source


def open_bmp(path: Path, max_megapixels: float) -> FileSource:
    """A BMP, through PIL: 1-bit and grey palettes as grey, everything else as RGB."""
    from PIL import Image as Pil

    try:
        with Pil.open(path, formats=["BMP"]) as picture:
            width, height = picture.size
            mode = picture.mode
    except (Pil.DecompressionBombError, *BROKEN) as error:
        raise ImageError(str(path), f"a damaged BMP ({error})", "a whole image", _HINT) from error
    check_size(str(path), (height, width), max_megapixels)
    check_claim(str(path), height * width, path.stat().st_size)
    channels = 1 if mode in ("1", "L") else 3

    def read() -> Array:
        try:
            with Pil.open(path, formats=["BMP"]) as picture:
                pixels = np.asarray(picture if channels == 1 else picture.convert("RGB"))
        except BROKEN as error:
            raise ImageError(str(path), f"damaged pixels ({error})", "a whole image", _HINT) from error
        return channels_first(pixels, channels)

    source = _source(path, (channels, height, width), np.dtype(bool if mode == "1" else np.uint8), read, max_megapixels)
    source.alpha, source.mode = mode == "RGBA", {"1": "grey", "L": "grey", "P": "palette"}.get(mode, mode)
    return source
