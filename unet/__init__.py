"""Networks and losses: torch and MONAI blocks; knows tensors, nothing else.

Batches are `(N, C, Y, X)` float32, outputs are logits `(N, K, Y, X)`. `build(kind, ...)` is the one place where a
network's name is known. `unet.losses` is for training alone: it takes MONAI, which segmenting does without.
"""

from unet.ensemble import Ensemble
from unet.networks import build, channels_last, network_kinds

__all__ = ["Ensemble", "build", "channels_last", "network_kinds"]
