"""What an image will cost, from its header and the model's record: tiles, memory, disk. Nothing is loaded to say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from pipeline.inference.blocks import band_of
from pipeline.inference.tile_sizes import LARGEST_CORE, MADE_AHEAD

PROCESS = 700e6  # bytes of the process, its libraries and the model
A_PIXEL = 150.0  # bytes a pixel of an image in memory, about: pixels, probabilities and objects
BLOCK = 2.2e8  # bytes that decoding one block takes at most, about: probabilities, labels, rows
CORE = 512  # a usual tile
PLANES = 0.9  # bytes of disk a pixel of the network's grid, at most: packed probabilities, where they are noisy
LABELS = 0.2  # bytes of disk a pixel of the file, at most: labels, packed
TABLES = 0.15  # of the objects' table and the run's own record of it, where objects are dense
OUTLINES = 0.4  # of GeoJSON, where it is asked for and objects are dense
RESAMPLED = 1024  # rows of the file that are reduced to the network's grid together


@dataclass(frozen=True)
class ImageCost:
    """Of one image: how many tiles, bytes of memory at its peak, bytes of disk while it runs, and of these what stays.

    `part` is what a tile is called: those of volumes are boxes or windows.
    """

    tiles: int
    memory: float
    disk: float
    stays: float
    streamed: bool = False
    part: str = "tile"

    @property
    def asks_disk(self) -> bool:
        """Whether it leaves or takes so much that the disk has to be asked beforehand."""
        return self.streamed or self.part != "tile"

    def __str__(self) -> str:
        tiles = f"{self.tiles:,} {self.part}{'' if self.tiles == 1 else 'es' if self.part == 'box' else 's'}"
        if self.part != "tile":
            return f"{tiles}, {self.memory / 1e9:.1f} GB of memory, {self.disk / 1e9:.1f} GB of disk"
        if not self.streamed:
            return tiles
        return (
            f"streamed: about {tiles}, {self.memory / 1e9:.1f} GB of memory, {self.disk / 1e9:.1f} GB of disk "
            "while it runs"
        )


def _tiles(height: float, width: float, core: int) -> int:
    return int(-(-height // core) * -(-width // core))


def left_on_disk(pixels: float, geojson: bool) -> float:
    """Bytes, at most, that the labels, tables and outlines of so many pixels or voxels leave.

    >>> round(left_on_disk(1e6, False)), round(left_on_disk(1e6, True))
    (350000, 750000)
    """
    return (LABELS + TABLES + (OUTLINES if geojson else 0.0)) * pixels


def whole_cost(shape: tuple[int, ...], zoom: float = 1.0, *, geojson: bool = False, core: int = CORE) -> ImageCost:
    """What an image `(C, Y, X)` that is held in memory costs, magnified by `zoom` for the network, with tiles of
    `core`.

    >>> print(whole_cost((1, 1000, 1000)), whole_cost((1, 1000, 1000), 2.0).memory / 1e9)
    4 tiles 1.3
    """
    pixels = float(prod(shape[1:]))
    height, width = (side * zoom for side in shape[-2:])
    memory = PROCESS + A_PIXEL * pixels * max(1.0, zoom) ** 2
    stays = left_on_disk(pixels, geojson)
    return ImageCost(_tiles(height, width, core), memory, stays, stays)


def stream_cost(
    shape: tuple[int, ...],
    itemsize: int,
    record: Mapping[str, Any],
    zoom: float = 1.0,
    kept: float = 0.0,
    *,
    geojson: bool = False,
    core: int = CORE,
    in_network: float = 0.0,
) -> ImageCost:
    """What an image `(C, Y, X)` of `itemsize` bytes a value costs with a model of this record when it is streamed.

    `zoom` is how many of the network's pixels are one of the file, `kept` the bytes of decoded blocks that its readers
    keep, `core` the side of a tile, `in_network` what a pixel of those in the network takes (of the largest tried).

    >>> print(stream_cost((3, 32768, 32768), 1, {"outputs": ["foreground"] * 3, "halo": 112}))
    streamed: about 4,096 tiles, 1.6 GB of memory, 1.3 GB of disk while it runs
    """
    channels = shape[0]
    height, width = (max(1, round(side * zoom)) for side in shape[1:])
    outputs, halo = len(record.get("outputs", ())) or 1, int(record.get("halo") or 256)
    band = min(band_of(width), height)
    planes = channels if channels == 1 else max(channels, int(record.get("prepare", {}).get("channels", channels)))
    values = planes * (itemsize if zoom >= 1 else 4)  # a grey image is held in one plane, whatever the model takes
    shown = max(1.0, zoom)  # what is magnified is held as the file has it
    pixels = (band + 2 * halo) / shown * width / shown * values
    bands = 2 * pixels + 2 * band * width * outputs  # the one at hand and the one that is read; probabilities packed
    resampled = 0.0
    if zoom < 1:
        resampled = min(RESAMPLED, shape[1]) * shape[2] * (channels * itemsize + 4 * planes)
    elif zoom > 1:
        resampled = (MADE_AHEAD + 2) * min((core + 2 * halo) ** 2, height * width) * 4 * planes
    stays = left_on_disk(shape[1] * shape[2], geojson)
    tiles = in_network * min((LARGEST_CORE + 2 * halo) ** 2, height * width)
    memory = PROCESS + 2 * BLOCK + bands + resampled + kept + tiles
    return ImageCost(_tiles(height, width, core), memory, PLANES * height * width + stays, stays, streamed=True)
