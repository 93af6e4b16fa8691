"""How good the network is on images it does not learn from: once an epoch, quickly; at the end, whole images.

The score of an epoch is taken on the middle of each image, at most `WINDOW` px a side: it picks the best epoch and
stops the training. What a model is worth is said by `maskline evaluate` on whole images of another split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import ClassesTarget, FixedSize, MaskTarget, Target, TrainConfig
from pipeline.model.targets import Thresholds, activate, decode, encode
from pipeline.scoring.metrics import Scores, match
from pipeline.training.dataset import Example, grid_target, grid_weight
from pipeline.training.volumes import class_numbers, whole_logits
from pipeline.types import Event, Labels, Pixels, Watch, unwatched
from unet.losses import Loss

WINDOW = 384


@dataclass(frozen=True)
class Answer:
    """What the network says of one example: probabilities `(K, Y, X)` and the truth on the same grid."""

    example: Example
    probabilities: Pixels
    truth: Labels
    loss: float


def _middle(example: Example, side: int) -> Example:
    """The example cut down to its middle, with the whole image's statistics."""
    height, width = example.labels.shape
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    box = np.s_[top : top + side, left : left + side]
    labels = example.labels[box]
    shape = (int(labels.shape[0]), int(labels.shape[1]))
    preparation = replace(example.preparation, shape=shape, original=shape)
    return replace(example, pixels=example.pixels[:, *box], labels=labels, preparation=preparation)


def answers(
    network: nn.Module,
    examples: Sequence[Example],
    config: TrainConfig,
    loss: Loss,
    device: str,
    window: int | None = None,
) -> Iterator[Answer]:
    """Predict each example, cut to its middle `window` unless the size is fixed anyway."""
    network.eval()
    for example in examples:
        if window is not None and example.labels.ndim == 2 and not isinstance(config.prepare.size, FixedSize):
            example = _middle(example, window)
        image = torch.from_numpy(example.preparation.apply(example.pixels))[None].to(device)
        target = torch.from_numpy(grid_target(example, config))[None].to(device)
        weight = grid_weight(example, config)
        pixels = None if weight is None else torch.from_numpy(weight)[None].to(device)
        with torch.inference_mode():
            logits = whole_logits(network, image, config)
            value = float(loss(logits, target, pixels).item())
            planes = activate(logits, config.target)[0].cpu().numpy()
        yield Answer(example, example.preparation.undo(planes), example.labels, value)


def validate(
    network: nn.Module,
    examples: Sequence[Example],
    config: TrainConfig,
    thresholds: Thresholds,
    loss: Loss,
    device: str,
) -> dict[str, float]:
    """val_loss, val_dice, val_iou, val_map (means over images), val_ap50 (pooled); of classes, see `class_numbers`."""
    if isinstance(config.target, ClassesTarget):
        found = answers(network, examples, config, loss, device, WINDOW)
        maps = (
            (encode(a.truth, config.target), decode(a.probabilities, config.target, thresholds), a.loss) for a in found
        )
        return class_numbers(maps, config.target.names)
    losses, scores = [], []
    for answer in answers(network, examples, config, loss, device, WINDOW):
        losses.append(answer.loss)
        scores.append(match(answer.truth, decode(answer.probabilities, config.target, thresholds)))
    return {"val_loss": float(np.mean(losses)), **_summary(scores)}


def score_name(target: Target) -> str:
    """The validation number that picks the best epoch and stops the training."""
    return "val_dice" if isinstance(target, ClassesTarget) else "val_map"


def _summary(scores: Sequence[Scores]) -> dict[str, float]:
    pooled = sum(scores, Scores())
    return {
        "val_dice": float(np.mean([s.dice for s in scores])),
        "val_iou": float(np.mean([s.iou for s in scores])),
        "val_map": float(np.mean([s.dsb_score for s in scores])),
        "val_ap50": pooled.ap(0.5),
    }


_GRID: dict[str, tuple[float, ...]] = {
    "foreground": (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7),
    "seed": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "border": (0.0, 0.25, 0.5, 0.75, 1.0),
    "minimum_area": (5, 10, 15, 20, 30, 45),
    "minimum_seed": (1, 3, 6, 10, 15, 20),
    "peak": (0.0, 0.3, 0.4, 0.5, 0.6, 0.7),
}


def usual_thresholds(target: Target) -> Thresholds:
    """What epochs are scored with, and where tuning begins: about what it comes to for nuclei. (With seeds of .5, the
    best of 24 epochs seemed to be the tenth; tuned, the last one was 0.004 of map better.)
    """
    if isinstance(target, MaskTarget):
        return Thresholds(minimum_area=1)
    return Thresholds(seed=0.2, minimum_area=20, minimum_seed=6, peak=0.5)


def score_at(found: Sequence[Answer], target: Target, thresholds: Thresholds) -> float:
    """The mean Data Science Bowl score of `found` at these thresholds."""
    return scores_at(found, target, thresholds)[0]


def scores_at(found: Sequence[Answer], target: Target, thresholds: Thresholds) -> tuple[float, float]:
    """The mean Data Science Bowl score, and the mean of it, AP@.5 and Dice."""
    each = [match(a.truth, decode(a.probabilities, target, thresholds)) for a in found]
    means = np.mean([(s.dsb_score, s.ap(0.5), s.dice) for s in each], axis=0)
    return float(means[0]), float(means.mean())


def tune_thresholds(found: Sequence[Answer], target: Target, watch: Watch = unwatched) -> tuple[Thresholds, float]:
    """Thresholds with the best mean of Data Science Bowl score, AP@.5 and Dice on `found`, and the first of the three.

    The score alone would give up objects and area for outlines. Coordinate ascent from the usual, two rounds.
    """
    best = usual_thresholds(target)
    score, value = scores_at(found, target, best)
    names = [
        name for name in _GRID if not isinstance(target, MaskTarget) or name in ("foreground", "minimum_area", "peak")
    ]
    for step, name in enumerate(names * 2):
        for choice in _GRID[name]:
            changed: dict[str, Any] = {name: choice}
            candidate = replace(best, **changed)
            if candidate == best:
                continue
            reached, mean = scores_at(found, target, candidate)
            if mean > value + 1e-4:
                best, score, value = candidate, reached, mean
        watch(Event("tune", step + 1, 2 * len(names), {"map": score}))
    return best, score
