"""Systems on the same images: each has the scores of its evaluation, differences come from paired resamples."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.scoring.class_metrics import NAMES as CLASS_NAMES
from pipeline.scoring.class_metrics import ClassCase, summarise_classes
from pipeline.scoring.counts import Counted
from pipeline.scoring.metrics import match
from pipeline.scoring.paired import compare_scores, same_images
from pipeline.scoring.summary import NAMES, CaseScore, summarise


def image(number, seen, group=""):
    """1 + number % 4 objects of 4 px, of which the first `seen` are found."""
    truth = np.zeros((1, 40), int)
    for index in range(1 + number % 4):
        truth[0, index * 6 : index * 6 + 4] = index + 1
    return CaseScore(f"case{number}", match(truth, np.where(truth <= seen, truth, 0)), group=group)


def system(seen, groups=0, count=12):
    return Counted("objects", tuple(image(n, seen, f"g{n % groups}" if groups else "") for n in range(count)))


def matrix(number, wrong):
    return ClassCase(f"case{number}", np.array([[10 + number, wrong], [number % 3, 9 - number % 3 + wrong]]))


@pytest.mark.parametrize("groups", [0, 5])
def test_each_system_has_the_scores_of_its_own_evaluation(groups):
    """Values and intervals, by images and by groups, are `summarise`'s."""
    found = compare_scores({"a": system(4, groups), "b": system(1, groups)}, bootstrap=200)
    for name, seen in (("a", 4), ("b", 1)):
        own = summarise(system(seen, groups).images, bootstrap=200)
        for key in NAMES:
            assert found[name][key].own.value == pytest.approx(own[key], abs=1e-6)
            assert found[name][key].own.low == pytest.approx(own[f"{key}_low"], abs=1e-6)
            assert found[name][key].own.high == pytest.approx(own[f"{key}_high"], abs=1e-6)


def test_classes_have_the_scores_of_their_evaluation():
    """The same for class maps."""
    images = tuple(matrix(n, n % 2) for n in range(8))
    system = Counted("classes", images, ("none", "box"))
    found = compare_scores({"a": system, "b": system}, bootstrap=100)
    own = summarise_classes(images, ("none", "box"), bootstrap=100)
    assert set(found["a"]) == set(CLASS_NAMES)
    for key in CLASS_NAMES:
        score = found["b"][key].own
        assert (score.value, score.low, score.high) == (own[key], own[f"{key}_low"], own[f"{key}_high"])


def test_differences_are_paired():
    """Equal systems differ by exactly 0 in every resample, although each one's own interval is wide."""
    found = compare_scores({"a": system(1), "b": system(1)}, bootstrap=200)
    score = found["b"]["map"]
    assert score.own.high - score.own.low > 0.1
    assert (score.difference.value, score.difference.low, score.difference.high) == (0, 0, 0)
    assert found["a"]["map"].difference is None


def test_a_difference_by_brute_force():
    """The interval of a mean's difference is that of the mean of the images' differences, drawn alike."""
    a, b = system(4), system(1)
    difference = compare_scores({"a": a, "b": b}, bootstrap=500, seed=3)["b"]["map"].difference
    gaps = [y.scores.dsb_score - x.scores.dsb_score for x, y in zip(a.images, b.images, strict=True)]
    units = np.unique([f"image {i}" for i in range(12)], return_inverse=True)[1]
    often = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=500)[:, units]
    low, high = np.percentile(often @ np.array(gaps) / 12, (2.5, 97.5))
    assert difference.value == pytest.approx(np.mean(gaps), abs=1e-6)
    assert (difference.low, difference.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_one_group_alone_has_no_interval():
    """Nothing is left to draw."""
    score = compare_scores({"a": system(4, 1), "b": system(1, 1)})["b"]["map"]
    assert score.own.low is None and score.difference.low is None
    assert score.difference.value == pytest.approx(score.own.value - 1, abs=1e-6)


def test_images_stand_in_the_order_of_the_first():
    """Whatever order the others have."""
    turned = replace(system(1), images=system(1).images[::-1])
    aligned, left_out = same_images({"a": system(4), "b": turned})
    assert [one.case for one in aligned["b"].images] == [f"case{n}" for n in range(12)]
    assert left_out == 0


def failing():
    images = system(1).images
    other_truth = replace(image(2, 1), case="case1")
    return Counted(
        "objects", (replace(images[0], error="broken"), other_truth, *images[2:], replace(images[3], case="x"))
    )


def test_other_images_are_refused_by_name():
    """One in error, one with another truth, one more than the first has: each is named, and what to do."""
    with pytest.raises(InputError) as caught:
        same_images({"a": system(4), "b": failing()})
    for told in ("3 of 13 images", "case0 (not scored in b)", "case1 (its truth differs)", "x (not scored in a)"):
        assert told in str(caught.value)
    assert "10 others with --common" in caught.value.hint


def test_common_images_can_be_compared():
    """Those that all scored against the same truth; how many are left out is told."""
    aligned, left_out = same_images({"a": system(4), "b": failing()}, common=True)
    assert left_out == 3
    assert [one.case for one in aligned["b"].images] == [f"case{n}" for n in range(2, 12)]


def test_many_images_are_not_all_named():
    """Five, and how many more; long names are cut in the middle."""
    far = Counted("objects", tuple(replace(one, case=one.case * 20) for one in system(1).images))
    with pytest.raises(InputError, match=r"24 of 24 .* and 19 more.*evaluate all on one split$"):
        same_images({"a": system(4), "b": far})
    with pytest.raises(InputError, match="no image that all runs scored"):
        same_images({"a": system(4), "b": far}, common=True)


def test_systems_of_other_kinds_or_groups_are_refused():
    """Objects with classes, other classes, and images that are grouped otherwise."""
    boxes = Counted("classes", (matrix(0, 1),), ("none", "box"))
    with pytest.raises(InputError, match="wanted objects"):
        same_images({"a": system(4), "b": boxes})
    with pytest.raises(InputError, match="scores of none, cat"):
        same_images({"a": boxes, "b": replace(boxes, names=("none", "cat"))})
    with pytest.raises(InputError, match="other groups than a has, as of case1"):
        same_images({"a": system(4), "b": Counted("objects", (image(0, 1), *system(1, 5).images[1:]))})
