"""From a prepared volume to probabilities: by exact boxes where the record gives halos, blended windows where not.

The answer comes in slabs, planes that follow each other along Z: what is held is one slab, whatever the volume's depth.
A device that is full gets smaller boxes, or is relieved of the windows' sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from math import prod
from operator import le

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.inference.boxes import WHOLE as WHOLE
from pipeline.inference.boxes import Sides, box_of, choose_core, moved, plan_boxes
from pipeline.inference.volume_grid import AT_ONCE, HeldVolume, Prepared
from pipeline.model.bundle import TrainedModel, VolumeRecord
from pipeline.model.targets import activate
from pipeline.types import Pixels, Window

Forward = Callable[[Tensor], Tensor]


@dataclass
class Room:
    """What a device has been found to have room for; it shrinks, and stays so, when the device is full."""

    voxels: int = WHOLE  # of a box
    sums: bool = True  # of blended windows; else they lie in the host's memory


def _once(model: TrainedModel, volume: Tensor) -> Tensor:
    record, (depth, height, width) = _record(model), volume.shape[2:]
    if record.halos is None and all(map(le, volume.shape[2:], record.strides)):
        for axis in (2, 3, 4):  # mirrored: statistics of the whole field need more than one value a channel
            volume = torch.cat([volume, volume.flip(axis)], dim=axis)
    with torch.autocast(volume.device.type, torch.bfloat16, enabled=volume.device.type == "cuda"):
        logits: Tensor = model.network(volume)
    return activate(logits[..., :depth, :height, :width].float(), model.record.target)


def _mirrored(model: TrainedModel, volume: Tensor) -> Tensor:
    """The mean over the eight mirrorings. Boxes stay on the strides' grid, so that they stay exact."""
    total = torch.zeros(())
    for axes in product((False, True), repeat=3):
        flipped = [2 + axis for axis, flips in enumerate(axes) if flips]
        answer = torch.flip(_once(model, torch.flip(volume, flipped)), flipped)
        total = total.to(answer) + answer
    return total / 8


