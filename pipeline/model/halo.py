"""How far a network sees: derived by a NaN probe, not typed in.

A NaN in row y poisons just the output rows that depend on y. (Zero-gradient probes under-read after ReLU.) The halo
for tiles whose cores start and stop on multiples of the stride is the farthest a core's answer reaches outside it.
"""

import numpy as np
import torch
from torch import nn


def probe_halo(network: nn.Module, channels: int, stride: int, *, limit: int = 512) -> int | None:
    """Halo in pixels, a multiple of `stride`; None where the network sees the whole field (blend its windows then).

    The probe runs one image of `2 * limit + stride` rows for each of the `stride` phases.
    """
    rows = 2 * limit + stride
    was_training = network.training
    network.eval()
    halo = 0
    try:
        for phase in range(stride):
            row = limit // stride * stride + phase
            image = torch.zeros(1, channels, rows, 2 * stride)
            image[:, :, row] = torch.nan
            with torch.inference_mode():
                poisoned = torch.isnan(network(image)).any(dim=3).any(dim=1)[0].numpy()
            first, last = np.flatnonzero(poisoned)[[0, -1]]
            if first == 0 or last == rows - 1:
                return None
            before = last // stride * stride - row  # a core that starts at `start` needs rows from start - halo
            after = row - (-(-(first + 1) // stride) * stride) + 1
            halo = max(halo, int(before), int(after))
    finally:
        network.train(was_training)
    return -(-halo // stride) * stride
