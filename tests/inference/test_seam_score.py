"""Whether borders left a trace in the objects."""

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.seam_score import Crossings, Sample, choose_samples
from pipeline.types import Window


def boxes(top, left, size):
    return pd.DataFrame(
        {"bbox_top_px": top, "bbox_left_px": left, "bbox_bottom_px": top + size, "bbox_right_px": left + size}
    )


def test_objects_that_lie_anywhere_cross_as_often_as_expected():
    """Ten thousand boxes drawn at random, whose ratio is 1 within its spread (about 0.02)."""
    generator = np.random.default_rng(0)
    top, left = generator.integers(0, 1000 - 20, (2, 10_000))
    seam = Crossings(100, (1000, 1000))
    seam.add(boxes(top[:5000], left[:5000], 20))
    seam.add(boxes(top[5000:], left[5000:], 20))
    assert seam.ratio == pytest.approx(1.0, abs=0.08)


def test_objects_that_were_cut_at_every_line_never_cross():
    """Boxes that end at the lines give 0."""
    generator = np.random.default_rng(0)
    top, left = generator.integers(0, 980, (2, 3000))
    whole = boxes(top, left, 20)
    for low, high in (("bbox_top_px", "bbox_bottom_px"), ("bbox_left_px", "bbox_right_px")):
        line = (whole[low] // 100 + 1) * 100
        whole[high] = np.minimum(whole[high], line)
    seam = Crossings(100, (1000, 1000))
    seam.add(whole)
    assert seam.ratio == 0.0


def test_few_objects_say_nothing():
    """Below 30 expected crossings there is no ratio."""
    seam = Crossings(100, (1000, 1000))
    seam.add(boxes(np.array([95, 500]), np.array([5, 500]), 20))
    assert np.isnan(seam.ratio)
    assert Crossings(2048, (1000, 1000)).observed == 0


def test_a_sample_gathers_cores_and_compares_them():
    """What came in four parts is the window; an object cut in two is noticed."""
    labels = np.zeros((40, 40), np.uint32)
    labels[10:30, 10:30] = 7
    sample = Sample(Window((4, 4), (36, 36)))
    for y in (0, 20):
        for x in (0, 20):
            sample.add(Window((y, x), (y + 20, x + 20)), labels[y : y + 20, x : x + 20])
    assert np.array_equal(sample.labels, labels[4:36, 4:36])
    assert sample.agreement(labels[4:36, 4:36]) == 1.0
    sample.labels[10:30, 16:] *= 2
    assert sample.agreement(labels[4:36, 4:36]) == 0.0


def test_samples_lie_around_corners_of_blocks():
    """Three of many, spread; none where there is no corner."""
    chosen = [s.window for s in choose_samples((9000, 9000), 2048, most=3)]
    assert [tuple((a + b) // 2 % 2048 for a, b in zip(w.start, w.stop, strict=True)) for w in chosen] == [(0, 0)] * 3
    assert choose_samples((2000, 9000), 2048) == []
