"""Several networks that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet.traits import stride_of


class Ensemble(nn.Module):
    """The mean of the logits of networks of one architecture; shapes and stride are theirs."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = stride_of(members[0])

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([member(image).float() for member in self.members]).mean(dim=0)
