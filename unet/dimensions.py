"""Layers by the number of spatial dimensions, so that a network is written once for `(Y, X)` and `(Z, Y, X)`."""

from collections.abc import Sequence
from math import prod

from torch import nn

Pooling = Sequence[Sequence[int]]
Stride = int | tuple[int, ...]

CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def pooling_factors(pooling: Pooling, levels: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """The factor along each axis of each of `levels - 1` steps down; without any `pooling`, 2 everywhere.

    >>> pooling_factors((), 3, 2)
    ((2, 2), (2, 2))
    >>> pooling_factors([[1, 2, 2], [2, 2, 2]], 3, 3)
    ((1, 2, 2), (2, 2, 2))
    """
    factors = tuple(tuple(step) for step in pooling) or ((2,) * dimensions,) * (levels - 1)
    if len(factors) != levels - 1 or any(len(step) != dimensions for step in factors):
        raise ValueError(f"pooling is {factors}; {levels} levels take {levels - 1} steps of {dimensions} factors")
    return factors


def total_stride(factors: Pooling) -> Stride:
    """The product of all factors along each axis; one number where the axes agree.

    >>> total_stride([[2, 2], [2, 2]]), total_stride([[1, 2, 2], [2, 2, 2]])
    (4, (2, 4, 4))
    """
    stride = tuple(prod(axis) for axis in zip(*factors, strict=True))
    return stride[0] if len(set(stride)) == 1 else stride
