"""The weight map of the 2015 paper."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import CONFIG, example
from scipy.ndimage import distance_transform_edt

from pipeline.config import BorderWeighted, ClassesTarget, CropSampling, FixedSize, MaskTarget, PrepareConfig
from pipeline.errors import MaskError
from pipeline.training.border_weights import border_weights
from pipeline.training.dataset import build_dataset, grid_target, grid_weight
from pipeline.training.encode import EncodeTargetd
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


def test_samples_carry_the_weights_that_the_loss_wants() -> None:
    """Crops and whole images have weights on the target's grid with this loss, and none with another."""
    weighted = CONFIG.model_copy(update={"loss": BorderWeighted(), "sampling": CropSampling(size=32, per_epoch=2)})
    crop = build_dataset([example(1)], weighted)[0]
    assert crop["weight"].shape == (1, 32, 32) and crop["weight"].max() > 1
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
