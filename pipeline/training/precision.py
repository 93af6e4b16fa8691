"""What a network computes in while it learns: bfloat16 where the machine multiplies it natively, float32 elsewhere."""

from collections.abc import Mapping
from typing import Literal

import torch

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
    return torch.bfloat16 if device == "cpu" and _processor_has_bfloat16() else torch.float32


def _processor_has_bfloat16() -> bool:
    """Asked of torch, whose older versions do not say."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
