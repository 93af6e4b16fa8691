"""Counts and ratios of one pair of label images, against hand counts, brute force and other people's algorithms."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from pipeline.errors import MaskError
from pipeline.scoring.metrics import THRESHOLDS, Scores, match
from pipeline.scoring.summary import ERRORS

LABELS = hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 4))
PAIRS = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(*(hnp.arrays(np.uint32, shape, elements=st.integers(0, 4)),) * 2)
)
RATIOS = [
    lambda s: s.dice,
    lambda s: s.iou,
    lambda s: s.dsb_score,
    lambda s: s.pq,
    lambda s: s.aji,
    *(lambda s, t=t: s.ap(t) for t in THRESHOLDS),
    *(lambda s, t=t: s.f1(t) for t in THRESHOLDS),
    *(lambda s, t=t: s.precision(t) for t in THRESHOLDS),
    *(lambda s, t=t: s.recall(t) for t in THRESHOLDS),
]


def overlaps(truth, predicted):
    """Intersections and unions `(T, P)`, pixel by pixel."""
    rows = [truth == t for t in np.unique(truth[truth > 0])]
    columns = [predicted == p for p in np.unique(predicted[predicted > 0])]
    both = np.array([[np.sum(r & c) for c in columns] for r in rows], int).reshape(len(rows), len(columns))
    either = np.array([[np.sum(r | c) for c in columns] for r in rows], int).reshape(len(rows), len(columns))
    return both, either


def assigned(both, either, step):
    """Most pairs at IoU >= step/20, among those the largest IoU sum: StarDist's linear assignment."""
    fits = 20 * both >= step * either
    if not fits.any():
        return 0, 0.0
    iou = both / either
    cost = -fits.astype(float) - iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(cost)
    kept = fits[rows, columns]
    return int(kept.sum()), float(iou[rows, columns][kept].sum())


def aji_by_loop(truth, predicted):
    """The Aggregated Jaccard Index as its authors' loop has it (best IoU instead of largest overlap, as HoVer-Net)."""
    both, either = overlaps(truth, predicted)
    used, intersection, union = set(), 0, 0
    areas = [np.sum(predicted == p) for p in np.unique(predicted[predicted > 0])]
    for row, t in enumerate(np.unique(truth[truth > 0])):
        candidates = np.flatnonzero(both[row])
        if not candidates.size:
            union += np.sum(truth == t)
            continue
        best = candidates[np.argmax(both[row, candidates] / either[row, candidates])]
        intersection, union = intersection + both[row, best], union + either[row, best]
        used.add(best)
    return intersection, union + sum(a for i, a in enumerate(areas) if i not in used)


def test_counts_can_be_checked_by_eye():
    """A hit at IoU 3/4, a miss and a false alarm: TP 1, FN 1, FP 1 up to .75, nothing above."""
    truth = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 0, 0]])
    predicted = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 3, 3]])
    scores = match(truth, predicted)
    assert (scores.true, scores.predicted) == (2, 2)
    assert scores.tp == (1,) * 6 + (0,) * 4
    assert scores.ap(0.75) == 1 / 3
    assert scores.ap(0.8) == 0
    assert scores.precision(0.5) == scores.recall(0.5) == scores.f1(0.5) == 0.5
    assert scores.dsb_score == pytest.approx(6 * (1 / 3) / 10)
    assert scores.pq == pytest.approx(0.75 / 2)
    assert (scores.intersection, scores.true_area, scores.predicted_area) == (3, 6, 5)
    assert scores.dice == 6 / 11
    assert scores.iou == 3 / 8
    assert scores.aji == 3 / (4 + 2 + 2)
    assert (scores.count_bias, scores.count_error) == (0, 0)


def test_a_threshold_is_met_exactly():
    """IoU 3/5 counts at .6, and 11/20 at .55: thresholds are compared in integers, not in floats."""
    for pixels, total, threshold in ((3, 5, 0.6), (11, 20, 0.55), (7, 10, 0.7), (19, 20, 0.95)):
        truth, predicted = np.ones((1, total), int), np.zeros((1, total), int)
        predicted[0, :pixels] = 1
        at = THRESHOLDS.index(threshold)
        assert match(truth, predicted).tp == (1,) * (at + 1) + (0,) * (9 - at)


