"""From a prepared volume to probabilities: by exact boxes where the record gives halos, blended windows where not."""

from collections.abc import Iterator
from itertools import product
from math import prod

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.inference.windows import Tile
from pipeline.model.bundle import TrainedModel, VolumeRecord
from pipeline.model.targets import activate
from pipeline.types import Pixels, Window

_WHOLE = 4_000_000  # voxels up to which a volume goes through in one piece, and that a box is held to where it can be
Sides = tuple[int, ...]


def plan_boxes(shape: Sides, core: Sides, halos: Sides, strides: Sides) -> Iterator[Tile]:
    """Boxes over `shape`, with a core, halo and stride for each axis; every voxel lies in exactly one core.

    >>> [(t.read.stop, t.core.start) for t in plan_boxes((8, 16), (8, 8), (4, 8), (4, 8))]
    [((8, 16), (0, 0)), ((8, 16), (0, 8))]
    """
    steps = tuple(max(stride, side // stride * stride) for side, stride in zip(core, strides, strict=True))
    for start in product(*(range(0, side, step) for side, step in zip(shape, steps, strict=True))):
        stop = tuple(min(side, a + step) for side, a, step in zip(shape, start, steps, strict=True))
        first = tuple(max(0, a - halo) for a, halo in zip(start, halos, strict=True))
        last = tuple(min(side, b + halo) for side, b, halo in zip(shape, stop, halos, strict=True))
        yield Tile(Window(first, last), Window(start, stop))


def choose_core(shape: Sides, halos: Sides, strides: Sides, most: int = _WHOLE) -> Sides:
    """The largest core whose box holds at most `most` voxels: the volume itself, its longest sides halved in turn.

    >>> choose_core((512, 512, 512), (48, 48, 48), (8, 8, 8))
    (32, 64, 64)
    """
    core = list(shape)

    def box() -> int:
        return prod(min(side, a + 2 * halo) for side, a, halo in zip(shape, core, halos, strict=True))

    while box() > most:
        axis = max(range(len(core)), key=lambda k: core[k] / strides[k])
        if core[axis] <= strides[axis]:
            break
        core[axis] = max(strides[axis], -(-core[axis] // 2 // strides[axis]) * strides[axis])
    return tuple(core)


def _once(model: TrainedModel, volume: Tensor) -> Tensor:
    with torch.autocast(volume.device.type, torch.bfloat16, enabled=volume.device.type == "cuda"):
        logits: Tensor = model.network(volume)
    return activate(logits.float(), model.record.target)


def _mirrored(model: TrainedModel, volume: Tensor) -> Tensor:
    """The mean over the eight mirrorings. Boxes stay on the strides' grid, so that they stay exact."""
    total = torch.zeros(())
    for axes in product((False, True), repeat=3):
        flipped = [2 + axis for axis, flips in enumerate(axes) if flips]
        answer = torch.flip(_once(model, torch.flip(volume, flipped)), flipped)
        total = total.to(answer) + answer
    return total / 8


def _blended(model: TrainedModel, volume: Tensor, window: Sides, tta: bool) -> Tensor:
    from monai.inferers.utils import sliding_window_inference  # only models that need blending pay for MONAI

    forward = _mirrored if tta else _once
    answer = sliding_window_inference(volume, window, 1, lambda x: forward(model, x), overlap=0.5, mode="gaussian")
    assert isinstance(answer, Tensor)
    return answer


def _record(model: TrainedModel) -> VolumeRecord:
    volume = model.record.volume
    if volume is None:
        raise ModelError(model.record.name, "a model of images", "one of volumes", "train with network.dimensions: 3")
    return volume


def predict_volume(
    model: TrainedModel, prepared: Pixels, device: str = "cpu", *, core: Sides | None = None, tta: bool = False
) -> Pixels:
    """Probabilities `(K, Z, Y, X)` float32 of a prepared volume `(C, Z, Y, X)` float32 on the strides' grid.

    `core` are the sides of a box's core; None takes a small volume whole and cuts a large one. With halos on record the
    answer is the same. `tta` takes the mean over the eight mirrorings. Raises ModelError for a model of images.
    """
    record = _record(model)
    shape = prepared.shape[1:]
    forward = _mirrored if tta else _once
    with torch.inference_mode():
        volume = torch.from_numpy(prepared)[None].to(device)
        if core is None and prod(shape) <= _WHOLE:
            whole: Pixels = forward(model, volume)[0].cpu().numpy()
            return whole
        if record.halos is None:
            blended: Pixels = _blended(model, volume, record.window, tta)[0].cpu().numpy()
            return blended
        answer = torch.empty((len(model.record.outputs), *shape), dtype=torch.float32)
        cores = core or choose_core(shape, record.halos, record.strides)
        for tile in plan_boxes(shape, cores, record.halos, record.strides):
            read = (slice(None), slice(None), *tile.read.slices)
            inner = (slice(None), *tile.inner)
            answer[(slice(None), *tile.core.slices)] = forward(model, volume[read])[0][inner].cpu()
    return answer.numpy()
