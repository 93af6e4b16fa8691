"""What streaming an image will cost, from its header and the model's record: tiles, memory, disk. Refused beforehand
where the disk will not do.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ImageError
from pipeline.inference.blocks import band_of

PROCESS = 700e6  # bytes of the process, its libraries and the model
BLOCK = 2.2e8  # bytes that decoding one block takes at most, about: probabilities, labels, rows
CORE = 512  # a usual tile
DISK = 1.1  # bytes a pixel while it runs: packed probabilities (0.9 where they are noisy) and labels


@dataclass(frozen=True)
class StreamCost:
    """Of one image: how many tiles, and bytes of memory and of disk while it runs."""

    tiles: int
    memory: float
    disk: float

    def __str__(self) -> str:
        return (
            f"streamed: about {self.tiles:,} tiles, {self.memory / 1e9:.1f} GB of memory, "
            f"{self.disk / 1e9:.1f} GB of disk while it runs"
        )


def stream_cost(shape: tuple[int, ...], itemsize: int, record: Mapping[str, Any]) -> StreamCost:
    """What an image `(C, Y, X)` of `itemsize` bytes a value costs at its own size, with a model of this record.

    >>> print(stream_cost((3, 32768, 32768), 1, {"outputs": ["foreground"] * 3, "halo": 112}))
    streamed: about 4,096 tiles, 1.6 GB of memory, 1.2 GB of disk while it runs
    """
    channels, height, width = shape
    outputs, halo = len(record.get("outputs", ())) or 1, int(record.get("halo") or 256)
    band = band_of(width)
    rows = band + 2 * halo
    planes = channels if channels == 1 else max(channels, int(record.get("prepare", {}).get("channels", channels)))
    pixels = rows * width * planes * itemsize  # a grey image is held in one plane, whatever the model takes
    bands = 2 * pixels + 2 * band * width * outputs  # the one at hand and the one that is read; probabilities packed
    tiles = -(-height // CORE) * -(-width // CORE)
    return StreamCost(tiles, PROCESS + 2 * BLOCK + bands, DISK * height * width)


def check_disk(cost: StreamCost, out: Path) -> None:
    """Raise ImageError where the disk of `out` has less room than the image will need."""
    free = shutil.disk_usage(out).free
    if cost.disk > free:
        came = f"{free / 1e9:.1f} GB free on the disk of {out}"
        raise ImageError("disk", came, f"about {cost.disk / 1e9:.1f} GB", "free some disk, or give another --out")
