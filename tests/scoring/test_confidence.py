"""Confidence is high where the network's answer and its objects say the same, and falls where they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import MaskTarget, SeparatedTarget, ThreeClassTarget
from pipeline.model.targets import Thresholds, decode, encode, own_distance
from pipeline.scoring.confidence import Confidence, ConfidenceSums, confidence

TARGET = SeparatedTarget()


def discs(*places: tuple[int, int, int], side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint32)
    for number, (top, left, radius) in enumerate(places, 1):
        labels[(y - top) ** 2 + (x - left) ** 2 <= radius**2] = number
    return labels


def test_a_perfect_answer_is_sure() -> None:
    """The target itself, decoded: 1 for the image and every object."""
    labels = discs((20, 14, 8), (44, 40, 10))
    found = confidence(labels, encode(labels, TARGET), TARGET)
    assert found.image == pytest.approx(1) and found.objects == pytest.approx([1, 1])


def test_half_hearted_objects_are_less_sure_than_others() -> None:
    """Foreground of .6 in the second object alone: it loses, the first does not, the image lies between."""
    labels = discs((20, 14, 8), (44, 40, 10))
    probabilities = encode(labels, TARGET)
    probabilities[0][labels == 2] = 0.6
    found = confidence(labels, probabilities, TARGET)
    assert found.objects == pytest.approx([1.0, 0.6], abs=1e-6) and 0.6 < found.image < 1


def test_merging_against_the_network_s_opinion_costs() -> None:
    """Two halves of a square as one label: the distances disagree; apart they agree."""
    labels = np.zeros((40, 40), np.uint32)
    labels[8:32, 8:20], labels[8:32, 20:32] = 1, 2
    probabilities = encode(labels, TARGET)
    merged = (labels > 0).astype(np.uint32)
    apart, together = confidence(labels, probabilities, TARGET), confidence(merged, probabilities, TARGET)
    assert together.image < apart.image - 0.02 and together.objects[0] < apart.objects.min() - 0.02


def test_what_was_seen_but_not_kept_costs() -> None:
    """Three of four discs were dropped after the network had seen them."""
    labels = discs((10, 10, 6), (10, 40, 6), (40, 10, 6), (40, 40, 6))
    found = confidence((labels == 1).astype(np.uint32), encode(labels, TARGET), TARGET)
    assert found.objects == pytest.approx([1]) and found.image < 0.5


def test_nothing_found_is_nothing_to_be_sure_of() -> None:
    """0 for the image, and no objects."""
    found = confidence(np.zeros((8, 8), np.uint32), np.zeros((3, 8, 8), np.float32), TARGET)
    assert found.image == 0 and found.objects.size == 0


@pytest.mark.parametrize("target", [MaskTarget(), ThreeClassTarget()])
def test_targets_without_a_distance_agree_by_their_foreground(target: MaskTarget | ThreeClassTarget) -> None:
    """One number an object, in [0, 1], the sharper answer the surer."""
    labels = discs((20, 14, 8), (44, 40, 10))
    sharp = np.stack([0.05 + 0.9 * (labels > 0)] * (1 if isinstance(target, MaskTarget) else 2)).astype(np.float32)
    soft = np.clip(sharp, 0.3, 0.7)
    found = decode(sharp[:1], MaskTarget(), Thresholds(minimum_area=1))
    first, second = confidence(found, sharp, target), confidence(found, soft, target)
    assert 0 <= second.image < first.image <= 1 and (second.objects < first.objects).all()


def around(labels: np.ndarray, probabilities: np.ndarray, columns: slice) -> Confidence:
    """The confidence of some columns, with nothing beside them."""
    return confidence(np.ascontiguousarray(labels[:, columns]), probabilities[:, :, columns], TARGET)


@given(st.integers(0, 1000), st.integers(26, 37))
@settings(max_examples=20)
def test_the_sums_of_parts_are_those_of_the_whole(seed: int, cut: int) -> None:
    """An image cut between its objects: the parts' sums add up to the whole's, to the last bit, in any order."""
    labels = discs((20, 14, 8), (44, 12, 10), (20, 46, 8))
    probabilities = np.random.default_rng(seed).random((3, 64, 64)).astype(np.float32)
    whole = confidence(labels, probabilities, TARGET)
    left = around(labels, probabilities, np.s_[:cut])
    right = around(np.where(labels == 3, 1, 0).astype(np.uint32), probabilities, np.s_[cut:])
    assert left.sums + right.sums == right.sums + left.sums == whole.sums
    assert (left.sums + right.sums).image == whole.image
    assert sorted([*left.objects, *right.objects]) == sorted(whole.objects)
    assert ConfidenceSums() + whole.sums == whole.sums and ConfidenceSums().image == 0


def test_sums_are_the_plain_formula() -> None:
    """Against float64 over all pixels, of numbers rounded to 255ths as the network's answer is."""
    labels = discs((20, 14, 8), (20, 30, 8), (44, 40, 10))
    probabilities = np.random.default_rng(0).random((3, 64, 64)).astype(np.float32)
    found = confidence(labels, probabilities, TARGET)
    first, seen, expected = (
        np.rint(v * np.float32(255)).astype(float) / 255
        for v in (probabilities[0], probabilities[2], own_distance(labels))
    )
    sure = first[labels > 0].mean()
    assert found.image == pytest.approx(sure * 2 * (seen * expected).sum() / (seen**2 + expected**2).sum(), rel=1e-12)
    for number in (1, 2, 3):
        a, b = seen[labels == number], expected[labels == number]
        own = first[labels == number].mean() * 2 * (a * b).sum() / (a**2 + b**2).sum()
        assert found.objects[number - 1] == pytest.approx(own, rel=1e-12)


def test_bytes_are_as_sure_as_the_probabilities_they_were_made_of() -> None:
    """A streaming prediction keeps uint8."""
    labels = discs((20, 14, 8), (44, 40, 10))
    planes = np.random.default_rng(0).integers(0, 256, (3, 64, 64)).astype(np.uint8)
    assert confidence(labels, planes, TARGET).sums == confidence(labels, np.float32(planes / 255), TARGET).sums


def test_a_volume_of_one_thin_object_is_as_sure_as_its_plane() -> None:
    """Foreground alone has no distance that another dimension could change: the numbers are those of the plane."""
    labels = discs((20, 14, 8), (44, 40, 10))
    probabilities = np.where(labels > 0, np.float32(0.7), np.float32(0.2))[None]
    flat, deep = (
        confidence(x, p, MaskTarget()) for x, p in ((labels, probabilities), (labels[None], probabilities[:, None]))
    )
    assert deep.sums == flat.sums and (deep.objects == flat.objects).all()
    empty = confidence(np.zeros((2, 3, 4), np.uint32), np.full((3, 2, 3, 4), np.float32(0.1)), TARGET)
    assert empty.image == 0 and not empty.objects.size


def test_a_perfect_answer_in_a_volume_is_sure() -> None:
    """The separated target of a ball, as it is or as bytes: 1."""
    z, y, x = np.mgrid[:9, :11, :13]
    labels = ((z - 4) ** 2 + (y - 5) ** 2 + (x - 6) ** 2 <= 12).astype(np.uint32)
    planes = encode(labels, TARGET)
    for answer in (planes, np.rint(planes * 255).astype(np.uint8)):
        assert confidence(labels, answer, TARGET).image == pytest.approx(1)
        assert (decode(answer, TARGET, Thresholds()) == labels).all()
