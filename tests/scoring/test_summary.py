"""Many images in one mapping: names, means against pooled counts, intervals."""

import json

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.scoring.metrics import STEPS, Scores, match
from pipeline.scoring.present import score_table
from pipeline.scoring.summary import NAMES, ROW_NUMBERS, CaseScore, summarise

PROMISED = {"dice_mean", "dice_pooled", "iou_mean", "ap50", "ap75", "map", "map_pooled", "f1_50", "pq", "aji"}


def scored(seed, objects=6, **fields):
    """A row of 1 x 40 px with objects of 4 px, of which the prediction misses or cuts some."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((1, 40), int)
    for number in range(objects):
        truth[0, number * 6 : number * 6 + 4] = number + 1
    predicted = np.where(rng.random(truth.shape) < 0.2, 0, truth)
    predicted[predicted == rng.integers(1, 7)] = 0
    return CaseScore(f"case{seed}", match(truth, predicted), **fields)


CASES = [scored(i, objects=1 + i % 6, modality="stained" if i % 3 else "fluorescence") for i in range(12)]


def test_means_and_pooled_numbers_by_hand():
    """One object found of one, none found of three: mean AP .5, pooled 1/4."""
    good = match(np.array([[1, 0]]), np.array([[1, 0]]))
    bad = match(np.array([[1, 2, 3, 0]]), np.array([[0, 0, 0, 0]]))
    numbers = summarise([CaseScore("good", good), CaseScore("bad", bad)], bootstrap=0)
    assert (numbers["map"], numbers["map_pooled"], numbers["ap50"], numbers["ap50_mean"]) == (0.5, 0.25, 0.25, 0.5)
    assert (numbers["dice_mean"], numbers["dice_pooled"]) == (0.5, 0.4)
    assert (numbers["iou_mean"], numbers["iou_pooled"]) == (0.5, 0.25)
    assert (numbers["f1_50"], numbers["precision50"], numbers["recall50"]) == (0.4, 1, 0.25)
    assert (numbers["count_error"], numbers["count_bias"]) == (1.5, -1.5)
    assert (numbers["images"], numbers["objects_true"], numbers["objects_predicted"]) == (2, 4, 1)
    assert (numbers["objects_missed"], numbers["objects_merged"], numbers["objects_extra"]) == (3, 0, 0)
    assert numbers["curve"]["ap"] == [0.25] * 10


def test_the_promised_names_are_there_with_intervals():
    """Other programs read these; JSON takes them as they are."""
    numbers = summarise(CASES, bootstrap=50)
    assert set(NAMES) >= PROMISED
    for name in NAMES:
        assert 0 <= numbers[f"{name}_low"] <= numbers[f"{name}_high"] or name == "count_bias"
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["format_version"] == 1


def test_pooled_numbers_are_those_of_the_added_counts():
    """The vectorised ratios are the properties of `Scores`."""
    numbers = summarise(CASES, bootstrap=0)
    pooled = sum((one.scores for one in CASES), Scores())
    expected = {
        "dice_pooled": pooled.dice,
        "iou_pooled": pooled.iou,
        "ap50": pooled.ap(0.5),
        "ap75": pooled.ap(0.75),
        "map_pooled": pooled.dsb_score,
        "precision50": pooled.precision(0.5),
        "recall50": pooled.recall(0.5),
        "f1_50": pooled.f1(0.5),
        "pq": pooled.pq,
        "aji_pooled": pooled.aji,
        "map": np.mean([one.scores.dsb_score for one in CASES]),
        "aji": np.mean([one.scores.aji for one in CASES]),
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert numbers["curve"]["f1"][5] == pytest.approx(pooled.f1(0.75), abs=1e-6)


def test_intervals_are_those_of_a_plain_bootstrap():
    """A loop that draws images and pools their counts gives the same middle 95 %."""
    rng = np.random.default_rng(5)
    drawn = [
        sum((CASES[i].scores for i in rng.integers(0, len(CASES), len(CASES))), Scores()).ap(0.5) for _ in range(1000)
    ]
    numbers = summarise(CASES, bootstrap=3000, seed=1)
    assert [numbers["ap50_low"], numbers["ap50_high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


def test_intervals_are_repeatable_and_depend_on_the_seed():
    """The same numbers for the same seed."""
    assert summarise(CASES, seed=3) == summarise(CASES, seed=3)
    assert summarise(CASES, seed=3)["map_low"] != summarise(CASES, seed=4)["map_low"]


def test_groups_are_drawn_whole():
    """Twelve copies of two different images are two draws, not twelve: the interval spans both."""
    good = match(np.array([[1, 0]]), np.array([[1, 0]]))
    bad = match(np.array([[1, 0]]), np.array([[0, 1]]))
    grouped = [CaseScore(f"{i}", bad if i % 2 else good, group=f"slide{i % 2}") for i in range(24)]
    alone = [CaseScore(one.case, one.scores) for one in grouped]
    numbers = summarise(grouped, bootstrap=200)
    assert (numbers["map_low"], numbers["map_high"]) == (0, 1)
    assert numbers["intervals"]["over"] == "groups"
    assert numbers["by_group"]["slide0"]["map"] == 1
    assert numbers["by_group"]["slide1"]["map"] == 0
    numbers = summarise(alone, bootstrap=200)
    assert 0.2 < numbers["map_low"] < 0.5 < numbers["map_high"] < 0.8
    assert numbers["intervals"]["over"] == "images"
    assert numbers["by_group"] == {}


def test_one_image_has_no_interval():
    """Nothing can be said of the spread of one: no interval rather than one of width 0."""
    numbers = summarise(CASES[:1])
    assert numbers["map_low"] is None
    assert numbers["by_modality"]["fluorescence"]["ap50_high"] is None


def test_modalities_are_scored_apart():
    """Each part is the summary of its own images."""
    numbers = summarise(CASES, bootstrap=0)
    stained = summarise([one for one in CASES if one.modality == "stained"], bootstrap=0)
    assert set(numbers["by_modality"]) == {"stained", "fluorescence"}
    assert all(numbers["by_modality"]["stained"][name] == stained[name] for name in NAMES)


def test_both_empty_counts_as_one_and_is_counted():
    """Images without objects, rightly left empty, lift the means and not the pooled scores."""
    nothing = CaseScore("nothing", match(np.zeros((2, 2), int), np.zeros((2, 2), int)))
    numbers = summarise([*CASES, nothing], bootstrap=0)
    before = summarise(CASES, bootstrap=0)
    assert numbers["both_empty"] == before["both_empty"] + 1
    assert numbers["map"] == pytest.approx((before["map"] * 12 + 1) / 13, abs=1e-6)
    assert numbers["ap50"] == before["ap50"]
    only = summarise([nothing], bootstrap=0)
    assert {only[name] for name in NAMES if not name.startswith("count")} == {1.0}
    assert only["curve"]["precision"] == [1.0] * 10


def test_errors_stay_out_of_the_numbers_and_on_the_list():
    """An image that cannot be scored is named with what to do; a missing prediction is an empty one."""
    broken = CaseScore("broken", Scores(), error="case broken: got x, wanted y", hint="do z")
    missing = CaseScore("gone", match(np.eye(3, dtype=int), np.zeros((3, 3), int)), missing=True)
    numbers = summarise([*CASES, broken, missing], bootstrap=0)
    without = summarise([*CASES, missing], bootstrap=0)
    assert all(numbers[name] == without[name] for name in NAMES)
    assert (numbers["failed"], numbers["missing_predictions"], numbers["missing"]) == (1, 1, ["gone"])
    assert numbers["errors"] == [{"case": "broken", "error": "case broken: got x, wanted y", "hint": "do z"}]
    assert broken.row["status"] == "failed"
    assert {broken.row[name] for name in ROW_NUMBERS} == {""}
    assert missing.row["status"] == "missing"
    assert missing.row["recall50"] == 0


@pytest.mark.parametrize("rows", [[], [CaseScore("x", Scores(), error="broken")]])
def test_nothing_to_score_is_an_error(rows):
    """No numbers are made up where there is no image."""
    with pytest.raises(InputError, match="no image that can be scored"):
        summarise(rows)


def test_confidence_is_judged_where_every_image_has_one():
    """Its AUROC stands beside the scores and in the rows; label files of others have none."""
    good, bad = Scores(true=1, predicted=1, tp=(1,) * len(STEPS)), Scores(true=1, predicted=1)
    images = [CaseScore(str(k), bad if k < 3 else good, confidence=k / 10) for k in range(8)]
    scores = summarise(images, bootstrap=20)
    assert scores["confidence"]["auroc"] == 1.0 and scores["confidence"]["bad"] == 3
    assert images[3].row["confidence"] == 0.3
    assert "confidence ranks the 3 images" in score_table(scores)
    assert "confidence" not in summarise([*images, CaseScore("x", good)], bootstrap=20)
