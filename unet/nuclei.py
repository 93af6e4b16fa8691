"""The default nuclei U-Net: exact in tiles, quick on a CPU, with heads that separate touching nuclei.

    level 0   Y, X        conv-conv ------------------------------- conv-conv -> 1x1 head (K logits)
    level 1   Y/2, X/2      pool, conv-conv ------------------ conv-conv, up
    level 2   Y/4, X/4        pool, conv-conv ----------- conv-conv, up
    level 3   Y/8, X/8          pool, conv-conv ---- conv-conv, up
    level 4   Y/16, X/16          pool, conv-conv ---- up

Every convolution is 3x3, without bias, followed by BatchNorm and ReLU. BatchNorm uses stored statistics when
evaluating, so a pixel's logits depend on its receptive field alone: tiles with a halo give the whole-image answer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution without bias, BatchNorm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return [layer, nn.BatchNorm2d(outputs, momentum=0.05), nn.ReLU(inplace=True)]


def _level(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*convolution(inputs, outputs), *convolution(outputs, outputs))


class NucleiUNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of an image `(N, in_channels, Y, X)`; Y and X divisible by 2^(levels - 1).

    With `deep_supervision` and in training mode the answer is a list, finest first, each level's logits at its own
    resolution; when evaluating it is always the finest alone.
    """

    def __init__(
        self, in_channels: int, out_channels: int, filters: Sequence[int], deep_supervision: bool = False
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(filters) - 1)
        self.down = nn.ModuleList(_level(i, o) for i, o in zip((in_channels, *filters[:-1]), filters, strict=True))
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(_level(2 * shallow, shallow) for _, shallow in pairs)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(filters[0], out_channels, 1)
        coarse = [shallow for _, shallow in pairs[-3:-1]] if deep_supervision else []
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in coarse)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        x, skips = image, []
        for level in self.down[:-1]:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        levels = []
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
            levels.append(x)
        logits: Tensor = self.head(x)
        if not (self.training and self.coarse_heads):
            return logits
        coarse = levels[-1 - len(self.coarse_heads) : -1]
        return [logits, *(head(x) for head, x in reversed(list(zip(self.coarse_heads, coarse, strict=True))))]
