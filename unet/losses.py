"""Dice + BCE with weights, for sigmoid heads; soft targets are allowed."""

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F


class DiceBCELoss(nn.Module):
    """`dice * Dice + bce * BCE`, each the weighted mean over output channels; with `softmax`, cross-entropy for BCE.

    Dice is MONAI's over the whole batch (`batch=True`: an empty crop does not swing it) with squared predictions, so
    that a soft target (a distance in [0, 1]) has its minimum at the target itself.

    Parameters
    ----------
    dice, bce : weights of the two terms.
    channels : weights of the output channels; empty means all alike.
    softmax : classes exclude each other: softmax over channels, cross-entropy in place of BCE.

    `forward(logits, target)`: both `(N, K, Y, X)` float; targets in [0, 1] (one-hot with `softmax`). A list of logits
    (deep supervision, finest first) is scored against the target averaged down to each, weights 1, 1/2, 1/4 ...
    """

    channels: Tensor | None

    def __init__(
        self, dice: float = 1.0, bce: float = 1.0, channels: Sequence[float] = (), softmax: bool = False
    ) -> None:
        super().__init__()
        self.dice, self.bce, self.softmax = dice, bce, softmax
        self.overlap = DiceLoss(sigmoid=not softmax, softmax=softmax, squared_pred=True, batch=True, reduction="none")
        self.register_buffer("channels", torch.tensor(list(channels)) if channels else None)

    def _one(self, logits: Tensor, target: Tensor) -> Tensor:
        dims = (0, *range(2, logits.ndim))
        overlap: Tensor = self.overlap(logits, target).flatten()
        if self.softmax:
            entropy = -(target * F.log_softmax(logits, dim=1)).mean(dim=dims) * logits.shape[1]
        else:
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=dims)
        weights = torch.ones_like(entropy) if self.channels is None else self.channels.to(entropy.device)
        loss: Tensor = ((self.dice * overlap + self.bce * entropy) * weights).sum() / weights.sum()
        return loss

    def forward(self, logits: Tensor | list[Tensor], target: Tensor) -> Tensor:
        if isinstance(logits, Tensor):
            return self._one(logits, target)
        weights = [0.5**level for level in range(len(logits))]
        losses = [
            weight * self._one(level, F.adaptive_avg_pool2d(target, (level.shape[-2], level.shape[-1])))
            for weight, level in zip(weights, logits, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)