def _tried(work: Callable[[], Tensor]) -> Tensor | None:
    """What `work` gives, None where the device has no room for it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # what the work has made is let go of behind this block
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _no_room(device: str, shape: Sequence[int]) -> ModelError:
    wanted = f"room for {' x '.join(map(str, shape))} voxels in the network"
    return ModelError(f"device {device}", "out of memory", wanted, "use --device cpu, or a device with more memory")


def _whole(volume: Prepared, device: str, forward: Forward) -> Iterator[Tensor]:
    """In one piece, which windows would not be: a full device is an error."""
    box = torch.from_numpy(volume.box(Window((0, 0, 0), volume.shape)))[None]
    answer = _tried(lambda: forward(box.to(device))[0].cpu())
    if answer is None:
        raise _no_room(device, volume.shape)
    yield answer


def _sums(shape: Sides, room: Room, device: str) -> Tensor:
    """Zeros on the device, as long as it has room."""
    zeros = _tried(lambda: torch.zeros(shape, device=device)) if room.sums else None
    room.sums = zeros is not None
    return torch.zeros(shape) if zeros is None else zeros


def _blended(volume: Prepared, window: Sides, device: str, forward: Forward, room: Room) -> Iterator[Tensor]:
    """MONAI's `sliding_window_inference` (gaussian, overlapping by half) with its windows, weights and sums, in its
    order: bit for bit its answer. Sums are held of as many planes as a window has; those behind it are done with.
    """
    from monai.data.utils import compute_importance_map, dense_patch_slices  # only models that need it pay for MONAI

    shape = tuple(max(side, least) for side, least in zip(volume.shape, window, strict=True))
    before = tuple((padded - side) // 2 for padded, side in zip(shape, volume.shape, strict=True))
    steps = tuple(w if w == side else max(1, w // 2) for w, side in zip(window, shape, strict=True))
    weights = compute_importance_map(window, "gaussian", device=device)
    inner = tuple(slice(a, a + side) for a, side in zip(before[1:], volume.shape[1:], strict=True))
    total, count, top = torch.empty(0), _sums((window[0], *shape[1:]), room, device), 0
    for first, layer in groupby(dense_patch_slices(shape, window, steps), key=lambda box: int(box[0].start)):
        if first > top:
            yield from _means(total, count, range(first - top), inner)
            _drop(total.unbind(), first - top)
            _drop([count], first - top)
        top = first
        for _, *sides in layer:
            box = _framed(volume, (first, *(s.start for s in sides)), window, before)
            answer = _tried(partial(_weighted, forward, box, weights))
            if answer is None and room.sums:
                total, count, room.sums = total.cpu(), count.cpu(), False
                answer = _tried(partial(_weighted, forward, box, weights))
            if answer is None:
                raise _no_room(device, window)
            if not len(total):
                total = _sums((len(answer), *count.shape), room, device)
            total[:, :, *sides] += answer.to(total.device)
            count[:, *sides] += weights.to(count.device)
    yield from _means(total, count, range(max(0, before[0] - top), before[0] + volume.shape[0] - top), inner)


def _weighted(forward: Forward, box: Tensor, weights: Tensor) -> Tensor:
    return forward(box.to(weights.device))[0] * weights


def _means(total: Tensor, count: Tensor, planes: range, inner: tuple[slice, ...]) -> Iterator[Tensor]:
    step = max(1, AT_ONCE // total[:, 0].numel())
    for first in planes[::step]:
        last = min(first + step, planes.stop)
        yield (total[:, first:last].cpu() / count[first:last].cpu())[:, :, *inner]


def _drop(held: Sequence[Tensor], planes: int) -> None:
    """Let go of the first planes of each `(Z, Y, X)`, in place; zeros come in at the end."""
    for sums in held:
        for plane in range(len(sums) - planes):
            sums[plane] = sums[plane + planes]
        sums[len(sums) - planes :] = 0


def _framed(volume: Prepared, start: Sides, window: Sides, before: Sides) -> Tensor:
    """A window `(1, C, z, y, x)` of the volume with `before` zeros in front of it, and as many as it takes behind."""
    first = tuple(max(0, a - b) for a, b in zip(start, before, strict=True))
    last = tuple(min(n, a - b + w) for n, a, b, w in zip(volume.shape, start, before, window, strict=True))
    box = volume.box(Window(first, last))
    missing = [(w - n) for w, n in zip(window, box.shape[1:], strict=True)]
    front = [max(0, b - a) for a, b in zip(start, before, strict=True)]
    sides = [(0, 0), *((a, both - a) for a, both in zip(front, missing, strict=True))]
    return torch.from_numpy(np.pad(box, sides) if any(missing) else box)[None]


def _boxed(
    volume: Prepared, core: Sides, record: VolumeRecord, device: str, forward: Forward, room: Room
) -> Iterator[Tensor]:
    """Exact boxes, a layer of cores at a time."""
    assert record.halos is not None
    tiles = plan_boxes(volume.shape, core, record.halos, record.strides)
    for (first, last), layer in groupby(tiles, key=lambda tile: (tile.core.start[0], tile.core.stop[0])):
        slab = torch.empty(0)
        for tile in layer:
            box = torch.from_numpy(volume.box(tile.read))
            answer = _inside(box, moved(tile.core, tile.read.start), record, device, forward, room)
            if not len(slab):
                slab = torch.empty((len(answer), last - first, *volume.shape[1:]))
            slab[:, :, *tile.core.slices[1:]] = answer
        yield slab
        del slab  # while the next one is made


def _inside(box: Tensor, inside: Window, record: VolumeRecord, device: str, forward: Forward, room: Room) -> Tensor:
    """The answer `(K, z, y, x)` to what lies inside a box `(C, Z, Y, X)`; by smaller boxes where the device is full."""
    shape, halos, strides = tuple(box.shape[1:]), record.halos, record.strides
    assert halos is not None
    core = choose_core(shape, halos, strides, room.voxels)
    if box_of(shape, core, halos) == prod(shape):
        answer = _tried(lambda: forward(box[None].to(device))[0][:, *inside.slices].cpu())
        if answer is not None:
            return answer
        room.voxels = min(room.voxels, prod(shape) - 1)  # the next smaller core: half of it would be mostly halo
        core = choose_core(shape, halos, strides, room.voxels)
        if box_of(shape, core, halos) == prod(shape):
            raise _no_room(device, shape)
    answer = torch.empty(0)
    for tile in plan_boxes(shape, core, halos, strides, inside):
        part = box[:, *tile.read.slices].contiguous()
        found = _inside(part, moved(tile.core, tile.read.start), record, device, forward, room)
        if not len(answer):
            answer = torch.empty((len(found), *inside.shape))
        answer[:, *moved(tile.core, inside.start).slices] = found
    return answer


def _record(model: TrainedModel) -> VolumeRecord:
    volume = model.record.volume
    if volume is None:
        raise ModelError(model.record.name, "a model of images", "one of volumes", "train with network.dimensions: 3")
    return volume


def predict_slabs(
    model: TrainedModel,
    volume: Prepared,
    device: str = "cpu",
    *,
    core: Sides | None = None,
    tta: bool = False,
    room: Room | None = None,
) -> Iterator[Pixels]:
    """What `predict_volume` gives, as slabs `(K, z, Y, X)` that follow each other along Z: few planes are held."""
    room = room or Room()
    record = _record(model)
    forward = partial(_mirrored if tta else _once, model)
    if record.halos is not None:
        cores = core or choose_core(volume.shape, record.halos, record.strides, room.voxels)
        slabs = _boxed(volume, cores, record, device, forward, room)
    elif core is None and prod(volume.shape) <= WHOLE:
        slabs = _whole(volume, device, forward)
    else:
        slabs = _blended(volume, record.window, device, forward, room)
    while True:
        with torch.inference_mode():  # which a generator must not leave on for whoever takes its slabs
            slab = next(slabs, None)
        if slab is None:
            return
        answer: Pixels = slab.cpu().numpy()
        del slab
        yield answer
        del answer  # while the next one is made


def predict_volume(
    model: TrainedModel,
    prepared: Pixels | Prepared,
    device: str = "cpu",
    *,
    core: Sides | None = None,
    tta: bool = False,
    room: Room | None = None,
) -> Pixels:
    """Probabilities `(K, Z, Y, X)` float32 of a prepared volume `(C, Z, Y, X)` float32 on the strides' grid.

    `core` are the sides of a box's core; None takes a small volume whole and cuts a large one. With halos on record the
    answer is the same. `tta` takes the mean over the eight mirrorings. `room` is remembered from volume to volume where
    it is given. Raises ModelError for a model of images, and where the device has no room for the smallest box.
    """
    volume = HeldVolume(prepared) if isinstance(prepared, np.ndarray) else prepared
    answer = np.empty((len(model.record.outputs), *volume.shape), np.float32)
    done = 0
    for slab in predict_slabs(model, volume, device, core=core, tta=tta, room=room):
        answer[:, done : done + slab.shape[1]] = slab
        done += slab.shape[1]
    return answer
