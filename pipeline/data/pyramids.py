"""A label image larger than memory: tiles as they become final, one tiled, pyramidal OME-TIFF at the end.

Tiles are compressed into one scratch file a level as soon as they are full; writing the TIFF only copies them. The
bytes depend on the labels and the geometry alone, not on the order in which blocks came.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

import imagecodecs
import numpy as np

from pipeline.data.files import move_into_place
from pipeline.errors import OutputError
from pipeline.types import Geometry, Labels

TILE = 512
_SMALLEST = 1024  # no further level below this side
_PER_CENTIMETRE = {"um": 1e4, "mm": 10.0}
_UNITS = {"um": "µm", "mm": "mm"}


def pyramid_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes of the levels of a pyramid, each half the one before, rounded up.

    >>> pyramid_shapes((5000, 3000))
    [(5000, 3000), (2500, 1500), (1250, 750), (625, 375)]
    """
    shapes = [shape]
    while max(shapes[-1]) > _SMALLEST:
        height, width = shapes[-1]
        shapes.append((-(-height // 2), -(-width // 2)))
    return shapes


class _Level:
    """One level's tiles: those begun in memory, those that are full compressed in a file."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.columns = -(-shape[1] // TILE)
        self.places: list[tuple[int, int] | None] = [None] * (self.columns * -(-shape[0] // TILE))
        self.open: dict[int, tuple[Labels, int]] = {}
        self.file: BinaryIO = path.open("w+b")

    def put(self, top: int, left: int, labels: Labels) -> None:
        """Paste a block; tiles that are full now leave memory."""
        bottom, right = top + labels.shape[0], left + labels.shape[1]
        for row in range(top // TILE, -(-bottom // TILE)):
            for column in range(left // TILE, -(-right // TILE)):
                y0, x0 = max(top, row * TILE), max(left, column * TILE)
                y1, x1 = min(bottom, (row + 1) * TILE), min(right, (column + 1) * TILE)
                part = labels[y0 - top : y1 - top, x0 - left : x1 - left]
                self._fill(row, column, y0 - row * TILE, x0 - column * TILE, part)

    def _fill(self, row: int, column: int, y: int, x: int, part: Labels) -> None:
        number = row * self.columns + column
        tile, filled = self.open.pop(number, (None, 0))
        if tile is None:
            tile = np.zeros((TILE, TILE), np.uint32)
        tile[y : y + part.shape[0], x : x + part.shape[1]] = part
        filled += part.size
        whole = min(TILE, self.shape[0] - row * TILE) * min(TILE, self.shape[1] - column * TILE)
        if filled < whole:
            self.open[number] = (tile, filled)
            return
        data = imagecodecs.zlib_encode(tile.tobytes(), level=6)
        self.file.seek(0, 2)
        self.places[number] = (self.file.tell(), len(data))
        self.file.write(data)

    def tiles(self) -> Iterator[bytes]:
        """The compressed tiles in raster order."""
        for number, place in enumerate(self.places):
            if place is None:
                came = f"tile {number} of {len(self.places)} was never filled"
                raise OutputError("label pyramid", came, "every pixel written once", "report this with the image")
            self.file.seek(place[0])
            yield self.file.read(place[1])


class LabelPyramid:
    """Collects the blocks of a label image `(Y, X)` uint32, each pixel once, and writes them as one file.

    `scratch` is an existing folder on the same file system as the result. Level n holds every 2^n-th pixel.
    """

    def __init__(self, scratch: Path, shape: tuple[int, int], geometry: Geometry) -> None:
        self.shape, self.geometry, self.scratch = shape, geometry, scratch
        shapes = pyramid_shapes(shape)
        self.levels = [_Level(scratch / f"labels-{n}.tiles", level) for n, level in enumerate(shapes)]

    def __enter__(self) -> "LabelPyramid":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for level in self.levels:
            level.file.close()

    def put(self, top: int, left: int, labels: Labels) -> None:
        """Add a block at (top, left), both even multiples of every level's step or the block is the image's rest."""
        for number, level in enumerate(self.levels):
            step = 2**number
            first_y, first_x = -top % step, -left % step
            reduced = labels[first_y::step, first_x::step]
            if reduced.size:
                level.put((top + first_y) // step, (left + first_x) // step, reduced)

    def write(self, path: Path) -> str:
        """Write the OME-TIFF, whole or not at all; returns its sha256 (hex). Raises OutputError."""
        import tifffile

        temporary = self.scratch / "labels.tif"
        options: dict[str, Any] = {"tile": (TILE, TILE), "dtype": np.uint32, "photometric": "minisblack"}
        options |= {"compression": "zlib", "metadata": None, "software": False}
        resolution: dict[str, Any] = {}
        if self.geometry.unit in _PER_CENTIMETRE:
            y, x = (_PER_CENTIMETRE[self.geometry.unit] / s for s in self.geometry.spacing[-2:])
            resolution = {"resolution": (x, y), "resolutionunit": "CENTIMETER"}
        try:
            with tifffile.TiffWriter(temporary, bigtiff=True) as writer:
                for number, level in enumerate(self.levels):
                    first = number == 0
                    writer.write(
                        level.tiles(),
                        shape=level.shape,
                        subifds=len(self.levels) - 1 if first else None,
                        subfiletype=0 if first else 1,
                        description=ome_xml(self.shape, self.geometry, path.name) if first else None,
                        **options,
                        **(resolution if first else {}),
                    )
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(str(path), str(error), "room for the labels", "free some disk, then run again") from error
        return move_into_place(temporary, path)


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
