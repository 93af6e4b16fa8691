"""Probabilities of an image larger than memory, on disk: bands of rows, each written whole or not at all.

A band that lies there is proven by the sha256 in its header; so a run that was killed goes on behind the last one. The
values are uint8, 255 for 1: the network's last digits say nothing, and background packs to nothing.
"""

import hashlib
import json
import struct
from pathlib import Path

import imagecodecs
import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import OutputError
from pipeline.inference.forward import precision_of
from pipeline.model.decode import Bytes
from pipeline.model.prepare import Preparation
from pipeline.types import FORMAT_VERSION, Window

CHUNK = 1024  # columns that are packed together
_MAGIC = b"maskline-band\0"


def name_work(identity: str, preparation: Preparation, engine: object) -> str:
    """What bands are of, and by whom: `identity` (image, model, settings), grid, how values were normalised, engine.

    Two machines or versions may come to another view of the same image; bands of the one are of no use to the other.
    """
    seen = (preparation.original, preparation.shape, preparation.stride, preparation.offset, preparation.scale)
    numbers = json.dumps([[float(value) for value in np.ravel(part)] for part in seen])
    return f"{identity}, {numbers}, {getattr(engine, 'name', '')} in {precision_of(engine)}"


class PlaneStore:
    """Probabilities `(K, Y, X)` uint8 of one image in a folder; `identity` names what they are of, and by whom."""

    def __init__(self, folder: Path, count: int, shape: tuple[int, int], identity: str, band: int) -> None:
        self.folder, self.count, self.shape = folder, count, shape
        self.identity, self.height = f"{identity}, bands of {band}", band
        self.bands = -(-shape[0] // band)
        self._index: dict[int, tuple[int, list[int]]] = {}  # band -> where its chunks begin, their lengths

    def rows(self, band: int) -> tuple[int, int]:
        """The rows [first, last) of a band."""
        return band * self.height, min(self.shape[0], (band + 1) * self.height)

    def path(self, band: int) -> Path:
        return self.folder / f"band-{band:05d}.planes"

    def has(self, band: int) -> bool:
        """Whether the band lies there whole and belongs to this work; one that does not is taken away."""
        path = self.path(band)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        if self._valid(data):
            return True
        path.unlink()
        return False

    def _valid(self, data: bytes) -> bool:
        try:
            header, start = _header(data)
        except ValueError:
            return False
        own = header.get("identity") == self.identity and header.get("format_version") == FORMAT_VERSION
        return own and header.get("sha256") == hashlib.sha256(data[start:]).hexdigest()

    def skipped(self, band: int) -> int:
        """Pixels of a band's tiles that were not predicted, as background; the band has been written."""
        with self.path(band).open("rb") as file:
            begin = file.read(len(_MAGIC) + 4)
            header = json.loads(file.read(struct.unpack("<I", begin[-4:])[0]))
        return int(header.get("skipped", 0))

    def put(self, band: int, planes: Bytes, skipped: int = 0) -> None:
        """Write the planes `(K, rows, X)` of a band, of whose tiles so many pixels were skipped. Raises OutputError."""
        packed = [
            imagecodecs.zstd_encode(np.ascontiguousarray(planes[:, :, left : left + CHUNK]).tobytes(), level=1)
            for left in range(0, self.shape[1], CHUNK)
        ]
        payload = b"".join(packed)
        header = {
            "format_version": FORMAT_VERSION,
            "identity": self.identity,
            "chunks": [len(data) for data in packed],
            "sha256": hashlib.sha256(payload).hexdigest(),
            "skipped": skipped,
        }
        text = json.dumps(header).encode()
        atomic_write(self.path(band), _MAGIC + struct.pack("<I", len(text)) + text + payload, durable=False)

    def read(self, window: Window) -> Bytes:
        """The planes `(K, y, x)` of a window whose bands have all been written. Raises OutputError."""
        (top, left), (bottom, right) = window.start, window.stop
        answer = np.empty((self.count, bottom - top, right - left), np.uint8)
        for band in range(top // self.height, -(-bottom // self.height)):
            first, last = self.rows(band)
            y0, y1 = max(top, first), min(bottom, last)
            for number in range(left // CHUNK, -(-right // CHUNK)):
                x0, x1 = max(left, number * CHUNK), min(right, (number + 1) * CHUNK)
                chunk = self._chunk(band, number)
                answer[:, y0 - top : y1 - top, x0 - left : x1 - left] = chunk[
                    :, y0 - first : y1 - first, x0 - number * CHUNK : x1 - number * CHUNK
                ]
        return answer

    def _chunk(self, band: int, number: int) -> Bytes:
        path = self.path(band)
        try:
            with path.open("rb") as file:
                if band not in self._index:
                    head = file.read(len(_MAGIC) + 4)
                    length = struct.unpack("<I", head[-4:])[0]
                    self._index[band] = (len(head) + length, json.loads(file.read(length))["chunks"])
                start, lengths = self._index[band]
                file.seek(start + sum(lengths[:number]))
                data = file.read(lengths[number])
            flat = np.frombuffer(imagecodecs.zstd_decode(data), np.uint8)
        except (OSError, RuntimeError, struct.error, ValueError, KeyError, IndexError) as error:
            came = f"{type(error).__name__}: {error}"
            raise OutputError(str(path), came, "a band as it was written", "run again: it is made anew") from error
        first, last = self.rows(band)
        return flat.reshape(self.count, last - first, -1)


def _header(data: bytes) -> tuple[dict[str, object], int]:
    """The header of a band and where its payload begins; ValueError for anything else."""
    begin = len(_MAGIC) + 4
    if not data.startswith(_MAGIC) or len(data) < begin:
        raise ValueError("no band")
    stop = begin + struct.unpack("<I", data[begin - 4 : begin])[0]
    header = json.loads(data[begin:stop])
    if not isinstance(header, dict):
        raise ValueError("no header")  # noqa: TRY004 - as for any other damage
    return header, stop
