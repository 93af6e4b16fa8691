"""The U-Net of Ronneberger, Fischer and Brox (2015), figure 1: unpadded convolutions, copy and crop, overlap-tile.

    572² -> conv 570 conv 568 ------------ crop 392 ------------> conv 390 conv 388 -> 1x1 head, 388²
    284² pool, conv 282 conv 280 ------- crop 200 -------> conv 198 conv 196, up 392
    140²   pool, conv 138 conv 136 ---- crop 104 ----> conv 102 conv 100, up 200
     68²     pool, conv 66 conv 64 --- crop 56 --> conv 54 conv 52, up 104
     32²       pool, conv 30 conv 28, up 56

Two 3x3 convolutions a level with ReLU, 2x2 max pooling, 2x2 up-convolutions that halve the channels: 23 convolutional
layers with five levels, 31,030,658 parameters with 64 filters up, one channel in and two classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unet.traits import Side


def _level(inputs: int, outputs: int) -> nn.Sequential:
    convolutions = nn.Conv2d(inputs, outputs, 3), nn.Conv2d(outputs, outputs, 3)
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # deviation sqrt(2 / N), as the paper has it
    return nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU())


def crop_middle(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The middle of `x` `(N, C, Y, X)` that has `shape` `(y, x)`."""
    (height, width), (y, x_) = x.shape[-2:], shape
    top, left = (height - y) // 2, (width - x_) // 2
    return x[..., top : top + y, left : left + x_]


def mirror(image: Tensor, before: int, after: int) -> Tensor:
    """`image` `(N, C, Y, X)`, wider by `before` and `after` on both axes, mirrored about its outermost pixels.

    Unlike torch's reflection the border may be wider than the image, which is mirrored again then.

    >>> mirror(torch.tensor([[[[1., 2.], [3., 4.]]]]), 1, 3)[0, 0, 1].tolist()
    [2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    """
    for axis in (-2, -1):
        at = torch.arange(-before, image.shape[axis] + after, device=image.device).abs()
        period = torch.full_like(at, 2 * image.shape[axis] - 2)  # a tensor, as ONNX takes remainders of nothing else
        at = at % period
        image = image.index_select(axis, torch.minimum(at, period - at))
    return image


class OriginalUNet(nn.Module):
    """The paper's network, by `borders` in one of two forms.

    `valid` is the figure's: logits `(N, out_channels, Y - 2m, X - 2m)` of an image `(N, in_channels, Y, X)` whose
    sides are among `valid_side`; m is `margin`, 92 px with five levels (572 -> 388). `mirrored` is its overlap-tile
    strategy: the image, with sides divisible by `stride`, is extended by mirroring and the answer has its size. So
    tiles with a halo (the overlap) give the whole-image answer, and a crop can be trained on as with any network.

    `dropout` is at the end of the contracting path.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        dropout: float = 0.0,
        borders: Literal["valid", "mirrored"] = "mirrored",
    ) -> None:
        super().__init__()
        self.levels, self.borders = len(filters), borders
        self.stride: int = 2 ** (self.levels - 1)
        self.margin: int = 2 * (3 * self.stride - 2)  # 4 at the bottom, 2d + 8 a level; half a side
        if borders == "valid":
            self.side = Side(self.stride, 4 * (self.stride - 1) % self.stride, self.valid_side(1))
        self.down = nn.ModuleList(_level(i, o) for i, o in zip((in_channels, *filters[:-1]), filters, strict=True))
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(_level(2 * shallow, shallow) for _, shallow in pairs)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(filters[0], out_channels, 1)

    def valid_side(self, least: int) -> int:
        """The smallest side of at least `least` px that gives an answer and halves evenly at each step: 16k + 12."""
        rest = 4 * (self.stride - 1)
        least = max(least, 2 * self.margin + 1)
        steps = (least - rest + self.stride - 1) // self.stride  # not -(-a // b), which comes out otherwise when traced
        return self.stride * steps + rest

    def forward(self, image: Tensor) -> Tensor:
        if self.borders == "valid":
            return self.contract_and_expand(image)
        height, width = image.shape[-2:]
        surplus = self.valid_side(height + 2 * self.margin) - height - 2 * self.margin
        logits = self.contract_and_expand(mirror(image, self.margin, self.margin + surplus))
        return logits[..., :height, :width]

    def contract_and_expand(self, image: Tensor) -> Tensor:
        """The figure: `(N, C, Y, X)` to logits `(N, K, Y - 2m, X - 2m)`."""
        x, copies = image, []
        for level in self.down[:-1]:
            x = level(x)
            copies.append(x)
            x = self.pool(x)
        x = self.dropout(self.down[-1](x))
        for up, merge, copy in zip(self.up, self.merge, reversed(copies), strict=True):
            x = up(x)
            x = merge(torch.cat([crop_middle(copy, x.shape[-2:]), x], dim=1))
        logits: Tensor = self.head(x)
        return logits
