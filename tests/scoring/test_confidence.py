"""Confidence is high where the network's answer and its objects say the same, and falls where they do not."""

import numpy as np
import pytest

from pipeline.config import MaskTarget, SeparatedTarget, ThreeClassTarget
from pipeline.model.targets import Thresholds, decode, encode
from pipeline.scoring.confidence import confidence

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
