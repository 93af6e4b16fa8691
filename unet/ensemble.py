"""Several networks that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the members' logits, whatever they mean; shapes and stride are the members'."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = max(int(member.stride) for member in members)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([member(image).float() for member in self.members]).mean(dim=0)
