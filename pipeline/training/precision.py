"""What a network computes in while it learns: bfloat16 where the machine multiplies it natively, float32 elsewhere."""

from typing import Literal

import torch

from unet.folding import processor_has_bfloat16

Precision = Literal["auto", "float32", "bfloat16"]


def choose_precision(wanted: Precision, device: str) -> torch.dtype:
    """The dtype that convolutions compute in on `device`; weights, BatchNorm statistics and losses stay float32.

    `auto` is bfloat16 on every GPU, and on processors with AVX512-BF16 or AMX (1.5x the speed of float32 there; without
    these, bfloat16 is emulated and slower). bfloat16 has the range of float32, so the loss needs no scaling
    (Kalamkar et al. 2019).
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if device == "cpu" and processor_has_bfloat16() else torch.float32