def test_two_halves_match_a_whole_once():
    """At exactly IoU .5 both halves would fit; one object is matched once, whichever way round."""
    whole, halves = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]])
    for truth, predicted in ((whole, halves), (halves, whole)):
        scores = match(truth, predicted)
        assert scores.tp == (1,) + (0,) * 9
        assert scores.iou_sum[0] == 0.5


@pytest.mark.parametrize("ratio", RATIOS)
def test_both_empty_scores_one_and_is_flagged(ratio):
    """Nothing there and nothing claimed is right."""
    nothing = np.zeros((3, 4), np.uint32)
    scores = match(nothing, nothing)
    assert scores.empty
    assert ratio(scores) == 1


@pytest.mark.parametrize("ratio", RATIOS)
def test_one_side_empty_scores_zero(ratio):
    """All missed, or all invented, is worth nothing and is no empty case."""
    nothing, something = np.zeros((3, 4), np.uint32), np.eye(3, 4, dtype=np.uint32)
    for truth, predicted in ((nothing, something), (something, nothing)):
        scores = match(truth, predicted)
        assert not scores.empty
        assert ratio(scores) == 0


@settings(max_examples=150)
@given(PAIRS)
def test_matching_is_the_best_assignment(pair):
    """At every threshold as many pairs, and as much IoU, as scipy's linear assignment finds."""
    both, either = overlaps(*pair)
    scores = match(*pair)
    for step, tp, iou_sum in zip(range(10, 20), scores.tp, scores.iou_sum, strict=True):
        pairs, total = assigned(both, either, step) if both.size else (0, 0.0)
        assert tp == pairs
        assert iou_sum == pytest.approx(total)


@settings(max_examples=150)
@given(PAIRS)
def test_aji_is_the_loop_of_its_authors(pair):
    """Ties of IoU go to the lower label in both."""
    scores = match(*pair)
    assert (scores.aji_intersection, scores.aji_union) == aji_by_loop(*pair)


@settings(max_examples=100)
@given(PAIRS, st.integers(0, 2**32 - 6))
def test_ids_do_not_matter(pair, offset):
    """Renumbering, however sparse or high the ids, changes no count."""
    truth, predicted = pair
    far = np.where(truth > 0, truth + np.uint32(offset), 0).astype(np.uint32)
    assert match(far, predicted) == match(truth, predicted)
    assert match(predicted, far) == match(predicted, truth)


@settings(max_examples=100)
@given(PAIRS)
def test_scores_are_symmetric_and_bounded(pair):
    """Exchanging truth and prediction exchanges precision and recall; every ratio lies in [0, 1]."""
    one, other = match(*pair), match(*pair[::-1])
    assert one.tp == other.tp
    assert one.dice == other.dice
    assert one.precision(0.5) == other.recall(0.5)
    assert all(0 <= ratio(one) <= 1 for ratio in RATIOS)
    assert list(one.tp) == sorted(one.tp, reverse=True)


@settings(max_examples=50)
@given(LABELS)
def test_truth_matches_itself(labels):
    """A perfect prediction scores 1 everywhere."""
    scores = match(labels, labels)
    assert scores.tp == (scores.true,) * 10
    assert all(ratio(scores) == 1 for ratio in RATIOS)


@settings(max_examples=50)
@given(PAIRS, PAIRS)
def test_adding_scores_is_scoring_side_by_side(first, second):
    """Counts add: the sum of two images is the score of both laid out in one."""

    def beside(a, b):
        flat_b = b.ravel().astype(np.int64)
        return np.concatenate([a.ravel(), np.where(flat_b > 0, flat_b + 10, 0)])[None]

    added = match(*first) + match(*second)
    together = match(beside(first[0], second[0]), beside(first[1], second[1]))
    assert added.iou_sum == pytest.approx(together.iou_sum)
    assert {**vars(added), "iou_sum": ()} == {**vars(together), "iou_sum": ()}


def test_nothing_is_the_neutral_element():
    """`sum(scores, Scores())` pools any number of images, none included."""
    scores = match(np.eye(3, dtype=int), np.eye(3, dtype=int))
    assert sum([scores], Scores()) == scores
    assert sum([], Scores()).dice == 1


def test_many_objects_take_the_sparse_table():
    """More cells than pixels allow (1,200 x 1,200 objects): pairs are sorted instead, counts are the same."""
    truth = np.zeros((1, 70_000), np.uint32)
    predicted = truth.copy()
    truth[0, : 2 * 1200] = np.repeat(np.arange(1, 1201), 2)
    predicted[0, : 2 * 1200] = np.repeat(np.arange(1200, 0, -1), 2)
    predicted[0, 0] = 0
    scores = match(truth, predicted)
    assert (scores.true + 1) * (scores.predicted + 1) > 4 * truth.size
    assert (scores.true, scores.predicted, scores.tp[0], scores.tp[1]) == (1200, 1200, 1200, 1199)


@pytest.mark.parametrize(
    ("truth", "predicted", "said"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "shape (3, 2)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "float64"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "label -1"),
    ],
)
def test_what_is_no_label_image_is_refused(truth, predicted, said):
    """Other shapes, floats and negative ids are no answer to compare with."""
    with pytest.raises(MaskError, match=r"truth|prediction") as error:
        match(truth, predicted)
    assert said in str(error.value)


def test_thresholds_between_the_steps_are_refused():
    """.52 was not counted, so no ratio is made up for it."""
    with pytest.raises(MaskError, match=r"0\.52"):
        Scores().ap(0.52)


def test_masks_and_empty_images_are_label_images_too():
    """A boolean mask is one object; an image without pixels holds none."""
    mask = np.array([[True, False]])
    assert match(mask, mask).tp[0] == 1
    assert match(np.zeros((0, 4), int), np.zeros((0, 4), int)).empty


def test_what_went_wrong_can_be_checked_by_eye():
    """One found, two merged, one split, one missed, one with a wrong outline, one invented."""
    truth = np.array([[1, 1, 0, 2, 2, 3, 3, 0, 4, 4, 4, 4, 4, 0, 5, 5, 0, 6, 6, 6, 6, 0, 0]])
    predicted = np.array([[1, 1, 0, 2, 2, 2, 2, 2, 3, 3, 0, 4, 4, 0, 0, 0, 5, 5, 5, 0, 0, 6, 6]])
    scores = match(truth, predicted)
    assert (scores.true, scores.predicted, scores.tp[0]) == (6, 6, 1)
    assert (scores.merged, scores.split, scores.missed, scores.inexact, scores.extra) == (2, 1, 1, 1, 1)


@settings(max_examples=150)
@given(PAIRS)
def test_what_went_wrong_is_what_loops_say(pair):
    """Object by object; every true one has one fate."""
    both, either = overlaps(*pair)
    assume(not np.any(2 * both == either))  # of two halves, either may be the one that is found
    trues, predictions = (np.unique(labels[labels > 0], return_counts=True)[1] for labels in pair)
    fates = []
    for row, area in enumerate(trues):
        if any(2 * both[row] > either[row]):
            fates.append("found")
        elif any(2 * both[row, c] > area and np.sum(2 * both[:, c] > trues) > 1 for c in range(len(predictions))):
            fates.append("merged")
        elif np.sum(2 * both[row] > predictions) > 1:
            fates.append("split")
        else:
            fates.append("missed" if 2 * both[row].sum() < area else "inexact")
    invented = [
        not any(2 * both[:, c] > either[:, c]) and 2 * both[:, c].sum() < area for c, area in enumerate(predictions)
    ]
    scores = match(*pair)
    assert scores.tp[0] == fates.count("found")
    assert [getattr(scores, kind) for kind in ERRORS] == [*map(fates.count, ERRORS[:-1]), sum(invented)]
