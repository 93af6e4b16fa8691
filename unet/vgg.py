"""A U-Net on VGG19 (Simonyan & Zisserman 2015), whose layers bear torchvision's names: `features.N.weight`.

    features[:4]      Y, X          64 ------------------------------------- up, cat 128, conv-conv 64, drop -> 3x3 head
    features[4:9]     Y/2, X/2      128 ----------------------- up, cat 256, conv-conv 128, drop
    features[9:18]    Y/4, X/4      256 --------- up, cat 512, conv-conv 256, drop
    features[18:27]   Y/8, X/8      512 - up, cat 1024, conv-conv 512, drop
    features[27:-1]   Y/16, X/16    512

The last pooling of VGG19 is left out. 2x2 transposed convolutions; each decoder level ends in dropout of whole maps; no
BatchNorm.
31,164,865 parameters with one class, of which the encoder has 20,024,384 and `features.34` alone 2,359,808.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unet.imagenet import ImageNetInput
from unet.published import Published

_LAYERS = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M")
_CUTS = (0, 4, 9, 18, 27, 36)  # torchvision's features are 37 layers; [27:-1] ends before the last pooling
_WIDTHS = (64, 128, 256, 512, 512)


def vgg19_features() -> nn.Sequential:
    """torchvision's `vgg19().features` but for the last pooling: convolutions, ReLU, pooling, numbered 0 to 35."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in _LAYERS:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(inputs, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers[:-1])


def _level(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class VGG19UNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of an image `(N, 3, Y, X)` with values in about [0, 1]; sides divisible by 16.

    `filters` are the decoder's, deepest first; `dropout` is the chance of each map at the end of a decoder level.
    """

    stride = 16
    published = Published(
        file="vgg19-dcbb9e9d.pth",
        digest="dcbb9e9d",
        own="features.",
        theirs="features.",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        folder="vgg19",
        hint="get it from pytorch.org, or train with --set pretrained=none",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int] = (512, 256, 128, 64),
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        if in_channels != 3:
            raise ValueError(f"in_channels is {in_channels}; the encoder takes 3")
        self.normalise = ImageNetInput()
        self.features = vgg19_features()
        ways = list(zip((_WIDTHS[-1], *filters[:-1]), _WIDTHS[-2::-1], filters, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, width, 2, stride=2) for deep, _, width in ways)
        self.merge = nn.ModuleList(_level(width + skip, width) for _, skip, width in ways)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(filters[-1], out_channels, 3, padding=1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features at strides 1, 2, 4, 8 and 16."""
        x, found = self.normalise(image), []
        for start, stop in pairwise(_CUTS):
            for layer in list(self.features)[start:stop]:
                x = layer(x)
            found.append(x)
        return found

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encode(image)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = self.dropout(merge(torch.cat([up(x), skip], dim=1)))
        logits: Tensor = self.head(x)
        return logits
