"""The nuclei U-Net of the well-known Keras guide, layer by layer.

Two 3x3 convolutions a level with dropout between them, He initialisation, 2x2 max pooling, 2x2 transposed
convolutions, a 1x1 head: 1,941,105 parameters on 3 channels with filters 16-32-64-128-256. Its first layer,
x / 255, is not in here: as with any network, that is the preparation in the model's record.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from unet.trimming import KEPT, Skip, decode, trim


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    drawn = (2 / (9 * inputs)) ** 0.5 / 0.87962566  # he_normal as Keras draws it: cut at two deviations, then as wide
    nn.init.trunc_normal_(convolution.weight, std=drawn, a=-2 * drawn, b=2 * drawn)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def _level(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    first, second = _convolution(inputs, outputs), _convolution(outputs, outputs)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU())


class GuideUNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of an image `(N, in_channels, Y, X)`; Y and X divisible by 2^(levels - 1).

    With a frame they are those of its core (unet/trimming.py).
    """

    trims = True

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.stride = 2 ** (len(filters) - 1)
        inputs = (in_channels, *filters[:-1])
        self.down = nn.ModuleList(_level(i, o, d) for i, o, d in zip(inputs, filters, dropout, strict=True))
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(
            _level(2 * shallow, shallow, d) for (_, shallow), d in zip(pairs, dropout[-2::-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(filters[0], out_channels, 1)

    def forward(self, image: Tensor, frame: Tensor | None = None) -> Tensor:
        x, skips = image, list[Skip]()
        for level in self.down[:-1]:
            x = level(x)
            skips.append((x, None))
            x = self.pool(x)
        finest = decode(self.down[-1](x), skips, self.up, self.merge, frame)[0]
        return trim(self.head(finest), frame, 1, 0, have=KEPT)
