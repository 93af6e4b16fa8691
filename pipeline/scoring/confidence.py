"""How sure a prediction is of itself, without any truth: what flags and the choice of a zoom are drawn from.

Two things make a number in [0, 1]. The mean foreground probability inside objects falls with soft boundaries and with
images unlike those the model learned from. The agreement (Dice of soft values) between the distance the network
answered and the distance of the very objects its answer was decoded to falls where they were cut or merged against the
network's own opinion, and where it saw something that did not become an object.

Both are ratios of sums of whole numbers (probabilities are read as 0..255, as they are decoded), so that those of the
parts of a large image add up to those of the whole, exactly and in any order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Target
from pipeline.data.spans import find_spans
from pipeline.model.decode import FULL, Bytes, to_bytes
from pipeline.model.targets import span_distance
from pipeline.model.volume_objects import own_distance
from pipeline.types import Labels, Pixels

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ConfidenceSums:
    """What an image's confidence is made of; `+` adds the parts of an image, each pixel being in one of them.

    area, inside : pixels of objects, and the sum of their foreground probabilities (0..255).
    common : twice the product of the distance that was seen and that of the objects, summed over all pixels.
    squares : the squares of both, summed over all pixels.
    """

    area: int = 0
    inside: int = 0
    common: int = 0
    squares: int = 0

    def __add__(self, other: "ConfidenceSums") -> "ConfidenceSums":
        return ConfidenceSums(
            self.area + other.area,
            self.inside + other.inside,
            self.common + other.common,
            self.squares + other.squares,
        )

    @property
    def image(self) -> float:
        """In [0, 1], 0 without any object.

        >>> (ConfidenceSums(area=1, inside=255, common=2, squares=2) + ConfidenceSums(area=1, squares=2)).image
        0.25
        """
        if not self.area or not self.squares:
            return 0.0
        return self.inside / (FULL * self.area) * (self.common / self.squares)


@dataclass(frozen=True)
class Confidence:
    """`objects` in [0, 1], one an object, in the order of their labels; `sums` are those of all pixels."""

    objects: Floats
    sums: ConfidenceSums

    @property
    def image(self) -> float:
        """Of the whole image, in [0, 1], 0 without any object."""
        return self.sums.image


@dataclass(frozen=True)
class Share:
    """What a part of a large image counts: the objects `ids` that are its own, and what is no object in its core.

    `core` is a box of rows and columns of the part.
    """

    ids: NDArray[np.int64]
    core: tuple[slice, slice]


def confidence(labels: Labels, probabilities: Pixels | Bytes, target: Target, share: Share | None = None) -> Confidence:
    """Confidence of `labels` `((Z,) Y, X)`, 1..n as `decode` made them of `probabilities` `(K, (Z,) Y, X)`, float32 or
    uint8.

    With `share` the sums are those of that part of a large image; `objects` are all of them still.

    >>> from pipeline.config import SeparatedTarget
    >>> from pipeline.model.targets import encode
    >>> labels = np.zeros((9, 9), np.uint32)
    >>> labels[2:7, 2:7] = 1
    >>> sure = confidence(labels, encode(labels, SeparatedTarget()), SeparatedTarget())
    >>> sure.image, sure.objects.tolist()
    (1.0, [1.0])
    """
    if labels.ndim == 3:
        return _of_volume(labels, probabilities)
    planes = to_bytes(probabilities)
    inner = 2 if len(planes) > 2 else 0
    beside = _squares_beside(labels, planes[inner], share)
    spans = find_spans(labels)
    if not spans.row.size:
        return Confidence(np.zeros(0), ConfidenceSums(squares=beside))
    at = spans.pixels(labels.shape[1])
    seen = planes[inner].ravel().take(at).astype(np.int32)
    if inner:
        expected = np.rint(span_distance(labels, spans) * np.float32(FULL)).astype(np.int32)
    else:
        expected = np.full(at.size, FULL, np.int32)
    begin = np.cumsum(spans.length) - spans.length
    count = int(spans.value.max())

    def sums(values: NDArray[np.int32]) -> NDArray[np.int64]:
        a_span = np.add.reduceat(values, begin, dtype=np.int64)
        return np.bincount(spans.value, weights=a_span, minlength=count + 1)[1:].astype(np.int64)

    area = np.bincount(spans.value, weights=spans.length, minlength=count + 1)[1:].astype(np.int64)
    inside = sums(planes[0].ravel().take(at).astype(np.int32))
    common, own = sums(2 * seen * expected), sums(seen * seen + expected * expected)
    objects = inside / np.maximum(FULL * area, 1) * common / np.maximum(own, 1)
    mine = slice(None) if share is None else share.ids - 1
    area, inside, common, own = (values[mine].sum() for values in (area, inside, common, own))
    return Confidence(objects, ConfidenceSums(int(area), int(inside), int(common), int(own) + beside))


def _of_volume(labels: Labels, probabilities: Pixels | Bytes) -> Confidence:
    """Plane by plane: sums of whole numbers are the same in any order."""
    count, inner = int(labels.max(initial=0)) + 1, 2 if len(probabilities) > 2 else 0
    distance = own_distance(labels) if inner else labels > 0
    area, inside, common, own = np.zeros((4, count))
    for z, numbers in enumerate(labels):
        foreground, seen = (plane.astype(np.int32) for plane in to_bytes(probabilities[[0, inner], z]))
        expected = np.rint(distance[z] * np.float32(FULL)).astype(np.int32)
        flat = numbers.ravel()
        area += np.bincount(flat, minlength=count)
        for sums, values in ((inside, foreground), (common, 2 * seen * expected), (own, seen**2 + expected**2)):
            sums += np.bincount(flat, weights=values.ravel(), minlength=count)
    objects = inside[1:] / np.maximum(FULL * area[1:], 1) * common[1:] / np.maximum(own[1:], 1)
    summed = (area[1:], inside[1:], common, own)
    return Confidence(objects, ConfidenceSums(*(int(values.sum()) for values in summed)))


def _squares_beside(labels: Labels, seen: Bytes, share: Share | None) -> int:
    """The sum of squares of what was seen where no object is."""
    box = (slice(None), slice(None)) if share is None else share.core
    return int(np.square(seen[box], dtype=np.uint16)[labels[box] == 0].sum(dtype=np.int64))
