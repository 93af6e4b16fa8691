"""Resampling by weights of absolute positions."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.resampling import axis_weights, resample


@pytest.mark.parametrize(("given_side", "wanted"), [(40, 17), (17, 40), (64, 32), (30, 31), (90, 23)])
def test_the_whole_is_what_opencv_gives(given_side, wanted):
    """Area averages when shrinking, linear when growing: OpenCV is the oracle."""
    plane = np.random.default_rng(0).random((given_side, given_side)).astype(np.float32)
    weights = axis_weights(given_side, wanted, 0, wanted)[0]
    method = cv2.INTER_AREA if wanted < given_side else cv2.INTER_LINEAR
    expected = cv2.resize(plane, (wanted, wanted), interpolation=method)
    np.testing.assert_allclose(resample(plane[None], weights, weights)[0], expected, atol=2e-5)


@settings(max_examples=60)
@given(given_side=st.integers(1, 60), wanted=st.integers(1, 60), cut=st.data())
def test_a_part_is_the_part_of_the_whole(given_side, wanted, cut):
    """Rows a to b, from just the samples they say they need, are bit by bit those of the whole."""
    start = cut.draw(st.integers(0, wanted - 1))
    stop = cut.draw(st.integers(start + 1, wanted))
    values = np.random.default_rng(given_side).random((given_side, 1)).astype(np.float32)
    whole = axis_weights(given_side, wanted, 0, wanted)[0] @ values
    weights, first, last = axis_weights(given_side, wanted, start, stop)
    assert np.array_equal(weights @ values[first:last], whole[start:stop])


def test_the_answer_lies_in_memory_as_others_do():
    """Row by row, whatever the multiplication leaves: what is made of it is written through flat views."""
    weights = axis_weights(12, 30, 0, 30)[0]
    assert resample(np.zeros((3, 12, 12), np.uint8), weights, weights).flags.c_contiguous
