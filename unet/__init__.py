"""Networks and losses: torch and MONAI blocks; knows tensors, nothing else.

Batches are `(N, C, (Z,) Y, X)` float32, outputs are logits `(N, K, (Z,) Y, X)`. `build(kind, ...)` is the one place
where a network's name is known. `unet.losses` is for training alone: it takes MONAI, which segmenting does without.
"""

from unet.ensemble import Ensemble
from unet.networks import build, channels_last, images_layout, network_kinds
from unet.traits import (
    Side,
    count_as_keras,
    count_parameters,
    has_global_statistics,
    sides_of,
    stride_of,
    traces_at_any_size,
    without_statistics,
)
from unet.trimming import trim, trims

__all__ = [
    "Ensemble",
    "Side",
    "build",
    "channels_last",
    "count_as_keras",
    "count_parameters",
    "has_global_statistics",
    "images_layout",
    "network_kinds",
    "sides_of",
    "stride_of",
    "traces_at_any_size",
    "trim",
    "trims",
    "without_statistics",
]
