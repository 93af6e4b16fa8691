"""How far a network sees: derived by a NaN probe, not typed in.

A NaN in row y poisons just the output rows that depend on y. (Zero-gradient probes under-read after ReLU.) The halo
for tiles whose cores start and stop on multiples of the stride is the farthest a core's answer reaches outside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import unet
from pipeline.errors import ModelError

FARTHEST = 512  # px: networks that see farther have no halo


def probe_halo(network: nn.Module, channels: int, stride: int, *, limit: int = FARTHEST) -> int | None:
    """Halo of a network of images that treats both axes alike: in pixels, a multiple of `stride`.

    None where the network sees the whole field (blend its windows then), or farther than `limit`.
    """
    halos = probe_halos(network, channels, (stride, stride), axes=(0,), limit=limit)
    return halos[0] if halos else None


def probe_halos(
    network: nn.Module,
    channels: int,
    strides: Sequence[int],
    *,
    axes: Sequence[int] | None = None,
    limit: int = FARTHEST,
) -> tuple[int, ...] | None:
    """Halo along each of `axes` (default: all) of a network with one stride an axis, `((Z,) Y, X)`; None as above.

    The probe runs one image of `2 * limit + stride` rows an axis, in which all rows of one cell of the stride's grid
    are NaN, and is content with a quarter or half of `limit` where the network sees no farther. Networks whose modules
    say that they take statistics of the whole field are not run at all.
    """
    if unet.has_global_statistics(network):
        return None
    was_training = network.training
    network.eval()
    halos: list[int] = []
    try:
        for axis in range(len(strides)) if axes is None else axes:
            tried = (_along(network, channels, strides, axis, each) for each in (limit // 4, limit // 2, limit))
            halo = next((found for found in tried if found is not None), None)
            if halo is None:
                return None
            halos.append(halo)
    finally:
        network.train(was_training)
    return tuple(halos)


def _along(network: nn.Module, channels: int, strides: Sequence[int], axis: int, limit: int) -> int | None:
    """The halo along `axis`: what one cell of the grid reaches, in whole cells, is what a cell's answer needs."""
    stride, sides = strides[axis], [unet.Side(each) for each in strides]
    reached = _poisoned(network, channels, sides, axis, limit, range(stride))
    return None if reached is None else max(reached[1] // stride, -(reached[0] // stride)) * stride


def _halo(reach: "Sequence[Reach]") -> int:
    """The halo of a network of which each phase of the stride's grid reaches so far, a multiple of the stride."""
    stride, halo = len(reach), 0
    for phase, (before, after) in enumerate(reach):
        far = (phase + after) // stride * stride - phase  # a core that starts at `start` needs rows from start - halo
        near = phase + (-(phase - before + 1) // stride) * stride + 1
        halo = max(halo, far, near)
    return -(-halo // stride) * stride


def _field(reach: "Sequence[Reach]") -> int:
    """How many rows the answer of one row is computed from, where it is most."""
    stride, fields = len(reach), []
    for row in range(stride):  # a row above it counts where it reaches down to it; of each phase the farthest one
        above = max(after - (after - row + phase) % stride for phase, (_, after) in enumerate(reach))
        below = max(before - (before + row - phase) % stride for phase, (before, _) in enumerate(reach))
        fields.append(above + 1 + below)
    return max(fields)


@dataclass(frozen=True)
class Sight:
    """How far a network sees along each axis: its halo (None: tiles cannot be exact), and the pixels of one answer."""

    halos: tuple[int, ...] | None
    fields: tuple[int, ...] | None  # None: more than `limit`
    limit: int
    regular: bool = True  # whether all strides see alike; those of windows need not, and `fields` are about


def probe_sight(network: nn.Module, channels: int, dimensions: int) -> Sight:
    """The receptive field of any network, and its halo where `probe_halos` finds one.

    The same NaN probe on a copy in which InstanceNorm and GroupNorm, which see the whole field, hand their input on.
    It tells how the answers depend on the pixels besides them, whatever the weights. Of phases of the stride between
    two that reach as far, the reach is taken to be the same.
    """
    drawn, sides = unet.without_statistics(network), unet.sides_of(network, dimensions)
    limits = (128, 512, 2048) if dimensions == 2 else (32, 128, 512)
    reaches: list[list[Reach]] = []
    regular = True
    for axis in range(dimensions):
        found = ((limit, _reach(drawn, channels, sides, axis, limit)) for limit in limits)
        limit, reach = next(((limit, each) for limit, each in found if each is not None), (0, None))
        if reach is None:
            return Sight(None, None, limits[-1])
        regular &= _one(drawn, channels, sides, axis, limit, len(reach)) in (reach[0], None)
        reaches.append(reach)
    fields = tuple(map(_field, reaches))
    far = any(max(max(each) for each in reach) >= FARTHEST // len(reach) * len(reach) for reach in reaches)
    tiles = not far and not unet.has_global_statistics(network) and all(side.least == 1 for side in sides)
    return Sight(tuple(map(_halo, reaches)) if tiles else None, fields, limits[-1], regular)


Reach = tuple[int, int]  # how many rows before and after one of a phase depend on it


def _reach(network: nn.Module, channels: int, sides: Sequence[unet.Side], axis: int, limit: int) -> list[Reach] | None:
    """The reach of a row of each phase of the stride along `axis`; None where it is `limit` or more.

    Phases between two whose rows reach up to the same two are not probed.
    """
    stride = sides[axis].step
    found: dict[int, tuple[int, int]] = {}  # the first and the last row that one of a phase reaches, from the phase 0

    def probe(phase: int) -> bool:
        reach = _one(network, channels, sides, axis, limit, phase)
        if reach is not None:
            found[phase] = phase - reach[0], phase + reach[1]
        return reach is not None

    def between(low: int, high: int) -> bool:
        if found[low] == found[high] or high - low < 2:
            found.update(dict.fromkeys(range(low + 1, high), found[low]))
            return True
        middle = (low + high) // 2
        return probe(middle) and between(low, middle) and between(middle, high)

    if not all(map(probe, {0, stride - 1})) or not between(0, stride - 1):
        return None
    return [(phase - found[phase][0], found[phase][1] - phase) for phase in range(stride)]


def _one(
    network: nn.Module, channels: int, sides: Sequence[unet.Side], axis: int, limit: int, phase: int
) -> Reach | None:
    """The reach of the row `phase` behind one on the stride's grid; None where it is `limit` or more."""
    found = _poisoned(network, channels, sides, axis, limit, range(phase, phase + 1))
    return None if found is None else (phase - found[0], found[1] - phase)


@torch.inference_mode()
def _poisoned(
    network: nn.Module, channels: int, sides: Sequence[unet.Side], axis: int, limit: int, phases: range
) -> tuple[int, int] | None:
    """The first and the last row that NaN in `phases` reach, all counted from a row on the stride's grid; None where
    that is `limit` or more.
    """
    stride = sides[axis].step
    shape = [side.above(2 * side.step) for side in sides]
    shape[axis] = rows = sides[axis].above(2 * (limit // stride * stride) + stride)
    row = rows // 2 // stride * stride
    image = torch.zeros(1, channels, *shape)
    image.narrow(2 + axis, row + phases.start, len(phases)).fill_(torch.nan)
    poisoned = torch.isnan(network(image)).movedim(2 + axis, 0).flatten(1).any(dim=1).numpy()
    first, last = map(int, np.flatnonzero(poisoned)[[0, -1]])
    if first == 0 or last == len(poisoned) - 1:
        return None
    cut = (rows - len(poisoned)) // 2  # of a network whose answer is smaller than its image
    return first + cut - row, last + cut - row


def dimensions(network: nn.Module) -> int:
    """2 or 3: how many axes the images of a network have."""
    return 3 if any(isinstance(module, nn.Conv3d) for module in network.modules()) else 2


def check_grid(network: nn.Module, channels: int, stride: int, halo: int | None) -> None:
    """Raise ModelError where a recorded stride or halo is too small for the network.

    One small forward an axis (tens of milliseconds; `probe_halo`, which finds the halo, takes one a phase): everything
    beyond the halo of one core is NaN, on both sides of it, and none of it may reach the core. As the core lies on the
    stride's grid, this is true of every core.
    """
    own = int(network.stride)  # type: ignore[arg-type]
    if stride % own:
        raise ModelError(
            "the model's record", f"stride {stride}", f"a multiple of the network's {own}", "train or export it again"
        )
    if halo is None:
        return
    beyond = 2 * stride
    length = 2 * (halo + beyond) + stride
    was_training, device = network.training, next(network.parameters()).device
    for axis in range(dimensions(network)):
        sides = [length if other == axis else 2 * stride for other in range(dimensions(network))]
        image = torch.full((1, channels, *sides), torch.nan, device=device)
        image.narrow(2 + axis, beyond, length - 2 * beyond).zero_()
        with torch.inference_mode():
            answer = network.eval()(image)
        network.train(was_training)
        if torch.isnan(answer.narrow(2 + axis, beyond + halo, stride)).any():
            wanted = "all that the network sees"
            raise ModelError("the model's record", f"halo {halo} px", wanted, "train or export it again")
