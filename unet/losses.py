"""Losses of segmentation: `build_loss(kind, ...)` is the one place where a loss's name is known.

A loss is a weighted sum of terms. Every term is given logits `(N, K, (Z,) Y, X)`, targets of the same shape in
[0, 1], and weights of the pixels `(N, 1, (Z,) Y, X)` or None; pixels of weight 0 are left out of it altogether.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

Weights = Sequence[float]


def _mean(values: Tensor, pixels: Tensor | None) -> Tensor:
    """Mean of `(N, K, ...)` over all but channels, `(K,)`; weighted where there are weights."""
    dims = (0, *range(2, values.ndim))
    if pixels is None:
        return values.mean(dim=dims)
    return (values * pixels).sum(dim=dims) / pixels.sum().clamp(min=1e-6)


class _Term(nn.Module):
    """What terms share: weights of the output channels (empty: all alike), and softmax or sigmoid."""

    channels: Tensor | None

    def __init__(self, channels: Weights = (), softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax
        self.register_buffer("channels", torch.tensor(list(channels)) if channels else None)

    def over_channels(self, values: Tensor) -> Tensor:
        """The weighted mean of `(K,)`."""
        weights = torch.ones_like(values) if self.channels is None else self.channels
        return (values * weights).sum() / weights.sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1) if self.softmax else logits.sigmoid()


class BinaryCrossEntropy(_Term):
    """A sigmoid a channel; `positive` weighs what is 1 against what is 0."""

    def __init__(self, channels: Weights = (), positive: float = 1.0) -> None:
        super().__init__(channels)
        self.positive = positive

    def forward(self, logits: Tensor, target: Tensor, pixels: Tensor | None) -> Tensor:
        weight = logits.new_tensor(self.positive)
        values = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        return self.over_channels(_mean(values, pixels))


class CrossEntropy(_Term):
    """Classes exclude each other. With class weights the mean is over the weights of the pixels, as torch has it."""

    def __init__(self, channels: Weights = ()) -> None:
        super().__init__(channels, softmax=True)

    def forward(self, logits: Tensor, target: Tensor, pixels: Tensor | None) -> Tensor:
        if self.channels is not None:
            target = target * self.channels.view(1, -1, *(1,) * (logits.ndim - 2))
        if pixels is not None:
            target = target * pixels
        return -(target * logits.log_softmax(dim=1)).sum() / target.sum().clamp(min=1e-6)


class Overlap(_Term):
    """1 - Dice or 1 - Tversky over the whole batch (an empty crop does not swing it), channel by channel.

    Squared predictions give Dice its minimum at a soft target (a distance in [0, 1]) itself. Where it is `weighted`
    (squared Dice alone) sums are over the weights of the pixels; otherwise each pixel counts whole, or not at all.
    """

    def __init__(
        self,
        measure: DiceLoss | TverskyLoss,
        channels: Weights = (),
        softmax: bool = False,
        weighted: bool = False,
    ) -> None:
        super().__init__(channels, softmax)
        self.measure, self.weighted = measure, weighted

    def forward(self, logits: Tensor, target: Tensor, pixels: Tensor | None) -> Tensor:
        found = self.probabilities(logits)
        if pixels is not None:
            share = pixels.sqrt() if self.weighted else (pixels > 0).to(found)  # Dice has products and squares
            found, target = found * share, target * share
        return self.over_channels(self.measure(found, target).flatten())


class Focal(_Term):
    """MONAI's focal loss (Lin et al. 2017): what is right already counts less, by the power `gamma`."""

    def __init__(self, gamma: float, alpha: float | None, channels: Weights = (), softmax: bool = False) -> None:
        super().__init__(channels, softmax)
        self.measure = FocalLoss(gamma=gamma, alpha=alpha, use_softmax=softmax, reduction="none")

    def forward(self, logits: Tensor, target: Tensor, pixels: Tensor | None) -> Tensor:
        return self.over_channels(_mean(self.measure(logits, target), pixels))


