"""What encoders that were published with ImageNet weights share: their idea of an image."""

import torch
from torch import Tensor, nn


class ImageNetInput(nn.Module):
    """An image `(N, 3, Y, X)` with values in about [0, 1] to the mean 0 and deviation 1 of its colours.

    Inside the network, so that whoever prepares images need not know. No parameters, nothing in the state.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.deviation
