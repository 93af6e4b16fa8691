"""How sure a prediction is of itself, without any truth: what flags and the choice of a zoom are drawn from.

Two things make a number in [0, 1]. The mean foreground probability inside objects falls with soft boundaries and with
images unlike those the model learned from. The agreement (Dice of soft values) between the distance the network
answered and the distance of the very objects its answer was decoded to falls where they were cut or merged against the
network's own opinion, and where it saw something that did not become an object.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Target
from pipeline.model.targets import encode
from pipeline.types import Labels, Pixels

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Confidence:
    """`image` in [0, 1], 0 without any object; `objects` in [0, 1], one an object, in the order of their labels."""

    image: float
    objects: Floats


def confidence(labels: Labels, probabilities: Pixels, target: Target) -> Confidence:
    """Confidence of `labels` `(Y, X)`, 1..n as `decode` made them of `probabilities` `(K, Y, X)`.

    >>> from pipeline.config import SeparatedTarget
    >>> labels = np.zeros((9, 9), np.uint32)
    >>> labels[2:7, 2:7] = 1
    >>> sure = confidence(labels, encode(labels, SeparatedTarget()), SeparatedTarget())
    >>> sure.image, sure.objects.tolist()
    (1.0, [1.0])
    """
    count = int(labels.max(initial=0))
    if count == 0:
        return Confidence(0.0, np.zeros(0))
    inner = 2 if len(probabilities) > 2 else 0
    seen = probabilities[inner]
    expected = encode(labels, target)[inner] if inner else (labels > 0).astype(np.float32)
    flat = labels.ravel()

    def sums(values: Pixels) -> Floats:
        return np.bincount(flat, weights=values.ravel(), minlength=count + 1).astype(np.float64)

    areas, inside = np.bincount(flat, minlength=count + 1), sums(probabilities[0])
    common, squares = sums(2 * seen * expected), sums(seen**2 + expected**2)
    objects = inside[1:] / np.maximum(areas[1:], 1) * common[1:] / np.maximum(squares[1:], 1e-9)
    sure = inside[1:].sum() / areas[1:].sum()
    return Confidence(float(sure * common.sum() / squares.sum()), objects)