class Loss(nn.Module):
    """`forward(logits, target, pixels=None)`, a scalar.

    `logits` `(N, K, (Z,) Y, X)`, or a list of them, finest first (deep supervision), of which each counts half as much
    as the one before and is scored against the target averaged down to it. `target` is of the logits' shape with
    values in [0, 1], or class numbers `(N, (Z,) Y, X)` of any integer type, of which `ignore` is left out. `pixels`
    `(N, 1, (Z,) Y, X)` are weights: what a pixel counts.
    """

    def __init__(self, terms: Sequence[tuple[float, nn.Module]], ignore: int = 255) -> None:
        super().__init__()
        used = [(weight, term) for weight, term in terms if weight]
        self.weights, self.ignore = [weight for weight, _ in used], ignore
        self.terms = nn.ModuleList(term for _, term in used)

    def _one(self, logits: Tensor, target: Tensor, pixels: Tensor | None) -> Tensor:
        values = [weight * term(logits, target, pixels) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(values).sum()

    def forward(self, logits: Tensor | list[Tensor], target: Tensor, pixels: Tensor | None = None) -> Tensor:
        levels = [logits] if isinstance(logits, Tensor) else logits
        if not target.is_floating_point():
            target, pixels = class_planes(target, levels[0].shape[1], self.ignore, pixels)
        weights = [0.5**level for level in range(len(levels))]
        losses = [
            weight * self._one(level, *coarser(target, pixels, level.shape[2:]))
            for weight, level in zip(weights, levels, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)


def class_planes(target: Tensor, classes: int, ignore: int, pixels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Class numbers `(N, (Z,) Y, X)` as planes `(N, classes, ...)` of 0 and 1, and weights that are 0 where ignored.

    One class alone is the plane of number 1.

    >>> planes, pixels = class_planes(torch.tensor([[0, 2, 255]]), 3, 255, None)
    >>> planes[0].tolist(), pixels[0, 0].tolist()
    ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [1.0, 1.0, 0.0])
    """
    kept = (target != ignore)[:, None]
    weights = kept.float() if pixels is None else pixels * kept
    if classes == 1:
        return (target == 1)[:, None].float(), weights
    numbers = torch.where(kept, target[:, None].long(), 0)
    planes = torch.zeros(target.shape[0], classes, *target.shape[1:], device=target.device)
    return planes.scatter_(1, numbers, 1.0) * kept, weights


def coarser(target: Tensor, pixels: Tensor | None, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    """Targets and weights averaged down to a level's `shape`; a coarse target is the mean of those that count."""
    if target.shape[2:] == shape:
        return target, pixels
    pool: Callable[[Tensor, Any], Tensor] = F.adaptive_avg_pool2d if len(shape) == 2 else F.adaptive_avg_pool3d
    if pixels is None:
        return pool(target, tuple(shape)), None
    kept = (pixels > 0).to(target)
    share = pool(kept, tuple(shape))
    return pool(target * kept, tuple(shape)) / share.clamp(min=1e-6), pool(pixels, tuple(shape))


def _dice(channels: Weights = (), softmax: bool = False, weighted: bool = False) -> Overlap:
    return Overlap(DiceLoss(squared_pred=True, batch=True, reduction="none"), channels, softmax, weighted)


def _entropy(channels: Weights = (), softmax: bool = False) -> _Term:
    return CrossEntropy(channels) if softmax else BinaryCrossEntropy(channels)


def _dice_bce(dice: float, bce: float, channels: Weights, softmax: bool, weighted: bool = False) -> Loss:
    return Loss([(dice, _dice(channels, softmax, weighted)), (bce, _entropy(channels, softmax))])


def _dice_ce(dice: float, ce: float, classes: Weights, ignore: int, softmax: bool) -> Loss:
    return Loss([(dice, _dice(classes, softmax=True)), (ce, CrossEntropy(classes))], ignore)


def _focal(gamma: float, alpha: float | None, channels: Weights, softmax: bool) -> Loss:
    return Loss([(1.0, Focal(gamma, alpha, channels, softmax))])


def _tversky(alpha: float, beta: float, channels: Weights, softmax: bool) -> Loss:
    measure = TverskyLoss(alpha=alpha, beta=beta, batch=True, reduction="none")
    return Loss([(1.0, Overlap(measure, channels, softmax))])


_LOSSES: dict[str, Callable[..., Loss]] = {
    "bce": lambda channels, softmax: Loss([(1.0, BinaryCrossEntropy(channels))]),
    "weighted_bce": lambda positive, channels, softmax: Loss([(1.0, BinaryCrossEntropy(channels, positive))]),
    "cross_entropy": lambda classes, ignore, softmax: Loss([(1.0, CrossEntropy(classes))], ignore),
    "dice": lambda channels, softmax: Loss([(1.0, _dice(channels, softmax))]),
    "dice_bce": _dice_bce,
    "dice_ce": _dice_ce,
    "focal": _focal,
    "tversky": _tversky,
    "size_weighted": partial(_dice_bce, weighted=True),
    "border_weighted": lambda channels, softmax: Loss([(1.0, _entropy(channels, softmax))]),
}


def loss_kinds() -> tuple[str, ...]:
    """The kinds that `build_loss` knows."""
    return tuple(_LOSSES)


def build_loss(kind: str, *, softmax: bool, **parameters: Any) -> Loss:
    """The loss of `kind`; `softmax` where the classes of the target exclude each other.

    `border_weighted` is cross-entropy (with `softmax`, else binary) weighted pixel by pixel, `size_weighted` Dice and
    cross-entropy so: their `pixels` are the weight map. Raises KeyError for an unknown kind.

    >>> loss = build_loss("dice_ce", softmax=True, dice=1.0, ce=1.0, classes=(), ignore=255)
    >>> float(loss(torch.tensor([[[50.0, -50.0]], [[-50.0, 50.0]]]).permute(1, 0, 2), torch.tensor([[0, 1]]))) < 1e-4
    True
    """
    return _LOSSES[kind](softmax=softmax, **parameters)
