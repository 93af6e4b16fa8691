"""A Dense U-Net: densely connected blocks (Huang et al. 2017) as a U-Net's levels (Jegou et al. 2017, Li et al. 2018).

    level 0   Y, X        stem - dense --------------------------- cat, dense -> BN, ReLU, 1x1 head (K logits)
    level 1   Y/2, X/2      thin, pool, dense -------------- cat, dense, thin, up
    level 2   Y/4, X/4        thin, pool, dense ------ cat, dense, thin, up
    level 3   Y/8, X/8          thin, pool, dense, thin, up

In a dense block every layer (BatchNorm, ReLU, 3x3 convolution of `growth` channels) is given all that came before it
in the block. `thin` is BatchNorm, ReLU and a 1x1 convolution to half the channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet.dimensions import BATCH_NORM, CONVOLUTION, POOL, TRANSPOSED


def _layer(inputs: int, outputs: int, kernel: int, dimensions: int) -> nn.Sequential:
    convolution = CONVOLUTION[dimensions](inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(BATCH_NORM[dimensions](inputs), nn.ReLU(), convolution)


class DenseBlock(nn.Module):
    """`(N, inputs, ...)` to `(N, inputs + layers * growth, ...)`."""

    def __init__(self, inputs: int, layers: int, growth: int, dimensions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(inputs + n * growth, growth, 3, dimensions) for n in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseUNet(nn.Module):
    """Logits `(N, out_channels, (Z,) Y, X)` of an image `(N, in_channels, (Z,) Y, X)`; sides divisible by `stride`.

    `layers` are the layers of each level's dense block, shallowest first; `stem` the first convolution's channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: Sequence[int],
        growth: int,
        stem: int,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(layers) - 1)
        self.stem = CONVOLUTION[dimensions](in_channels, stem, 3, padding=1, bias=False)
        self.down, self.thin_down = nn.ModuleList(), nn.ModuleList()
        skips = [stem + layers[0] * growth]
        self.down.append(DenseBlock(stem, layers[0], growth, dimensions))
        for count in layers[1:]:
            width = skips[-1] // 2
            self.thin_down.append(_layer(skips[-1], width, 1, dimensions))
            self.down.append(DenseBlock(width, count, growth, dimensions))
            skips.append(width + count * growth)
        width = skips[-1]
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for skip, count in zip(skips[-2::-1], layers[-2::-1], strict=True):
            thin = _layer(width, width // 2, 1, dimensions)
            self.up.append(nn.Sequential(thin, TRANSPOSED[dimensions](width // 2, width // 2, 2, stride=2)))
            self.merge.append(DenseBlock(width // 2 + skip, count, growth, dimensions))
            width = width // 2 + skip + count * growth
        self.pool = POOL[dimensions](2)
        self.head = nn.Sequential(
            BATCH_NORM[dimensions](width), nn.ReLU(), CONVOLUTION[dimensions](width, out_channels, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.down[0](self.stem(image))
        skips = [x]
        for thin, dense in zip(self.thin_down, self.down[1:], strict=True):
            x = dense(self.pool(thin(x)))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits
