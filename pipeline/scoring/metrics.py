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

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from fractions import Fraction
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MaskError
from pipeline.scoring.overlaps import Integers, Overlaps, OverlapSums, count_overlaps

STEPS = tuple(range(10, 20))  # an IoU threshold is a step of 1/20, so that comparing with it is exact
THRESHOLDS = tuple(step / 20 for step in STEPS)  # .50:.05:.95
_NONE = (0,) * len(STEPS)


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
    merged, split, missed, inexact : true objects without a pair at IoU .5, by what became of them.
        Most of one lies in a prediction that holds most of another, too; or it holds most of several predictions; or
        most of it is background; or none of these. With the pairs they add up to `true`. (After Caicedo et al. 2019.)
    extra : predicted objects without a pair that lie mostly on the truth's background.
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
    merged: int = 0
    split: int = 0
    missed: int = 0
    inexact: int = 0
    extra: int = 0

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


def match(truth: NDArray[Any], predicted: NDArray[Any]) -> Scores:
    """Compare two label images `((Z,) Y, X)` of integers (0 is background; ids need not be consecutive).

    Raises MaskError where shapes differ or labels are no integers of 0 and above.
    """
    return _score(count_overlaps(truth, predicted))


def match_windows(windows: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[Scores, Integers]:
    """Compare two label images that come as windows (truth, prediction), every pixel in one; also the true ids.

    The scores are those of `match` on the whole images. Memory holds their objects and overlaps, not their pixels.
    """
    sums = OverlapSums()
    for truth, predicted in windows:
        sums.add(count_overlaps(truth, predicted))
    table = sums.total()
    return _score(table), table.true_ids


def _score(table: Overlaps) -> Scores:
    true_of, predicted_of = table.true_areas[table.row], table.predicted_areas[table.column]
    union = true_of + predicted_of - table.pixels
    pairs = _pairs(table, union)
    tp, iou_sum = _matched(table, union, pairs)
    merged, split, missed, inexact, extra = _errors(table, pairs)
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
        merged=merged,
        split=split,
        missed=missed,
        inexact=inexact,
        extra=extra,
    )


def _pairs(table: Overlaps, union: Integers) -> Integers:
    """The cells of the pairs whose IoU is at least .5.

    Above IoU .5 an object has one partner at most. At exactly .5 it may have two, but then they are the two halves of
    it and have no other partner: keeping the first of them matches as many pairs as any assignment could.
    """
    close = np.flatnonzero(20 * table.pixels // union >= STEPS[0])
    close = close[np.unique(table.row[close], return_index=True)[1]]
    return close[np.unique(table.column[close], return_index=True)[1]]


def _matched(table: Overlaps, union: Integers, pairs: Integers) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """How many pairs, and their summed IoU, at each threshold."""
    step, iou = 20 * table.pixels[pairs] // union[pairs], table.pixels[pairs] / union[pairs]
    found = np.bincount(step, minlength=22)[::-1].cumsum()[::-1]
    summed = np.bincount(step, weights=iou, minlength=22)[::-1].cumsum()[::-1]
    return tuple(int(found[s]) for s in STEPS), tuple(float(summed[s]) for s in STEPS)


def _errors(table: Overlaps, pairs: Integers) -> tuple[int, int, int, int, int]:
    """True objects merged, split, missed and inexact, and extra predictions; see `Scores`."""
    lost = np.ones(table.true_areas.size, np.bool_)
    lost[table.row[pairs]] = False
    alone = np.ones(table.predicted_areas.size, np.bool_)
    alone[table.column[pairs]] = False
    most_of_true = 2 * table.pixels > table.true_areas[table.row]
    most_of_predicted = 2 * table.pixels > table.predicted_areas[table.column]
    held = np.bincount(table.column[most_of_true], minlength=alone.size)
    pieces = np.bincount(table.row[most_of_predicted], minlength=lost.size)
    merged = np.zeros_like(lost)
    merged[table.row[most_of_true & (held[table.column] > 1)]] = True
    split = ~merged & (pieces > 1)
    missed = ~merged & ~split & (2 * _covered(table.row, table.pixels, lost.size) < table.true_areas)
    extra = alone & (2 * _covered(table.column, table.pixels, alone.size) < table.predicted_areas)
    kinds = (merged & lost, split & lost, missed & lost, lost & ~merged & ~split & ~missed, extra)
    return tuple(int(kind.sum()) for kind in kinds)  # type: ignore[return-value]


def _covered(of: Integers, pixels: Integers, count: int) -> Integers:
    """How many pixels of each object lie in any object of the other image."""
    return np.bincount(of, weights=pixels, minlength=count).astype(np.int64)


def _aji(table: Overlaps, union: Integers) -> tuple[int, int]:
    """Each true object with the prediction of highest IoU; what is left over on either side joins the union."""
    order = np.lexsort((table.column, -table.pixels / union, table.row))
    best = order[np.unique(table.row[order], return_index=True)[1]]
    lonely_true = np.delete(table.true_areas, table.row[best]).sum()
    lonely_predicted = np.delete(table.predicted_areas, np.unique(table.column[best])).sum()
    return int(table.pixels[best].sum()), int(union[best].sum() + lonely_true + lonely_predicted)
