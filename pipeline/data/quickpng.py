"""Decode only the part of a PNG that holds something: what makes merging tens of thousands of masks quick.

A mask is almost all zeros. Where every filtered byte of a row or column is zero and what lies above and left of it is
zero, the pixels are zero whatever the filter, so only the box of non-zero filtered bytes has to be unfiltered. That box
is handed to libpng as a small PNG of its own. Checksums of every chunk and of the stream are still verified.
Filters: PNG specification, section 9 (filters use the pixel to the left, above and above-left, zero outside).
"""

import struct
import threading
import zlib
from dataclasses import dataclass

import cv2
import imagecodecs
import numpy as np

from pipeline.types import Array

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN = b"\x08\x00\x00\x00\x00"  # 8 bit, grey, deflate, adaptive filters, not interlaced
_END = b"\0\0\0\0IEND\xaeB`\x82"
_LARGEST = 1 << 28  # bytes: larger ones take the ordinary way, which has its limits


@dataclass(frozen=True)
class Boxed:
    """What is not zero in an image of `shape`: the crop that stands at (`top`, `left`); empty if all is zero."""

    shape: tuple[int, ...]
    top: int
    left: int
    crop: Array


class _Scratch(threading.local):
    """Memory that each thread inflates into again and again: fresh pages would cost more than the inflating."""

    memory = bytearray()

    def take(self, size: int) -> memoryview:
        if len(self.memory) < size:
            self.memory = bytearray(size)
        return memoryview(self.memory)[:size]


_scratch = _Scratch()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _store(data: bytes) -> bytes:
    """A zlib stream that holds `data` uncompressed (RFC 1950 and 1951), without setting up a compressor.

    >>> zlib.decompress(_store(b"abc" * 50_000)) == b"abc" * 50_000
    True
    """
    parts = [b"\x78\x01"]
    for start in range(0, len(data), 65_535):
        block = data[start : start + 65_535]
        parts += [struct.pack("<?HH", start + 65_535 >= len(data), len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", zlib.adler32(data))])


def _stream(data: bytes) -> bytes | None:
    """The zlib stream of a PNG whose chunks are all whole and carry the right checksum; None otherwise."""
    at, parts, end = 8, [], len(data)
    while at + 12 <= end:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        stop = at + 8 + length
        if stop + 4 > end or zlib.crc32(data[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return None
        if kind == b"IDAT":
            parts.append(data[at + 8 : stop])
        elif kind == b"IEND":
            return b"".join(parts)
        elif kind == b"tRNS":
            return None
        at = stop + 4
    return None


def read_boxed(data: bytes) -> Boxed | None:
    """The non-zero box of an 8-bit grey PNG, or None for anything else or anything wrong: then decode it whole.

    >>> mask = np.zeros((5, 7), np.uint8); mask[1:3, 2:6] = 255
    >>> box = read_boxed(imagecodecs.png_encode(mask)); box.shape, box.top, box.left, box.crop.shape
    ((5, 7), 1, 2, (2, 4))
    """
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR" or data[24:29] != _PLAIN:
        return None
    width, height = struct.unpack(">II", data[16:24])
    stride = width + 1
    total = height * stride
    stream = _stream(data) if 0 < total <= _LARGEST else None
    if stream is None:
        return None
    try:
        raw = imagecodecs.zlibng_decode(stream, out=_scratch.take(total))
        return _box(np.frombuffer(raw, np.uint8), height, width) if len(raw) == total else None
    except (RuntimeError, ValueError):
        return None


def _box(flat: Array, height: int, width: int) -> Boxed | None:
    stride = width + 1
    rows = flat.reshape(height, stride)
    filters = rows[:, 0].copy()
    rows[:, 0] = 0
    hits = flat[: flat.size // 8 * 8].view(np.uint64) != 0
    tail = bool(np.count_nonzero(flat[hits.size * 8 :]))
    first = int(hits.argmax()) if hits.size else 0
    found = bool(hits.size and hits[first])
    if not found and not tail:
        return Boxed((height, width), 0, 0, rows[:0, :0])
    top = (first if found else hits.size) * 8 // stride
    bottom = height - 1 if tail else min(height - 1, (hits.tobytes().rfind(b"\x01") * 8 + 7) // stride)
    band = rows[top : bottom + 1]
    columns = np.flatnonzero(np.bitwise_or.reduce(band[:, 1:], axis=0))
    left = int(columns[0])
    below, right = min(bottom + 2, height), min(int(columns[-1]) + 2, width)  # one more: there the object has ended ...
    crop = _unfilter(filters[top:below], rows[top:below, left + 1 : right + 1])
    if (below < height and np.count_nonzero(crop[-1])) or (right < width and np.count_nonzero(crop[:, -1])):
        crop = _unfilter(filters[top:], rows[top:, left + 1 :])  # ... or goes on, by its filters alone
    return _tight(crop, top, left, (height, width))


def _unfilter(filters: Array, residuals: Array) -> Array:
    """Let libpng undo the filters of a crop whose surroundings above and left are zero."""
    height, width = residuals.shape
    body = np.empty((height, width + 1), np.uint8)
    body[:, 0] = filters
    body[:, 1:] = residuals
    header = struct.pack(">II", width, height) + _PLAIN
    stored = _store(body.tobytes())
    small = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", stored) + _END
    pixels: Array = imagecodecs.png_decode(small)
    return pixels


def _tight(crop: Array, top: int, left: int, shape: tuple[int, int]) -> Boxed:
    """Trim zero rows and columns off the crop."""
    x, y, width, height = cv2.boundingRect(crop)
    return Boxed(shape, top + y, left + x, np.ascontiguousarray(crop[y : y + height, x : x + width]))
