"""The small and the half-width networks that tutorials begin with. All of them answer with logits.

Where a tutorial ends in a sigmoid or softmax layer, that is applied to the logits afterwards, in `activate`; the
numbers of parameters are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU())


class TwoConvolutions(nn.Module):
    """Two 3x3 convolutions of `filters` and ReLU: 38,720 parameters on 3 channels with 64 filters.

        Y, X   conv 64 - conv 64 (-> 1x1 head, K logits)

    With `head` (38,785 parameters for one class) logits `(N, out_channels, Y, X)`; without, as the tutorial leaves
    it, the ReLU channels `(N, filters, Y, X)`, which cannot be trained as a segmentation.
    """

    stride = 1

    def __init__(self, in_channels: int, out_channels: int, filters: int = 64, head: bool = True) -> None:
        super().__init__()
        self.first, self.second = _convolution(in_channels, filters), _convolution(filters, filters)
        self.head = nn.Conv2d(filters, out_channels, 1) if head else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(image)))
        return logits


class TwoLevelUNet(nn.Module):
    """Two levels, two skips, plain up-sampling: 297,025 parameters on 3 channels with filters 64 and 128, one class.

        Y, X       conv 64 ------------------------ up, cat 128, conv 64 -> 1x1 head (K logits)
        Y/2, X/2     pool, conv 128 ---- up, cat 256, conv 64
        Y/4, X/4       pool

    Logits `(N, out_channels, Y, X)` of an image `(N, in_channels, Y, X)`; sides divisible by 4.
    """

    stride = 4

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int] = (64, 128)) -> None:
        super().__init__()
        shallow, deep = filters
        self.down1, self.down2 = _convolution(in_channels, shallow), _convolution(shallow, deep)
        self.merge2, self.merge1 = _convolution(deep + deep, shallow), _convolution(shallow + shallow, shallow)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(shallow, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        one = self.down1(image)  # Y, X
        two = self.down2(self.pool(one))  # Y/2, X/2
        x = self.merge2(torch.cat([self.up(self.pool(two)), two], dim=1))
        x = self.merge1(torch.cat([self.up(x), one], dim=1))
        logits: Tensor = self.head(x)
        return logits


class HalfUNet(nn.Module):
    """The half-width multi-class U-Net: 8,640,471 parameters with 32 filters up, 3 channels in and 23 classes.

        level 0   Y, X        conv-conv 32 ---------------------- cat, conv-conv 32 -> conv 32 -> 1x1 head (K logits)
        level 1   Y/2, X/2      pool, conv-conv 64 ---------- cat, conv-conv 64, up 32
        level 2   Y/4, X/4        pool, conv-conv 128 --- cat, conv-conv 128, up 64
        level 3   Y/8, X/8          pool, conv-conv 256, cat, conv-conv 256, up 128
        level 4   Y/16, X/16          pool, conv-conv 512, up 256

    Padded 3x3 convolutions with ReLU; 3x3 transposed convolutions of stride 2 that halve the channels; dropout at the
    end of the two deepest levels. Sides divisible by 16.
    """

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int], dropout: float = 0.3) -> None:
        super().__init__()
        self.stride = 2 ** (len(filters) - 1)
        inputs = (in_channels, *filters[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(i, o), *_convolution(o, o)) for i, o in zip(inputs, filters, strict=True)
        )
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 3, stride=2, padding=1, output_padding=1) for deep, shallow in pairs
        )
        self.merge = nn.ModuleList(
            nn.Sequential(*_convolution(2 * shallow, shallow), *_convolution(shallow, shallow)) for _, shallow in pairs
        )
        self.pool, self.dropout = nn.MaxPool2d(2), nn.Dropout(dropout)
        self.last = _convolution(filters[0], filters[0])
        self.head = nn.Conv2d(filters[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, []
        for level in self.down[:-2]:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.dropout(self.down[-2](x))
        skips.append(x)
        x = self.dropout(self.down[-1](self.pool(x)))
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        logits: Tensor = self.head(self.last(x))
        return logits
