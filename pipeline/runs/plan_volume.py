"""What segmenting a volume will hold in memory, from its header and the model's record."""

from collections.abc import Mapping
from math import prod
from typing import Any

from pipeline.config import PrepareConfig
from pipeline.errors import ImageError
from pipeline.results.names import label_suffix
from pipeline.runs.plan_large import PROCESS
from pipeline.types import ImageSource

AT_HAND = 3e8  # bytes, about, of the planes that are decoded or measured together, and of the report's picture
BESIDE = 3  # times the first layer's channels (16 at least, as oneDNN lays them out) held of each voxel at once
OBJECTS = 60  # bytes a voxel while objects are told apart, beside their probabilities


def volume_memory(source: ImageSource, record: Mapping[str, Any]) -> float:
    """Bytes, about, that a volume `(C, Z, Y, X)` takes at its peak with a model of this record.

    The volume in its file's own numbers and its labels are held whole, of objects the probabilities too; all else is a
    slab of planes, and one box in the network.
    """
    shape = source.shape[1:]
    grid, box, slab, outputs = _inside(source, record)
    network = record.get("network", {})
    filters = network.get("filters") or 32
    first = filters if isinstance(filters, int) else filters[0]  # some kinds have one number, from which all follow
    features = 4 * (BESIDE * max(16, first) + 2 * outputs)
    held = prod(source.shape) * source.dtype.itemsize
    if record.get("target", {}).get("kind") == "classes":
        labels = prod(shape) * (1 if label_suffix(source.path.name) == ".nii.gz" else 3)
        return PROCESS + held + labels + 4.0 * outputs * slab + max(AT_HAND, features * box)
    decided = max(prod(shape), prod(grid))
    answer = 4.0 * outputs * decided
    return PROCESS + held + answer + max(OBJECTS * decided, 4.0 * outputs * slab + features * box)


def count_parts(source: ImageSource, record: Mapping[str, Any]) -> tuple[int, str]:
    """How many boxes or windows of a volume `(C, Z, Y, X)` the network is asked for, and which of the two."""
    from pipeline.inference.boxes import WHOLE, choose_core

    window, halos, strides = (tuple(record["volume"][name] or ()) for name in ("window", "halos", "strides"))
    grid = tuple(side + -side % stride for side, stride in zip(_grid(source, record), strides, strict=True))  # padded
    if halos:
        core = choose_core(grid, halos, strides)
        return prod(-(-side // a) for side, a in zip(grid, core, strict=True)), "box"
    if prod(grid) <= WHOLE:
        return 1, "box"
    steps = ((side, w, max(1, w // 2)) for side, w in zip(grid, window, strict=True))  # windows overlap by half
    return prod(-(-max(0, side - w) // step) + 1 for side, w, step in steps), "window"


def _grid(source: ImageSource, record: Mapping[str, Any]) -> tuple[int, ...]:
    """The network's grid."""
    from pipeline.model.volumes import grid_shape

    try:
        return grid_shape(source.shape[1:], source.geometry, PrepareConfig.model_validate(record["prepare"]))
    except ImageError:  # no voxel size: the image will say so itself, unless one is given
        return source.shape[1:]


def _inside(source: ImageSource, record: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int, int]:
    """The network's grid, the voxels of a box in it, those of a slab of its answer, its outputs."""
    from pipeline.inference.boxes import WHOLE, choose_core

    outputs, volume, shape = len(record.get("outputs", ())) or 1, record["volume"], source.shape[1:]
    grid = _grid(source, record)
    if max(prod(grid), prod(shape)) <= WHOLE:
        return grid, prod(grid), prod(grid), outputs
    window, halos, strides = (tuple(volume[name] or ()) for name in ("window", "halos", "strides"))
    if halos:
        core = choose_core(grid, halos, strides)
        box = prod(min(side, a + 2 * halo) for side, a, halo in zip(grid, core, halos, strict=True))
        return grid, box, core[0] * prod(grid[1:]), outputs
    slab = window[0] * prod(max(side, w) for side, w in zip(grid[1:], window[1:], strict=True))
    return grid, prod(window), slab * (outputs + 1) // outputs, outputs
