"""Gaps and fibres are drawn between the nuclei of bright colour images, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.stats import norm

from pipeline.training.gaps import BRIGHT, MARGIN, WAVES, Gaps, RandGapsd


def tissue(side: int = 96, channels: int = 3, value: float = 0.6) -> dict[Any, Any]:
    label = np.zeros((side, side), np.uint16)
    label[20:35, 30:50], label[60:70, 10:25] = 1, 2
    return {"image": np.full((side, side, channels), value, np.float32), "label": label}


def drawn(seed: int, sample: dict[Any, Any], gaps: float = 1.0) -> np.ndarray:
    change = RandGapsd(gaps)
    change.set_random_state(seed)
    return np.asarray(change(sample)["image"])


def test_nuclei_and_what_is_next_to_them_stay_as_they_are() -> None:
    """By scipy's dilation; elsewhere something is drawn, in nearly every crop, and colours stay those of an image."""
    sample = tissue()
    near = binary_dilation(sample["label"] > 0, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1)))
    changed = 0
    for seed in range(40):
        image = drawn(seed, sample)
        assert image.dtype == np.float32 and (image[near] == sample["image"][near]).all()
        assert image.min() > 0.25 and image.max() < 1.1
        changed += bool((image != sample["image"]).any())
    assert changed >= 38 and (sample["image"] == np.float32(0.6)).all()


@pytest.mark.parametrize(("channels", "value"), [(1, 0.6), (3, BRIGHT - 0.01)])
def test_grey_and_dark_images_are_left_alone(channels: int, value: float) -> None:
    """Fluorescence, also in colour, has a dark background and no gaps."""
    sample = tissue(channels=channels, value=value)
    assert all(np.array_equal(drawn(seed, sample), sample["image"]) for seed in range(10))


def test_as_often_as_it_says_and_the_same_for_a_seed() -> None:
    """Never, always, and the share in between."""
    sample = tissue()
    assert np.array_equal(drawn(3, sample), drawn(3, sample)) and not np.array_equal(drawn(3, sample), drawn(4, sample))
    often = sum(not np.array_equal(drawn(seed, sample, 0.3), sample["image"]) for seed in range(300))
    assert 60 < often < 115
    assert all(np.array_equal(drawn(seed, sample, 0.0), sample["image"]) for seed in range(20))


def test_the_field_is_the_sum_of_its_waves_and_its_level_a_quantile() -> None:
    """Against the waves added one by one; over many draws as much is covered as of a normal distribution."""
    rng = np.random.default_rng(0)
    waves = np.column_stack([rng.normal(0, 0.4, (WAVES, 2)), rng.uniform(0, 2 * np.pi, WAVES)])
    y, x = np.mgrid[:20, :30]
    field = sum(np.cos(a * y + b * x + phase) for a, b, phase in waves) * np.sqrt(2 / WAVES)
    made = Gaps(waves, 0.5, 4.0, np.ones(3, np.float32), 0.8).share((20, 30))
    np.testing.assert_allclose(made, 0.8 * np.clip((field - 0.5) * 4, 0, 1), atol=1e-5)
    covered = []
    for _ in range(200):
        waves = np.column_stack([rng.normal(0, 0.4, (WAVES, 2)), rng.uniform(0, 2 * np.pi, WAVES)])
        covered.append((Gaps(waves, 1.0, 1e6, np.ones(3, np.float32), 1.0).share((64, 64)) > 0.5).mean())
    assert np.mean(covered) == pytest.approx(norm.sf(1.0), abs=0.02)
