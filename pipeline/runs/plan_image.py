"""How one opened image will be done, and at what cost: held in memory or streamed, by its size for the network."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

from pipeline.config import SegmentConfig
from pipeline.inference.tile_sizes import largest_streamed
from pipeline.model.told_size import KnownSize
from pipeline.results.names import label_suffix
from pipeline.runs.plan_large import CORE, PROCESS, ImageCost, left_on_disk, stream_cost, whole_cost
from pipeline.runs.plan_volume import count_parts, volume_memory

if TYPE_CHECKING:
    from pipeline.data.sources import FileSource


_IN_NETWORK = {"torch": 420.0, "openvino": 390.0, "torch-bfloat16": 240.0, "openvino-int8": 170.0}
BESIDE = 8_000_000  # values; of larger images one at a time is held


def is_alone(shape: Sequence[int], zoom: float) -> bool:
    """Whether an image in memory is so large that no other of that size may be in the works beside it."""
    return prod(shape) * max(1.0, zoom) ** 2 > BESIDE


def can_stream(opened: "FileSource") -> bool:
    """Whether an image may be streamed; never where its labels are NIfTI."""
    return label_suffix(opened.path.name) != ".nii.gz"


def _threads(config: SegmentConfig) -> int:
    """As many as torch will take, which is not loaded to say so: what OpenMP is told first, else the cores."""
    import psutil

    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a number a level of nesting
    return config.threads or (int(told) if told.isdecimal() else 0) or psutil.cpu_count(logical=False) or 1


def bytes_in_network(config: SegmentConfig) -> float:
    """Bytes that a pixel of a tile takes in the network, times the tiles that are there at once: one a thread.

    Measured of the model that ships, as what the process held beyond everything else. OpenVINO keeps what the largest
    tile took, and tuning tries them all; torch's blocks lie between others, and leave gaps. Nothing of it lies in this
    process' memory where an accelerator is named.
    """
    engine = _on_cpu(config)
    return _threads(config) * _IN_NETWORK[engine] if engine else 0.0


def _on_cpu(config: SegmentConfig) -> str:
    """The engine of the CPU, empty where an accelerator is named."""
    if config.device not in ("auto", "cpu"):
        return ""
    if config.engine != "auto":
        return config.engine
    return "openvino" if find_spec("openvino") else "torch"


def plan_image(
    opened: "FileSource", config: SegmentConfig, record: Mapping[str, Any], core: int = CORE
) -> tuple[ImageCost, float]:
    """What an image costs, and the zoom that options, file and record say, 1.0 where the image itself has to.

    It is streamed where its pixels, or those of the network's grid, are more than may be held; `core` is the side of a
    tile. Raises ImageError where the zoom needs a pixel size that the image does not have.
    """
    if len(opened.shape) != 3:
        if not record.get("volume"):
            return ImageCost(0, PROCESS, 0.0, 0.0), 1.0
        parts, part = count_parts(opened, record)
        disk = left_on_disk(prod(opened.shape[1:]), config.geojson)
        return ImageCost(parts, volume_memory(opened, record), disk, disk, part=part), 1.0
    zoom = KnownSize.of(record).zoom(config, opened.geometry) or 1.0
    if prod(opened.shape[1:]) * max(1.0, zoom) ** 2 > config.whole_megapixels * 1e6 and can_stream(opened):
        size, kept, geojson = opened.dtype.itemsize, opened.kept, config.geojson
        core = min(core, largest_streamed(_on_cpu(config)))
        return stream_cost(
            opened.shape, size, record, zoom, kept, geojson=geojson, core=core, in_network=bytes_in_network(config)
        ), zoom
    return whole_cost(opened.shape, zoom, geojson=config.geojson, core=core), zoom
