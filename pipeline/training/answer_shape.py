"""What a network answers with, asked before anything is trained: a loss would stretch a wrong answer to the target."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import unet
from pipeline.config import SingleNetwork
from pipeline.errors import TrainingError


def check_answer(network: nn.Module, config: SingleNetwork) -> None:
    """Raise TrainingError unless the finest logits are `(N, out_channels, (Z,) Y, X)`, of the image's own sides.

    One forward on torch's meta device: shapes alone, nothing is computed.
    """
    stride = unet.stride_of(network)
    strides = stride if isinstance(stride, tuple) else (stride,) * config.dimensions
    sides = [each * max(2, 256 // each if config.dimensions == 2 else 4) for each in strides]
    drawn = copy.deepcopy(network).eval().to("meta")
    with torch.no_grad():
        try:
            logits: Tensor | list[Tensor] = drawn(torch.empty(1, config.in_channels, *sides, device="meta"))
        except RuntimeError as error:
            came = f"{str(error).splitlines()[0]}, given an image of {_times(sides)}"
            raise TrainingError("network", came, "an answer", "correct the network's settings") from None
    finest = logits if isinstance(logits, Tensor) else logits[0]
    if finest.shape[1:] != (config.out_channels, *sides):
        raise TrainingError(
            "network",
            f"{finest.shape[1]} x {_times(finest.shape[2:])} for an image of {_times(sides)}",
            f"{config.out_channels} x {_times(sides)}",
            "a network learns from answers as large as its images; correct its settings",
        )


def _times(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
