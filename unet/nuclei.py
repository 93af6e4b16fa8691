"""The default nuclei U-Net: exact in tiles, quick on a CPU, with heads that separate touching nuclei.

    level 0   Y, X        conv-conv ------------------------------- conv-conv -> 1x1 head (K logits)
    level 1   Y/2, X/2      pool, conv-conv ------------------ conv-conv, up
    level 2   Y/4, X/4        pool, conv-conv ----------- conv-conv, up
    level 3   Y/8, X/8          pool, conv-conv ---- conv-conv, up
    level 4   Y/16, X/16          pool, conv-conv ---- up

Every convolution is 3x3 (3x3x3 in volumes), without bias, followed by BatchNorm and ReLU. BatchNorm uses stored
statistics when evaluating, so a pixel's logits depend on its receptive field alone: tiles with a halo give the
whole-image answer. `pooling` says how much each step shrinks each axis: thick slices are left alone at first.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from unet.dimensions import BATCH_NORM, CONVOLUTION, POOL, TRANSPOSED, Pooling, pooling_factors, total_stride
from unet.trimming import KEPT, Skip, decode, trim


def convolution(inputs: int, outputs: int, dimensions: int = 2) -> list[nn.Module]:
    """A 3x3 (3x3x3) convolution without bias, BatchNorm, ReLU."""
    layer = CONVOLUTION[dimensions](inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return [layer, BATCH_NORM[dimensions](outputs, momentum=0.05), nn.ReLU(inplace=True)]


def _level(inputs: int, outputs: int, dimensions: int) -> nn.Sequential:
    return nn.Sequential(*convolution(inputs, outputs, dimensions), *convolution(outputs, outputs, dimensions))


class NucleiUNet(nn.Module):
    """Logits `(N, out_channels, (Z,) Y, X)` of an image `(N, in_channels, (Z,) Y, X)`; sides divisible by `stride`.

    `stride` is one number, or one an axis where `pooling` differs between axes. With `deep_supervision` and in
    training mode the answer is a list, finest first, each level's logits at its own resolution; when evaluating it is
    always the finest alone. With a frame (of images, where each step halves both axes) it is that of the core
    (unet/trimming.py).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        deep_supervision: bool = False,
        dimensions: int = 2,
        pooling: Pooling = (),
    ) -> None:
        super().__init__()
        factors = pooling_factors(pooling, len(filters), dimensions)
        self.stride = total_stride(factors)
        self.trims = all(step == (2, 2) for step in factors)
        inputs = (in_channels, *filters[:-1])
        self.down = nn.ModuleList(_level(i, o, dimensions) for i, o in zip(inputs, filters, strict=True))
        self.pool = nn.ModuleList(POOL[dimensions](factor) for factor in factors)
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(
            TRANSPOSED[dimensions](deep, shallow, factor, stride=factor)  # type: ignore[arg-type]
            for (deep, shallow), factor in zip(pairs, reversed(factors), strict=True)
        )
        self.merge = nn.ModuleList(_level(2 * shallow, shallow, dimensions) for _, shallow in pairs)
        self.head = CONVOLUTION[dimensions](filters[0], out_channels, 1)
        coarse = [shallow for _, shallow in pairs[-3:-1]] if deep_supervision else []
        self.coarse_heads = nn.ModuleList(CONVOLUTION[dimensions](width, out_channels, 1) for width in coarse)

    def forward(self, image: Tensor, frame: Tensor | None = None) -> Tensor | list[Tensor]:
        x, skips = image, list[Skip]()
        for level, pool in zip(self.down[:-1], self.pool, strict=True):
            x = level(x)
            skips.append((x, None))
            x = pool(x)
        levels = decode(self.down[-1](x), skips, self.up, self.merge, frame)
        logits = trim(self.head(levels[0]), frame, 1, 0, have=KEPT)
        if not (self.training and self.coarse_heads):
            return logits
        return [logits, *(head(level) for head, level in zip(reversed(self.coarse_heads), levels[1:], strict=False))]
