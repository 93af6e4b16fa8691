"""Several networks that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Logits of the mean of the members' sigmoid probabilities; shapes and stride are the members'."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = max(int(member.stride) for member in members)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.stack([torch.sigmoid(member(image).float()) for member in self.members]).mean(dim=0)
        return torch.logit(mean, eps=1e-6)
