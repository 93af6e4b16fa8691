"""Class maps are compared by their confusion matrix: by hand, against MONAI, and with intervals over whole cases."""

import numpy as np
import pytest
import torch
from monai.metrics.meandice import DiceMetric
from monai.metrics.meaniou import MeanIoU

from pipeline.errors import InputError, MaskError
from pipeline.scoring.class_metrics import ClassCase, accuracy, confusion, dice, iou, mean, summarise_classes
from pipeline.scoring.present_classes import class_table, confusion_picture, write_class_scores

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0], [2, 2, 0, 255]])
PREDICTED = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [2, 2, 2, 0], [2, 0, 0, 1]])
NAMES = ("background", "one", "two")


def test_a_4x4_example_by_hand():
    """Classes 0, 1, 2 of 7, 4 and 4 pixels; 1 and 2 agree on 3 of 4 + 4; the ignored pixel does not count."""
    counts = confusion(TRUTH, PREDICTED, 3)
    assert counts.tolist() == [[5, 1, 1], [1, 3, 0], [1, 0, 3]]
    assert dice(counts) == pytest.approx([10 / 14, 6 / 8, 6 / 8])
    assert iou(counts) == pytest.approx([5 / 9, 3 / 5, 3 / 5])
    assert accuracy(counts) == pytest.approx(11 / 15)


def test_dice_and_iou_are_monais():
    """On random volumes that hold every class."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 3, 5, 6, 7))
    one_hot = [torch.nn.functional.one_hot(torch.tensor(a), 4).movedim(-1, 1) for a in (predicted, truth)]
    for metric, ours in ((DiceMetric(reduction="none"), dice), (MeanIoU(reduction="none"), iou)):
        wanted = metric(*one_hot).numpy()
        found = np.stack([ours(confusion(t, p, 4)) for t, p in zip(truth, predicted, strict=True)])
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_class_that_neither_holds_is_left_out_of_means():
    """Class 2 is nowhere: its Dice is not defined; class 1 is perfect, so the mean is 1."""
    counts = confusion(np.array([0, 1]), np.array([0, 1]), 3)
    assert np.isnan(dice(counts)[2]) and mean(dice(counts)[1:]) == 1.0
    invented = confusion(np.array([0, 1, 0]), np.array([0, 1, 2]), 3)
    assert dice(invented)[2] == 0.0
    assert np.isnan(mean(np.array([np.nan]))) and np.isnan(ClassCase("a", confusion(TRUTH * 0, TRUTH * 0, 3)).dice)


def cases():
    found = [ClassCase("a", confusion(TRUTH, PREDICTED, 3)), ClassCase("b", confusion(TRUTH, TRUTH % 255, 3))]
    return [*found, ClassCase("c", np.zeros((3, 3), np.int64), error="it is broken", hint="mend it")]


def test_the_summary_adds_counts_and_averages_cases():
    """dice_mean is over cases, pooled numbers are of the summed matrix; a case in error is named, not counted."""
    scores = summarise_classes(cases(), NAMES, 200)
    assert scores["images"] == 2 and scores["failed"] == 1 and scores["errors"][0]["case"] == "c"
    assert scores["dice_mean"] == pytest.approx((0.75 + 1) / 2)
    total = confusion(TRUTH, PREDICTED, 3) + confusion(TRUTH, TRUTH % 255, 3)
    assert scores["confusion"] == total.tolist()
    assert scores["miou"] == pytest.approx(iou(total).mean(), abs=1e-6)
    assert scores["accuracy"] == pytest.approx(np.trace(total) / total.sum(), abs=1e-6)
    assert scores["dice_mean_low"] == 0.75 and scores["dice_mean_high"] == 1.0
    assert scores["classes"]["two"]["pixels_true"] == 8
    assert summarise_classes(cases()[:1], NAMES)["dice_mean_low"] is None


def test_groups_are_drawn_whole():
    """Two cases of one group leave nothing to draw: there is no interval. With a third case there is."""
    grouped = [ClassCase(one.case, one.counts, "patient") for one in cases()[:2]]
    scores = summarise_classes(grouped, NAMES, 50)
    assert scores["dice_mean_low"] is None
    more = [*grouped, ClassCase("d", confusion(TRUTH, TRUTH * 0, 3))]
    scores = summarise_classes(more, NAMES, 50)
    assert scores["dice_mean_low"] == 0 and scores["dice_mean_high"] == 0.875
    assert scores["intervals"]["over"] == "groups"


def test_what_cannot_be_scored_is_refused():
    """Other shapes, numbers that are no class, nothing to score at all."""
    with pytest.raises(MaskError, match="its own size"):
        confusion(TRUTH, PREDICTED[:2], 3)
    with pytest.raises(MaskError, match="class 2"):
        confusion(TRUTH, PREDICTED, 2)
    with pytest.raises(MaskError, match="prediction"):
        confusion(TRUTH % 3, PREDICTED + 2, 3)
    with pytest.raises(InputError, match="it is broken"):
        summarise_classes(cases()[2:], NAMES)


def test_scores_are_told_and_written(tmp_path):
    """The table, the JSON, one row a case with the worst first, and a picture of the matrix."""
    scores = summarise_classes(cases(), NAMES, 20)
    table = class_table(scores)
    assert "mean foreground Dice  0.875" in table and "not scored: it is broken; mend it" in table
    write_class_scores(tmp_path, scores, cases())
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["case", "c", "a", "b"]
    assert (tmp_path / "confusion.png").read_bytes() == confusion_picture(np.array(scores["confusion"]), NAMES)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
