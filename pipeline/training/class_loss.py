"""Dice + cross-entropy over classes that exclude each other, on pixels that count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unet.losses import DiceBCELoss


class ClassLoss(DiceBCELoss):
    """`dice * Dice + ce * cross-entropy`, Dice the weighted mean over classes (`channels`) of the whole batch.

    `forward(logits, target)`: both `(N, K, (Z,) Y, X)`; one channel of the target is 1, or none where the pixel is
    ignored. A list of logits (deep supervision, finest first) is scored against the target averaged down to each,
    weights 1, 1/2, 1/4 ...
    """

    def __init__(self, dice: float, ce: float, channels: tuple[float, ...] = ()) -> None:
        super().__init__(dice, ce, channels, softmax=True)

    def _one(self, logits: Tensor, target: Tensor) -> Tensor:
        dims = (0, *range(2, logits.ndim))
        counted = target.sum(dim=1, keepdim=True)
        found = torch.softmax(logits, dim=1) * counted
        weights = torch.ones_like(logits[0].flatten(1)[:, 0]) if self.channels is None else self.channels
        above, below = 2 * (found * target).sum(dims), (found**2).sum(dims) + (target**2).sum(dims)
        overlap = 1 - (above + 1e-5) / (below + 1e-5)
        shaped = weights.view(1, -1, *(1,) * (logits.ndim - 2))
        entropy = -(shaped * target * F.log_softmax(logits, dim=1)).sum() / (shaped * target).sum().clamp(min=1e-5)
        loss: Tensor = self.dice * (overlap * weights).sum() / weights.sum() + self.bce * entropy
        return loss

    def forward(self, logits: Tensor | list[Tensor], target: Tensor) -> Tensor:
        if isinstance(logits, Tensor):
            return self._one(logits, target)
        shrink = F.adaptive_avg_pool3d if target.ndim == 5 else F.adaptive_avg_pool2d
        weights = [0.5**level for level in range(len(logits))]
        losses = [
            weight * self._one(level, shrink(target, tuple(level.shape[2:])))  # type: ignore[arg-type]
            for weight, level in zip(weights, logits, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)
