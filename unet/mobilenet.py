"""MobileNetV2 (Sandler et al. 2018) with the pix2pix decoder of TensorFlow's segmentation tutorial.

    tap at expand of block 1     Y/2, X/2      96 ----------------------- up 64, cat 160 -> transposed head, Y, X
    tap at expand of block 3     Y/4, X/4      144 -------------- up 128, cat 272
    tap at expand of block 6     Y/8, X/8      192 ------ up 256, cat 448
    tap at expand of block 13    Y/16, X/16    576, up 512, cat 1088
    tap at project of block 16   Y/32, X/32    320

`up` is a 3x3 transposed convolution of stride 2 without bias, BatchNorm, ReLU. The encoder bears torchvision's names,
`features.N...`; Keras' block k is its `features.(k + 1)`. It ends in block 16's projection, whose BatchNorm the tap
comes before. 6,504,227 parameters with three classes, as Keras counts: moving statistics included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet.depthwise import Depthwise
from unet.imagenet import ImageNetInput
from unet.published import Published

# expansion, output channels, repeats, stride: the paper's table 2
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_TAPS = {2: 96, 4: 144, 7: 192, 14: 576}  # features whose expansion is a tap, with its channels
_DEEPEST = 320


def _normed(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """torchvision's block: `conv` is (expand,) depthwise, project, BatchNorm. `last` ends with the projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, last: bool = False) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers = [_normed(nn.Conv2d(inputs, middle, 1, bias=False))] if expansion > 1 else []
        layers.append(_normed(Depthwise(middle, 3, stride)))
        project = nn.Conv2d(middle, outputs, 1, bias=False)
        self.conv = nn.Sequential(*layers, project, *([] if last else [nn.BatchNorm2d(outputs)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's answer, and what its first convolution gave: the expansion."""
        y = expanded = self.conv[0](x)
        for layer in list(self.conv)[1:]:
            y = layer(y)
        return (x + y if self.residual else y), expanded


def mobilenet_features() -> nn.Sequential:
    """torchvision's `mobilenet_v2().features` 0 to 17, the last without its BatchNorm."""
    layers: list[nn.Module] = [_normed(nn.Conv2d(3, 32, 3, 2, 1, bias=False))]
    inputs = 32
    for expansion, outputs, repeats, first in _STAGES:
        for number in range(repeats):
            last = outputs == _DEEPEST
            layers.append(InvertedResidual(inputs, outputs, first if number == 0 else 1, expansion, last))
            inputs = outputs
    for module in nn.Sequential(*layers).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return nn.Sequential(*layers)


def _up(inputs: int, outputs: int) -> nn.Sequential:
    layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class MobileNetUNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of an image `(N, 3, Y, X)` with values in about [0, 1]; sides divisible by 32.

    `filters` are the decoder's, deepest first.
    """

    stride = 32
    published = Published(
        file="mobilenet_v2-b0353104.pth",
        digest="b0353104",
        own="features.",
        theirs="features.",
        url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        folder="mobilenet_v2",
        hint="get it from pytorch.org, or train with --set pretrained=none",
    )

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int] = (512, 256, 128, 64)) -> None:
        super().__init__()
        if in_channels != 3:
            raise ValueError(f"in_channels is {in_channels}; the encoder takes 3")
        self.normalise = ImageNetInput()
        self.features = mobilenet_features()
        taps = list(_TAPS.values())[::-1]
        inputs = (_DEEPEST, *(width + tap for width, tap in zip(filters, taps, strict=True)))
        self.up = nn.ModuleList(_up(i, o) for i, o in zip(inputs[:-1], filters, strict=True))
        self.head = nn.ConvTranspose2d(inputs[-1], out_channels, 3, stride=2, padding=1, output_padding=1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The taps, at strides 2, 4, 8, 16 and 32."""
        x, taps = self.features[0](self.normalise(image)), []
        for number in range(1, len(self.features)):
            x, expanded = self.features[number](x)
            if number in _TAPS:
                taps.append(expanded)
        return [*taps, x]

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encode(image)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = torch.cat([up(x), skip], dim=1)
        logits: Tensor = self.head(x)
        return logits
