"""How far a network sees: derived by a NaN probe, not typed in.

A NaN in row y poisons just the output rows that depend on y. (Zero-gradient probes under-read after ReLU.) The halo
for tiles whose cores start and stop on multiples of the stride is the farthest a core's answer reaches outside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipeline.errors import ModelError


def probe_halo(network: nn.Module, channels: int, stride: int, *, limit: int = 512) -> int | None:
    """Halo of a network of images that treats both axes alike: in pixels, a multiple of `stride`.

    None where the network sees the whole field (blend its windows then), or farther than `limit`.
    """
    halos = probe_halos(network, channels, (stride, stride), axes=(0,), limit=limit)
    return halos[0] if halos else None


def probe_halos(
    network: nn.Module, channels: int, strides: Sequence[int], *, axes: Sequence[int] | None = None, limit: int = 512
) -> tuple[int, ...] | None:
    """Halo along each of `axes` (default: all) of a network with one stride an axis, `((Z,) Y, X)`; None as above.

    The probe runs one image of `2 * limit + stride` rows for each phase of the stride, and is content with a quarter
    of `limit` where the network sees no farther.
    """
    was_training = network.training
    network.eval()
    halos: list[int] = []
    try:
        for axis in range(len(strides)) if axes is None else axes:
            halo = _along(network, channels, strides, axis, limit // 4)
            halo = _along(network, channels, strides, axis, limit) if halo is None else halo
            if halo is None:
                return None
            halos.append(halo)
    finally:
        network.train(was_training)
    return tuple(halos)


@torch.inference_mode()
def _along(network: nn.Module, channels: int, strides: Sequence[int], axis: int, limit: int) -> int | None:
    stride = strides[axis]
    sides = [2 * each for each in strides]
    sides[axis] = rows = 2 * (limit // stride * stride) + stride
    halo = 0
    for phase in range(stride):
        row = limit // stride * stride + phase
        image = torch.zeros(1, channels, *sides)
        image.select(2 + axis, row).fill_(torch.nan)
        poisoned = torch.isnan(network(image)).movedim(2 + axis, 0).flatten(1).any(dim=1).numpy()
        first, last = np.flatnonzero(poisoned)[[0, -1]]
        if first == 0 or last == rows - 1:
            return None
        before = last // stride * stride - row  # a core that starts at `start` needs rows from start - halo
        after = row - (-(-(first + 1) // stride) * stride) + 1
        halo = max(halo, int(before), int(after))
    return -(-halo // stride) * stride


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
