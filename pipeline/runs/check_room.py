"""Whether the machine has what an image takes: said with the numbers, before work is begun that could not end."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ImageOptions
from pipeline.errors import ImageError
from pipeline.runs.plan_large import ImageCost, stream_cost
from pipeline.types import ImageSource, Watch

if TYPE_CHECKING:
    from pipeline.data.sources import FileSource
    from pipeline.runs.segment_large import Streaming, Streams

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of containers


def machine_memory() -> int:
    """Bytes of memory that there are for us: the machine's, or the container's where it may have less."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for path in _LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits)


def memory_now() -> int:
    """Bytes of memory that we may have right now: those that are available, and what this process holds already."""
    import psutil

    return min(machine_memory(), int(psutil.virtual_memory().available + psutil.Process().memory_info().rss))


def free_disk(folder: Path) -> int:
    """Bytes free on the disk that a folder lies on, or will."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def held_in(scratch: Path) -> int:
    """Bytes that an earlier run left of its work."""
    return sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())


def check_room(cost: ImageCost, out: Path, scratch: Path | None = None) -> None:
    """Raise ImageError where an image takes more memory than there is, or more disk than is free; what `scratch` holds
    of it already need not be free.
    """
    memory = machine_memory()
    if cost.memory > memory:
        hint = "segment on a larger machine, with fewer --threads, a smaller --level, or at a larger --diameter"
        raise ImageError("memory", f"{memory / 1e9:.1f} GB in all", f"about {cost.memory / 1e9:.1f} GB", hint)
    needed = cost.disk - (held_in(scratch) if scratch else 0)
    if cost.asks_disk and needed > (free := free_disk(out)):
        came = f"{free / 1e9:.1f} GB free on the disk of {out}"
        raise ImageError("disk", came, f"about {needed / 1e9:.1f} GB", "free some disk, or give another --out")


@dataclass(frozen=True)
class Afforded:
    """What streams objects, asked whether there is room for an image once it is known how far it is magnified."""

    segmenter: "Streams"
    opened: "FileSource"
    record: Mapping[str, Any]
    out: Path
    scratch: Path
    geojson: bool
    in_network: float

    def stream(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch
    ) -> "Streaming":
        """As the segmenter's. Raises ImageError where there is no room."""
        streaming = self.segmenter.stream(source, options, scratch, identity, watch)
        zoom = float(streaming.statistics["zoom"])
        size = self.opened.dtype.itemsize
        kept, geojson = self.opened.kept, self.geojson
        cost = stream_cost(
            self.opened.shape, size, self.record, zoom, kept, geojson=geojson, in_network=self.in_network
        )
        check_room(cost, self.out, self.scratch)
        return streaming
