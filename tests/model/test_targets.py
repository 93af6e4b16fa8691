"""Encode and decode are each other's inverse on separated objects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.config import MaskTarget, SeparatedTarget, ThreeClassTarget
from pipeline.model.targets import Thresholds, activate, decode, encode, own_distance, touching_border
from pipeline.scoring.metrics import match

PLAIN = Thresholds(minimum_area=1, minimum_seed=1)


def discs(*places: tuple[int, int, int], side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint32)
    for number, (top, left, radius) in enumerate(places, 1):
        labels[(y - top) ** 2 + (x - left) ** 2 <= radius**2] = number
    return labels


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to numbering."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(a)) == len(np.unique(b)) and bool(((a == 0) == (b == 0)).all())


@given(st.integers(3, 9), st.integers(3, 9), st.integers(1, 12))
@settings(max_examples=40)
def test_decode_undoes_encode(first: int, second: int, gap: int) -> None:
    """Two discs with a gap of at least one pixel come back as the same two discs, to the pixel."""
    labels = discs((20, 14, first), (20, 15 + first + second + gap, second))
    assert len(np.unique(labels)) == 3
    assert same_partition(labels, decode(encode(labels, SeparatedTarget()), SeparatedTarget(), PLAIN))


@given(st.integers(4, 12), st.integers(4, 12))
@settings(max_examples=40)
def test_touching_objects_come_back_nearly_to_the_pixel(first: int, second: int) -> None:
    """Two discs side by side come back as two, each with an IoU of at least .9: the watershed draws the common edge."""
    labels = discs((20, 14, first), (20, 15 + first + second, second))
    scores = match(labels, decode(encode(labels, SeparatedTarget()), SeparatedTarget(), PLAIN))
    assert scores.predicted == 2 and scores.ap(0.9) == 1


def test_mask_target_merges_what_touches() -> None:
    """One foreground channel cannot tell touching objects apart: that is why `separated` exists."""
    labels = discs((20, 14, 8), (20, 30, 8))
    assert decode(encode(labels, MaskTarget()), MaskTarget(), PLAIN).max() == 1
    assert decode(encode(labels, SeparatedTarget()), SeparatedTarget(), PLAIN).max() == 2


def test_border_lies_between_neighbours_only() -> None:
    """A lone object has no border channel; two that touch have one, which brute force over a 5 px disc confirms."""
    assert touching_border(discs((20, 20, 8))).sum() == 0
    labels = discs((20, 14, 8), (20, 30, 8))
    footprint = np.array([[0, 0, 1, 0, 0], *[[1] * 5] * 3, [0, 0, 1, 0, 0]], bool)
    brute = np.zeros(labels.shape, bool)
    for y in range(2, 62):
        for x in range(2, 62):
            near = labels[y - 2 : y + 3, x - 2 : x + 3][footprint]
            brute[y, x] = len(np.unique(near[near > 0])) > 1
    assert brute.any()
    np.testing.assert_array_equal(touching_border(labels) > 0, brute)


def test_distance_is_the_exact_one_up_to_opencv_s_error() -> None:
    """Against scipy's Euclidean transform of each object alone: within a tenth of a pixel's share."""
    labels = discs((20, 14, 8), (44, 40, 12))
    found = own_distance(labels)
    for number in (1, 2):
        exact = ndimage.distance_transform_edt(labels == number)
        inside = labels == number
        np.testing.assert_allclose(found[inside], (exact / exact.max())[inside], atol=0.12)
        assert found[inside].max() == 1
    assert (found[labels == 0] == 0).all()


def test_empty_image_has_no_objects() -> None:
    """Zero objects is an answer, not an error."""
    empty = np.zeros((32, 48), np.uint32)
    planes = encode(empty, SeparatedTarget())
    assert planes.shape == (3, 32, 48) and planes.dtype == np.float32 and not planes.any()
    assert not decode(planes, SeparatedTarget(), PLAIN).any()


def test_small_objects_are_dropped_and_numbers_are_dense() -> None:
    """Numbers run 1..n in raster order, after what is smaller than the minimum went."""
    labels = discs((10, 10, 1), (10, 40, 6), (40, 10, 6))
    found = decode(encode(labels, SeparatedTarget()), SeparatedTarget(), Thresholds(minimum_area=20))
    assert np.unique(found).tolist() == [0, 1, 2]
    assert found[10, 40] == 1 and found[40, 10] == 2 and found[10, 10] == 0


def test_hole_of_a_nucleolus_is_filled() -> None:
    """An enclosed gap of up to 64 px belongs to the object; a larger one stays."""
    for hole, filled in ((3, True), (6, False)):
        planes = np.repeat(encode(discs((32, 32, 20)), MaskTarget()), 3, axis=0)
        planes[1] = 0
        planes[0][discs((32, 32, hole)) > 0] = 0
        assert (decode(planes, SeparatedTarget(), PLAIN)[32, 32] > 0) == filled


@pytest.mark.parametrize("target", [MaskTarget(), SeparatedTarget()])
def test_labels_with_gaps_and_large_numbers_encode_alike(target: MaskTarget | SeparatedTarget) -> None:
    """Only the partition matters, not the numbers."""
    labels = discs((20, 14, 8), (20, 30, 8))
    renamed = np.array([0, 4_000_000_000, 17], np.uint32)[labels]
    np.testing.assert_array_equal(encode(labels, target), encode(renamed, target))


@given(st.integers(0, 2**31), st.integers(1, 2000))
@settings(max_examples=25)
def test_ids_do_not_matter(start: int, step: int) -> None:
    """The target of objects with far-apart ids (up to 2^32) is that of ids 1, 2, 3."""
    labels = discs((20, 14, 8), (20, 30, 8), (50, 50, 6))
    numbers = np.array([0, start + step, start + 2 * step, start + 3 * step], np.uint32)
    np.testing.assert_array_equal(encode(numbers[labels], SeparatedTarget()), encode(labels, SeparatedTarget()))


def test_three_classes_part_the_pixels() -> None:
    """Each pixel is body, border or background; as probabilities, foreground and border, they decode to the objects."""
    labels = discs((20, 14, 8), (20, 30, 8), (50, 50, 6))
    planes = encode(labels, ThreeClassTarget())
    np.testing.assert_array_equal(planes.sum(axis=0), 1)
    probabilities = activate(torch.from_numpy(planes)[None] * 40, ThreeClassTarget())[0].numpy()
    np.testing.assert_allclose(probabilities, [planes[0] + planes[1], planes[1]], atol=1e-6)
    assert decode(probabilities, ThreeClassTarget(), PLAIN).max() == 3


def test_how_labels_lie_in_memory_does_not_matter() -> None:
    """Distances of labels that lie column by column are those of the same ones row by row."""
    labels = discs((20, 14, 8), (20, 30, 8))
    assert np.array_equal(own_distance(np.asfortranarray(labels)), own_distance(labels))
