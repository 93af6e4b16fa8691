"""The weight map of the 2015 paper, and the one by the objects' sizes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import CONFIG, example
from scipy.ndimage import distance_transform_edt

from pipeline.config import (
    BorderWeighted,
    ClassesTarget,
    CropSampling,
    FixedSize,
    MaskTarget,
    PrepareConfig,
    SizeWeighted,
)
from pipeline.errors import MaskError
from pipeline.training.dataset import build_dataset, grid_target, grid_weight
from pipeline.training.encode import EncodeTargetd
from pipeline.training.pixel_weights import border_weights, size_weights
from pipeline.training.volumes import understood


def brute(labels: np.ndarray, config: BorderWeighted) -> np.ndarray:
    """Equation 2 with w_c = 1: all distances, sorted."""
    numbers = np.unique(labels[labels > 0])
    if len(numbers) < 2:
        return np.ones(labels.shape)
    first, second = np.sort([distance_transform_edt(labels != n) for n in numbers], axis=0)[:2]
    return 1 + config.w0 * np.exp(-((first + second) ** 2) / (2 * config.sigma**2)) * (labels == 0)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 6), st.floats(1, 6))
def test_it_is_the_papers_equation(seed: int, objects: int, sigma: float) -> None:
    """With w_c = 1, against all distances of all objects, sorted: to a thousandth of w0."""
    rng, labels = np.random.default_rng(seed), np.zeros((40, 50), np.uint32)
    for number in range(1, objects + 1):
        top, left = rng.integers(0, 35, 2)
        labels[top : top + 6, left : left + 7] = number
    config = BorderWeighted(w0=10, sigma=sigma)
    np.testing.assert_allclose(border_weights(labels, config), brute(labels, config), atol=1e-2)


def test_a_gap_of_one_pixel_weighs_most() -> None:
    """d1 = d2 = 1 with sigma 5: 1 + 10 exp(-4 / 50) = 10.23; inside objects and far away 1."""
    labels = np.zeros((9, 61), np.uint32)
    labels[:, :3], labels[:, 4:7] = 1, 2
    weights = border_weights(labels, BorderWeighted())
    assert weights[4, 3] == pytest.approx(10.23, abs=0.01)
    assert weights[4, 1] == 1 and weights[4, 60] == 1


def brute_sizes(labels: np.ndarray, config: SizeWeighted) -> np.ndarray:
    """Object by object: inside, and on background where the disc of a pixel's neighbours meets it."""
    weights = np.ones(labels.shape)
    edge = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    near = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if abs(y) < 2 or x == 0]  # OpenCV's ellipse of 5 x 5
    for number in set(np.unique(labels).tolist()) - {0} - edge:
        own = labels == number
        weight = np.clip(np.sqrt(config.area / own.sum()), 1, config.most)
        weights[own] = weight
        for y, x in np.argwhere(own):
            for dy, dx in near:
                if labels[y + dy, x + dx] == 0:
                    weights[y + dy, x + dx] = max(weights[y + dy, x + dx], weight)
    return weights


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 8), st.floats(20, 900), st.floats(1, 5))
def test_small_objects_and_what_is_near_them_count_more(seed: int, objects: int, area: float, most: float) -> None:
    """Against a loop over objects and pixels; those that the edge cuts count 1. Zero-padding keeps the loop inside."""
    rng, labels = np.random.default_rng(seed), np.zeros((40, 50), np.uint32)
    for number in range(1, objects + 1):
        (top, left), (tall, wide) = rng.integers(2, 30, 2), rng.integers(1, 12, 2)
        labels[top : min(38, top + tall), left : min(48, left + wide)] = 3 * number
    labels[:, 0] = 99 * (seed % 2)
    config = SizeWeighted(area=area, most=most)
    np.testing.assert_allclose(size_weights(labels, config), brute_sizes(labels, config), rtol=1e-6)


def test_four_pixels_among_hundreds() -> None:
    """area 64: an object of 4 px weighs sqrt(64 / 4) = 4, and `most` says 3; one of 100 px weighs 1."""
    labels = np.zeros((30, 30), np.uint32)
    labels[4:6, 4:6], labels[12:22, 12:22] = 1, 2
    assert size_weights(labels, SizeWeighted(area=64, most=9))[4, 4] == 4
    weights = size_weights(labels, SizeWeighted(area=64, most=3))
    assert (weights[4, 4], weights[4, 7], weights[4, 8], weights[15, 15]) == (3, 3, 1, 1)


@pytest.mark.parametrize("loss", [BorderWeighted(), SizeWeighted(area=9000.0)])
def test_samples_carry_the_weights_that_the_loss_wants(loss: BorderWeighted | SizeWeighted) -> None:
    """Crops and whole images have weights on the target's grid with this loss, and none with another."""
    weighted = CONFIG.model_copy(update={"loss": loss, "sampling": CropSampling(size=64, per_epoch=2)})
    crop = build_dataset([example(1)], weighted)[0]
    assert crop["weight"].shape == (1, 64, 64) and crop["weight"].max() > 1
    assert "weight" not in build_dataset([example(1)], CONFIG)[0]
    fixed = weighted.model_copy(
        update={"prepare": PrepareConfig(size=FixedSize(height=40, width=48)), "target": MaskTarget()}
    )
    weights = grid_weight(example(1, fixed), fixed)
    assert weights is not None and weights.shape[1:] == example(1, fixed).preparation.apply(example(1).pixels).shape[1:]
    assert grid_weight(example(1), CONFIG) is None


def test_two_classes_of_objects_keep_the_objects_for_the_weights() -> None:
    """Touching objects that are one class: the weights see two of them, the target has class numbers alone."""
    target = ClassesTarget(names=("background", "cell"), trimap=0)
    changes = {"loss": BorderWeighted(), "target": target, "sampling": CropSampling(size=32, per_epoch=2)}
    config = CONFIG.model_copy(update=changes)
    labels = np.zeros((32, 32), np.uint32)
    labels[4:28, 2:15], labels[4:28, 16:30] = 7, 300
    case = replace(example(1).case, mask_kind="labels")
    made = replace(example(1), labels=understood(case, labels, config), pixels=example(1).pixels[:, :32, :32])
    sample = EncodeTargetd(target, config.loss)({"label": made.labels})
    assert sample["target"].dtype == np.uint8 and sample["target"].tolist() == (labels > 0).tolist()
    np.testing.assert_allclose(sample["weight"][0], brute(labels, BorderWeighted()), atol=1e-2)
    assert grid_target(made, config).max() == 1 and grid_weight(made, config).max() > 10
    with pytest.raises(MaskError, match="label images of classes, wanted objects"):
        understood(replace(case, mask_kind="classes"), labels, config)
