"""A label image larger than memory: tiles as they become final, one tiled, pyramidal OME-TIFF or OME-Zarr at the end.

Tiles are compressed as soon as they are full: into one scratch file a level, which writing the TIFF only copies, or
into the chunks of a Zarr that lies in the scratch folder until it is whole. The bytes depend on the labels, the
geometry and the multiscale alone, not on the order in which blocks came.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol
from xml.sax.saxutils import quoteattr

import imagecodecs
import numpy as np

from pipeline.data.files import move_into_place
from pipeline.data.multiscales import Multiscale, pyramid_shapes, sampled
from pipeline.data.zarr_labels import TILE, ZarrTiles
from pipeline.errors import OutputError
from pipeline.types import Geometry, Labels

_PER_CENTIMETRE = {"um": 1e4, "mm": 10.0}
_UNITS = {"um": "µm", "mm": "mm"}


class Tiles(Protocol):
    """Where full tiles go. `shapes` are those of the levels; a tile is `(TILE, TILE)` uint32, 0 beyond the image."""

    shapes: list[tuple[int, ...]]

    def keep(self, level: int, row: int, column: int, tile: Labels) -> None: ...

    def finish(self, name: str) -> Path:
        """The whole label image, in the scratch folder, that says it is called `name`."""

    def close(self) -> None: ...


class _TiffTiles:
    """Tiles of an OME-TIFF, compressed, in one scratch file a level as they came."""

    def __init__(self, scratch: Path, shape: tuple[int, int], geometry: Geometry) -> None:
        self.scratch, self.geometry = scratch, geometry
        self.shapes = pyramid_shapes(shape)
        self.files: list[BinaryIO] = [(scratch / f"labels-{n}.tiles").open("w+b") for n in range(len(self.shapes))]
        self.places: list[dict[tuple[int, int], tuple[int, int]]] = [{} for _ in self.shapes]

    def keep(self, level: int, row: int, column: int, tile: Labels) -> None:
        data = imagecodecs.zlib_encode(tile.tobytes(), level=6)
        file = self.files[level]
        file.seek(0, 2)
        self.places[level][row, column] = (file.tell(), len(data))
        file.write(data)

    def _in_order(self, level: int) -> Iterator[bytes]:
        """The compressed tiles in raster order."""
        for _, (offset, size) in sorted(self.places[level].items()):
            self.files[level].seek(offset)
            yield self.files[level].read(size)

    def finish(self, name: str) -> Path:
        import tifffile

        options: dict[str, Any] = {"tile": (TILE, TILE), "dtype": np.uint32, "photometric": "minisblack"}
        options |= {"compression": "zlib", "metadata": None, "software": False}
        resolution: dict[str, Any] = {}
        if self.geometry.unit in _PER_CENTIMETRE:
            y, x = (_PER_CENTIMETRE[self.geometry.unit] / s for s in self.geometry.spacing[-2:])
            resolution = {"resolution": (x, y), "resolutionunit": "CENTIMETER"}
        whole: tuple[int, int] = (self.shapes[0][0], self.shapes[0][1])
        with tifffile.TiffWriter(self.scratch / "labels.tif", bigtiff=True) as writer:
            for number, shape in enumerate(self.shapes):
                first = number == 0
                writer.write(
                    self._in_order(number),
                    shape=shape,
                    subifds=len(self.shapes) - 1 if first else None,
                    subfiletype=0 if first else 1,
                    description=ome_xml(whole, self.geometry, name) if first else None,
                    **options,
                    **(resolution if first else {}),
                )
        return self.scratch / "labels.tif"

    def close(self) -> None:
        for file in self.files:
            file.close()


class _Level:
    """One level: its tiles that are begun, in memory, and how many are not full yet.

    `sampled` are the rows and the columns of the image that it holds.
    """

    def __init__(self, number: int, shape: tuple[int, ...], full: tuple[int, int], tiles: Tiles) -> None:
        self.number, self.shape, self.tiles = number, shape, tiles
        self.sampled = tuple(sampled(side, own, number) for side, own in zip(full, shape, strict=True))
        self.open: dict[tuple[int, int], tuple[Labels, int]] = {}
        self.missing = -(-shape[0] // TILE) * -(-shape[1] // TILE)

    def take(self, top: int, left: int, labels: Labels) -> None:
        """Paste what the level holds of a block of the image."""
        held = []
        for axis, first, length in zip(self.sampled, (top, left), labels.shape, strict=True):
            start, stop = np.searchsorted(axis, (first, first + length))
            held.append((int(start), axis[start:stop] - first))
        (y, rows), (x, columns) = held
        if rows.size and columns.size:
            self._paste(y, x, labels[np.ix_(rows, columns)] if self.number else labels)

    def _paste(self, top: int, left: int, labels: Labels) -> None:
        """Paste a block of the level; tiles that are full now leave memory."""
        bottom, right = top + labels.shape[0], left + labels.shape[1]
        for row in range(top // TILE, -(-bottom // TILE)):
            for column in range(left // TILE, -(-right // TILE)):
                y0, x0 = max(top, row * TILE), max(left, column * TILE)
                y1, x1 = min(bottom, (row + 1) * TILE), min(right, (column + 1) * TILE)
                part = labels[y0 - top : y1 - top, x0 - left : x1 - left]
                self._fill(row, column, y0 - row * TILE, x0 - column * TILE, part)

    def _fill(self, row: int, column: int, y: int, x: int, part: Labels) -> None:
        tile, filled = self.open.pop((row, column), (None, 0))
        if tile is None:
            tile = np.zeros((TILE, TILE), np.uint32)
        tile[y : y + part.shape[0], x : x + part.shape[1]] = part
        filled += part.size
        whole = min(TILE, self.shape[0] - row * TILE) * min(TILE, self.shape[1] - column * TILE)
        if filled < whole:
            self.open[row, column] = (tile, filled)
            return
        self.tiles.keep(self.number, row, column, tile)
        self.missing -= 1


class LabelPyramid:
    """Collects the blocks of a label image `(Y, X)` uint32, each pixel once, and writes them as one.

    `scratch` is an existing folder on the same file system as the result. That is an OME-TIFF, whose level n holds
    every 2^n-th pixel, or with a `multiscale` an OME-Zarr of its levels. Raises OutputError for a `multiscale` of
    another shape.
    """

    def __init__(
        self, scratch: Path, shape: tuple[int, int], geometry: Geometry, multiscale: Multiscale | None = None
    ) -> None:
        self._tiles: Tiles
        if multiscale is None:
            self._tiles = _TiffTiles(scratch, shape, geometry)
        else:
            self._tiles = ZarrTiles(scratch / "labels.zarr", shape, multiscale)
        self._levels = [_Level(n, level, shape, self._tiles) for n, level in enumerate(self._tiles.shapes)]

    def __enter__(self) -> "LabelPyramid":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tiles.close()

    def put(self, top: int, left: int, labels: Labels) -> None:
        """Add a block at (top, left), wherever it lies."""
        for level in self._levels:
            level.take(top, left, labels)

    def write(self, path: Path) -> str:
        """Put the label image in place, whole or not at all; returns its sha256 (hex). Raises OutputError."""
        missing = sum(level.missing for level in self._levels)
        if missing:
            came = f"{missing} tiles that were never filled"
            raise OutputError("label pyramid", came, "every pixel written once", "report this with the image")
        try:
            whole = self._tiles.finish(path.name)
        except OSError as error:
            raise OutputError(str(path), str(error), "room for the labels", "free some disk, then run again") from error
        return move_into_place(whole, path)


def ome_xml(shape: tuple[int, int], geometry: Geometry, name: str) -> bytes:
    """The OME description of a label image `(Y, X)` uint32, with its pixel size where one is known."""
    size = ""
    if geometry.unit in _UNITS:
        y, x = geometry.spacing[-2:]
        unit = _UNITS[geometry.unit]
        size = f' PhysicalSizeX="{x!r}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{y!r}" PhysicalSizeYUnit="{unit}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0" Name={quoteattr(name)}><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint32" '
        f'SizeX="{shape[1]}" SizeY="{shape[0]}" SizeC="1" SizeZ="1" SizeT="1"{size}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    ).encode()
