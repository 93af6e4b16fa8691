"""From a prepared volume to probabilities: by exact boxes where the record gives halos, blended windows where not.

The answer comes in slabs, planes that follow each other along Z: what is held is one slab, whatever the volume's depth.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, product
from math import prod

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.inference.volume_grid import AT_ONCE, HeldVolume, Prepared
from pipeline.inference.windows import Tile
from pipeline.model.bundle import TrainedModel, VolumeRecord
from pipeline.model.targets import activate
from pipeline.types import Pixels, Window

WHOLE = 4_000_000  # voxels up to which a volume goes through in one piece, and that a box is held to where it can be
Sides = tuple[int, ...]
Forward = Callable[[Tensor], Tensor]


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


def choose_core(shape: Sides, halos: Sides, strides: Sides, most: int = WHOLE) -> Sides:
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


def _blended(volume: Prepared, window: Sides, device: str, forward: Forward) -> Iterator[Tensor]:
    """MONAI's `sliding_window_inference` (gaussian, overlapping by half) with its windows, weights and sums, in its
    order: bit for bit its answer. Sums are held of as many planes as a window has; those behind it are done with.
    """
    from monai.data.utils import compute_importance_map, dense_patch_slices  # only models that need it pay for MONAI

    shape = tuple(max(side, least) for side, least in zip(volume.shape, window, strict=True))
    before = tuple((padded - side) // 2 for padded, side in zip(shape, volume.shape, strict=True))
    steps = tuple(w if w == side else max(1, w // 2) for w, side in zip(window, shape, strict=True))
    weights = compute_importance_map(window, "gaussian", device=device)
    inner = tuple(slice(a, a + side) for a, side in zip(before[1:], volume.shape[1:], strict=True))
    total, count, top = torch.empty(0), torch.zeros((window[0], *shape[1:]), device=device), 0
    for first, layer in groupby(dense_patch_slices(shape, window, steps), key=lambda box: int(box[0].start)):
        if first > top:
            yield from _means(total, count, range(first - top), inner)
            _drop(total.unbind(), first - top)
            _drop([count], first - top)
        top = first
        for _, *sides in layer:
            answer = forward(_framed(volume, (first, *(s.start for s in sides)), window, before).to(device))[0]
            if not len(total):
                total = torch.zeros((len(answer), *count.shape), device=device)
            total[:, :, *sides] += answer * weights
            count[:, *sides] += weights
    yield from _means(total, count, range(max(0, before[0] - top), before[0] + volume.shape[0] - top), inner)


def _means(total: Tensor, count: Tensor, planes: range, inner: tuple[slice, ...]) -> Iterator[Tensor]:
    step = max(1, AT_ONCE // total[:, 0].numel())
    for first in planes[::step]:
        last = min(first + step, planes.stop)
        yield (total[:, first:last] / count[first:last])[:, :, *inner]


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


def _boxed(volume: Prepared, core: Sides, record: VolumeRecord, device: str, forward: Forward) -> Iterator[Tensor]:
    """Exact boxes, a layer of cores at a time."""
    assert record.halos is not None
    tiles = plan_boxes(volume.shape, core, record.halos, record.strides)
    for (first, last), layer in groupby(tiles, key=lambda tile: (tile.core.start[0], tile.core.stop[0])):
        slab = torch.empty(0)
        for tile in layer:
            answer = forward(torch.from_numpy(volume.box(tile.read))[None].to(device))[0][:, *tile.inner].cpu()
            if not len(slab):
                slab = torch.empty((len(answer), last - first, *volume.shape[1:]))
            slab[:, :, *tile.core.slices[1:]] = answer
        yield slab
        del slab  # while the next one is made


def _record(model: TrainedModel) -> VolumeRecord:
    volume = model.record.volume
    if volume is None:
        raise ModelError(model.record.name, "a model of images", "one of volumes", "train with network.dimensions: 3")
    return volume


def predict_slabs(
    model: TrainedModel, volume: Prepared, device: str = "cpu", *, core: Sides | None = None, tta: bool = False
) -> Iterator[Pixels]:
    """What `predict_volume` gives, as slabs `(K, z, Y, X)` that follow each other along Z: few planes are held."""
    record = _record(model)
    forward = partial(_mirrored if tta else _once, model)
    if core is None and prod(volume.shape) <= WHOLE:
        whole = torch.from_numpy(volume.box(Window((0, 0, 0), volume.shape)))[None].to(device)
        slabs: Iterator[Tensor] = (forward(part)[0] for part in (whole,))
    elif record.halos is None:
        slabs = _blended(volume, record.window, device, forward)
    else:
        cores = core or choose_core(volume.shape, record.halos, record.strides)
        slabs = _boxed(volume, cores, record, device, forward)
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
) -> Pixels:
    """Probabilities `(K, Z, Y, X)` float32 of a prepared volume `(C, Z, Y, X)` float32 on the strides' grid.

    `core` are the sides of a box's core; None takes a small volume whole and cuts a large one. With halos on record the
    answer is the same. `tta` takes the mean over the eight mirrorings. Raises ModelError for a model of images.
    """
    volume = HeldVolume(prepared) if isinstance(prepared, np.ndarray) else prepared
    answer = np.empty((len(model.record.outputs), *volume.shape), np.float32)
    done = 0
    for slab in predict_slabs(model, volume, device, core=core, tta=tta):
        answer[:, done : done + slab.shape[1]] = slab
        done += slab.shape[1]
    return answer
