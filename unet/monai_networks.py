"""MONAI's own networks, as they are built by default, with what ours say of themselves: their stride.

They normalise by the statistics of the image they are given (InstanceNorm), so windows of them are blended, not exact.
"""

from collections.abc import Sequence

from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn


class MonaiBasicUNet(nn.Module):
    """Logits `(N, out_channels, Y, X)` of MONAI's BasicUNet; sides divisible by 16.

    `filters` are its `features`: of the five levels, and of the last upsampling step.
    """

    stride = 16

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int]) -> None:
        super().__init__()
        self.network = BasicUNet(2, in_channels, out_channels, tuple(filters))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits
