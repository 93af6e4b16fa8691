"""How well predicted objects match true ones: counts first, ratios last.

Invariant: a true object and a predicted one are matched at most once each at every IoU threshold, and as many pairs as
possible are matched. Every count is an integer that adds over images (only `iou_sum` is a float), so that pooled scores
come from the same ratios as those of one image:

>>> truth = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
>>> predicted = np.array([[7, 7, 0, 0], [7, 7, 0, 9]])
>>> scores = match(truth, predicted)
>>> scores.true, scores.predicted, scores.tp[0], scores.ap(0.5), scores.ap(0.55)
(2, 2, 2, 1.0, 0.3333333333333333)
>>> (scores + match(truth, truth)).tp[0]
4
"""

from dataclasses import astuple, dataclass
from fractions import Fraction
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MaskError

STEPS = tuple(range(10, 20))  # an IoU threshold is a step of 1/20, so that comparing with it is exact
THRESHOLDS = tuple(step / 20 for step in STEPS)  # .50:.05:.95
_NONE = (0,) * len(STEPS)
_DENSE = 4  # a dense overlap table may have this many cells a pixel, beyond that pairs are sorted

Integers = NDArray[np.int64]


def _ratio(numerator: float, denominator: float) -> float:
    """0/0 is 1: nothing was there and nothing was claimed."""
    return numerator / denominator if denominator else 1.0


def _position(threshold: float) -> int:
    step = Fraction(threshold).limit_denominator(1000) * 20
    if step not in STEPS:
        wanted = ", ".join(f"{t:.2f}" for t in THRESHOLDS)
        raise MaskError("IoU threshold", str(threshold), f"one of {wanted}", "scores are counted at these only")
    return STEPS.index(int(step))


@dataclass(frozen=True)
class Scores:
    """Counts of one image, or of many added up.

    true, predicted : objects in the truth and in the prediction.
    tp : pairs whose IoU is at least each of `THRESHOLDS`.
    iou_sum : sum of the IoUs of those pairs.
    intersection, true_area, predicted_area : foreground pixels, whatever the instance.
    aji_intersection, aji_union : pixels of the Aggregated Jaccard Index (Kumar et al. 2017, as in HoVer-Net).
    """

    true: int = 0
    predicted: int = 0
    tp: tuple[int, ...] = _NONE
    iou_sum: tuple[float, ...] = (0.0,) * len(STEPS)
    intersection: int = 0
    true_area: int = 0
    predicted_area: int = 0
    aji_intersection: int = 0
    aji_union: int = 0

    def __add__(self, other: "Scores") -> "Scores":
        mine, theirs = astuple(self), astuple(other)
        added: list[Any] = [
            tuple(map(add, a, b)) if isinstance(a, tuple) else a + b for a, b in zip(mine, theirs, strict=True)
        ]
        return Scores(*added)

    @property
    def empty(self) -> bool:
        """Neither truth nor prediction holds an object: every ratio is 1 by agreement, not by merit."""
        return not self.true and not self.predicted

    @property
    def dice(self) -> float:
        return _ratio(2 * self.intersection, self.true_area + self.predicted_area)

    @property
    def iou(self) -> float:
        return _ratio(self.intersection, self.true_area + self.predicted_area - self.intersection)

    def ap(self, threshold: float) -> float:
        """TP / (TP + FP + FN), as the Data Science Bowl and StarDist have it."""
        tp = self.tp[_position(threshold)]
        return _ratio(tp, self.true + self.predicted - tp)

    def precision(self, threshold: float) -> float:
        """TP / (TP + FP); 0 where only the truth has objects."""
        return _ratio(self.tp[_position(threshold)], self.predicted) if self.predicted or not self.true else 0.0

    def recall(self, threshold: float) -> float:
        """TP / (TP + FN); 0 where only the prediction has objects."""
        return _ratio(self.tp[_position(threshold)], self.true) if self.true or not self.predicted else 0.0

    def f1(self, threshold: float) -> float:
        return _ratio(2 * self.tp[_position(threshold)], self.true + self.predicted)

    @property
    def dsb_score(self) -> float:
        """Mean of `ap` over the thresholds: the Data Science Bowl 2018 score of one image."""
        return float(np.mean([self.ap(threshold) for threshold in THRESHOLDS]))

    @property
    def pq(self) -> float:
        """Panoptic quality (Kirillov et al. 2019) over pairs of IoU at least .5."""
        return _ratio(self.iou_sum[0], (self.true + self.predicted) / 2)

    @property
    def aji(self) -> float:
        return _ratio(self.aji_intersection, self.aji_union)

    @property
    def count_bias(self) -> int:
        """Predicted objects minus true ones."""
        return self.predicted - self.true

    @property
    def count_error(self) -> int:
        return abs(self.count_bias)


@dataclass(frozen=True)
class _Overlaps:
    """The non-empty cells of the overlap table, and the areas of every object; rows and columns are 0-based objects."""

    row: Integers
    column: Integers
    pixels: Integers
    true_areas: Integers
    predicted_areas: Integers


def match(truth: NDArray[Any], predicted: NDArray[Any]) -> Scores:
    """Compare two label images `((Z,) Y, X)` of integers (0 is background; ids need not be consecutive).

    Raises MaskError where shapes differ or labels are no integers of 0 and above.
    """
    table = _overlaps(_labels(truth, "truth"), _labels(predicted, "prediction"), truth.shape, predicted.shape)
    true_of, predicted_of = table.true_areas[table.row], table.predicted_areas[table.column]
    union = true_of + predicted_of - table.pixels
    tp, iou_sum = _matched(table, union)
    aji_intersection, aji_union = _aji(table, union)
    return Scores(
        true=table.true_areas.size,
        predicted=table.predicted_areas.size,
        tp=tp,
        iou_sum=iou_sum,
        intersection=int(table.pixels.sum()),
        true_area=int(table.true_areas.sum()),
        predicted_area=int(table.predicted_areas.sum()),
        aji_intersection=aji_intersection,
        aji_union=aji_union,
    )


def _labels(labels: NDArray[Any], which: str) -> NDArray[Any]:
    hint = "give a label image: 0 is background, every object has one id"
    if labels.dtype.kind not in "iub":
        raise MaskError(which, f"{labels.dtype} labels", "integers", hint)
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise MaskError(which, f"label {labels.min()}", "0 and above", hint)
    return labels.ravel()


def _consecutive(labels: NDArray[Any]) -> tuple[Integers, Integers]:
    """Ids 0..n (0 stays background) for each pixel, and the areas of 1..n; ids that do not occur are dropped."""
    highest = int(labels.max()) if labels.size else 0
    if highest > max(labels.size, 1 << 16):  # a table of all ids would dwarf the image
        kept, codes = np.unique(labels, return_inverse=True)
        codes = codes.astype(np.int64) + (0 if kept[0] == 0 else 1)
    else:
        codes = labels.astype(np.int64)
    areas = np.bincount(codes, minlength=1)
    there = areas > 0
    there[0] = False
    if there[1:].all():
        return codes, areas[1:].astype(np.int64)
    return np.where(there, np.cumsum(there), 0)[codes], areas[there].astype(np.int64)


def _overlaps(
    truth: NDArray[Any], predicted: NDArray[Any], true_shape: tuple[int, ...], predicted_shape: tuple[int, ...]
) -> _Overlaps:
    if true_shape != predicted_shape:
        hint = "score the labels of this very image, at its own size"
        raise MaskError("prediction", f"shape {predicted_shape}", f"the truth's {true_shape}", hint)
    rows, true_areas = _consecutive(truth)
    columns, predicted_areas = _consecutive(predicted)
    width = predicted_areas.size + 1
    cells = (true_areas.size + 1) * width
    paired = rows * width + columns
    if cells <= max(_DENSE * truth.size, 1 << 16):
        counts = np.bincount(paired, minlength=cells)
        keys = np.flatnonzero(counts)
        pixels = counts[keys]
    else:
        keys, pixels = np.unique(paired[(rows > 0) & (columns > 0)], return_counts=True)
    row, column = np.divmod(keys, width)
    both = (row > 0) & (column > 0)
    return _Overlaps(row[both] - 1, column[both] - 1, pixels[both].astype(np.int64), true_areas, predicted_areas)


def _matched(table: _Overlaps, union: Integers) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Pairs and their summed IoU at each threshold.

    Above IoU .5 an object has one partner at most. At exactly .5 it may have two, but then they are the two halves of
    it and have no other partner: keeping the first of them matches as many pairs as any assignment could.
    """
    step = 20 * table.pixels // union
    close = np.flatnonzero(step >= STEPS[0])
    close = close[np.unique(table.row[close], return_index=True)[1]]
    close = close[np.unique(table.column[close], return_index=True)[1]]
    step, iou = step[close], table.pixels[close] / union[close]
    found = np.bincount(step, minlength=22)[::-1].cumsum()[::-1]
    summed = np.bincount(step, weights=iou, minlength=22)[::-1].cumsum()[::-1]
    return tuple(int(found[s]) for s in STEPS), tuple(float(summed[s]) for s in STEPS)


def _aji(table: _Overlaps, union: Integers) -> tuple[int, int]:
    """Each true object with the prediction of highest IoU; what is left over on either side joins the union."""
    order = np.lexsort((table.column, -table.pixels / union, table.row))
    best = order[np.unique(table.row[order], return_index=True)[1]]
    lonely_true = np.delete(table.true_areas, table.row[best]).sum()
    lonely_predicted = np.delete(table.predicted_areas, np.unique(table.column[best])).sum()
    return int(table.pixels[best].sum()), int(union[best].sum() + lonely_true + lonely_predicted)
