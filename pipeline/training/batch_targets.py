"""Targets of whole batches of label crops, on the device where they lie: `pipeline.model.targets.encode` in torch."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import ClassesTarget, MaskTarget, SizeWeighted, Target, ThreeClassTarget
from pipeline.model.targets import REACH


def encode_batch(labels: Tensor, target: Target) -> Tensor:
    """`pipeline.model.targets.encode` of a batch: `(N, Y, X)` integers to `(N, K, Y, X)` float32, classes to
    `(N, Y, X)` uint8."""
    if isinstance(target, ClassesTarget):
        return (labels > 0 if target.trimap == 0 else labels).to(torch.uint8)
    foreground = (labels > 0).float()
    if isinstance(target, MaskTarget):
        return foreground[:, None]
    border = batch_border(labels)
    if isinstance(target, ThreeClassTarget):
        return torch.stack([foreground * (1 - border), border, (1 - foreground) * (1 - border)], dim=1)
    return torch.stack([foreground, border, batch_distance(labels)], dim=1)


def batch_border(labels: Tensor) -> Tensor:
    """`touching_border` of each of `(N, Y, X)`: float32.

    >>> batch_border(torch.tensor([[[1, 1, 1, 1, 2, 2, 2, 2]]])).int().tolist()
    [[[0, 0, 1, 1, 1, 1, 0, 0]]]
    """
    values = labels.float()[:, None]
    none = float(2**24)
    largest = _highest(values)
    smallest = -_highest(-torch.where(values > 0, values, none))
    return (largest > smallest).float()[:, 0]


def _highest(values: Tensor) -> Tensor:
    """The largest within OpenCV's ellipse of 5 x 5: three whole rows of five, and the middle one of two more."""
    padded = functional.pad(values, (REACH,) * 4, mode="replicate")
    wide = functional.max_pool2d(padded[:, :, 1:-1], (3, 5), stride=1)
    return torch.maximum(wide, functional.max_pool2d(padded[..., REACH:-REACH], (5, 1), stride=1))


def batch_size_weights(labels: Tensor, config: SizeWeighted) -> Tensor:
    """`size_weights` of each of `(N, Y, X)`: `(N, 1, Y, X)` float32.

    >>> labels = functional.pad(torch.tensor([[[1, 0, 0, 0, 2, 2, 2, 2]]]), (1, 1, 1, 1))
    >>> batch_size_weights(labels, SizeWeighted(area=4, most=8))[0, 0, 1].tolist()
    [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    own, count = _numbered(labels)
    areas = torch.bincount(own.flatten(), minlength=count).clamp(min=1)
    weights = (config.area / areas).sqrt().clamp(1, config.most)
    for edge in (own[:, 0], own[:, -1], own[:, :, 0], own[:, :, -1]):
        weights[edge.flatten()] = 1
    inside = torch.where(labels > 0, weights[own], 1.0)[:, None]
    return torch.where(labels[:, None] > 0, inside, _highest(inside))


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Labels that no two of `(N, Y, X)` share, and how many there can be."""
    count = int(labels.max()) + 1
    return labels.long() + count * torch.arange(len(labels), device=labels.device)[:, None, None], count * len(labels)


def batch_distance(labels: Tensor) -> Tensor:
    """`own_distance` of each of `(N, Y, X)`, by exact distances: float32.

    First along rows, then the least over rows of both squares (Felzenszwalb and Huttenlocher 2012, by brute force).
    """
    inside = labels > 0
    core = inside.clone()
    for axis in (1, 2):
        same = labels.narrow(axis, 1, labels.shape[axis] - 1) == labels.narrow(axis, 0, labels.shape[axis] - 1)
        core.narrow(axis, 1, labels.shape[axis] - 1).logical_and_(same)
        core.narrow(axis, 0, labels.shape[axis] - 1).logical_and_(same)
    height, width = labels.shape[1:]
    far = height + width
    along = torch.arange(width, device=labels.device)
    before = torch.where(core, -far, along).cummax(2).values
    after = torch.where(core, -far, along.flip(0)).flip(2).cummax(2).values.flip(2)
    row = torch.minimum(along - before, along.flip(0) - after).clamp(max=far).float().square()
    squares = row.clone()
    for step in range(1, height):
        if step % 8 == 1 and step**2 >= float(squares.max()):
            break  # nothing that far away is nearer than what has been found
        for to, start in ((step, 0), (0, step)):
            moved = row[:, start : start + height - step] + step**2
            near = squares[:, to : to + height - step]
            torch.minimum(near, moved, out=near)
    distance = squares.sqrt() + 1
    own, count = _numbered(labels)
    deepest = torch.ones(count, device=labels.device)
    deepest.scatter_reduce_(0, own.flatten(), distance.flatten(), "amax")
    return torch.where(inside, distance / deepest[own], 0.0)
