"""Depthwise convolution that learns quickly in bfloat16 on processors."""

import torch
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """One filter a channel, `(N, C, Y, X)` to `(N, C, Y/s, X/s)`, in float32 where a processor learns in bfloat16.

    The backward pass in bfloat16 of 5 x 5 and of strided depthwise convolutions has no quick kernel in oneDNN: it took
    5 to 30 times as long as in float32 and a quarter of the whole training step.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        slow = x.device.type == "cpu" and (self.kernel_size[0] > 3 or self.stride[0] > 1)
        if not (slow and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())
