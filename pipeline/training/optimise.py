"""Optimisers, and the learning rate as a function of where a training stands: so resuming needs nothing stored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.config import SGD, Adam, AdamW, Cosine, OptimiserConfig, Plateau, Polynomial, ScheduleConfig, Step

_NO_BETTER = 1e-4  # a change of less than this part is not an improvement, as torch's ReduceLROnPlateau has it


def build_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over all `parameters`; frozen ones have no gradient and stay as they are."""
    groups = list(parameters)
    if isinstance(config, AdamW):
        return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=True)
    if isinstance(config, Adam):
        return torch.optim.Adam(groups, config.lr, eps=1e-7, fused=True)  # Keras' epsilon
    if isinstance(config, SGD):
        return torch.optim.SGD(
            groups, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
        )
    return torch.optim.RMSprop(
        groups, config.lr, config.smoothing, weight_decay=config.weight_decay, momentum=config.momentum
    )


@dataclass(frozen=True)
class Stand:
    """Where a phase of a training stands: optimiser steps and whole epochs since it began, `done` in [0, 1] of it.

    `history` are the metrics of its epochs so far.
    """

    step: int
    done: float
    epoch: int = 0
    history: Sequence[Mapping[str, float]] = ()


def learning_rate(schedule: ScheduleConfig, lr: float, stand: Stand) -> float:
    """The rate at `stand`, from the full rate `lr`.

    >>> [round(learning_rate(Step(every=2, factor=0.1), 1.0, Stand(0, 0.0, epoch)), 3) for epoch in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    >>> learning_rate(Polynomial(power=2.0), 1.0, Stand(0, 0.5))
    0.25
    """
    done = min(1.0, stand.done)
    if isinstance(schedule, Cosine):
        warmup = min(1.0, (stand.step + 1) / max(1, schedule.warmup_steps))
        return lr * warmup * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * done)) / 2)
    if isinstance(schedule, Step):
        return float(lr * schedule.factor ** (stand.epoch // schedule.every))
    if isinstance(schedule, Polynomial):
        return float(lr * (1 - done) ** schedule.power)
    if isinstance(schedule, Plateau):
        return lr * max(schedule.floor, schedule.factor ** _reductions(schedule, stand.history))
    return lr


def _reductions(schedule: Plateau, history: Sequence[Mapping[str, float]]) -> int:
    """How often the rate has been lowered by now: counted anew from all epochs."""
    best, bad, lowered = math.inf, 0, 0
    for metrics in history:
        score = metrics["val_map"] if "val_map" in metrics else metrics["val_dice"]  # of objects, of classes
        value = metrics["val_loss"] if schedule.watch == "loss" else -score
        if value < best - _NO_BETTER * abs(best) or best == math.inf:
            best, bad = value, 0
        else:
            bad += 1
        if bad > schedule.patience:
            bad, lowered = 0, lowered + 1
    return lowered
