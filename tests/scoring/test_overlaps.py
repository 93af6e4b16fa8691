"""Overlap tables that are added up over windows, against those of whole images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import MaskError
from pipeline.scoring import overlaps
from pipeline.scoring.metrics import match, match_windows
from pipeline.scoring.overlaps import Overlaps, OverlapSums, count_overlaps

IDS = st.sampled_from([0, 0, 1, 2, 3, 7, 70_000, 2**32 - 1])  # small, with gaps, beyond a table of all ids
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(*(hnp.arrays(np.uint32, shape, elements=IDS),) * 2)
)


def windows(images, rows, columns):
    height, width = images[0].shape
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield tuple(image[top : top + rows, left : left + columns] for image in images)


def columns_of(table: Overlaps):
    return [getattr(table, name).tolist() for name in Overlaps.__dataclass_fields__]


@settings(max_examples=300)
@given(PAIRS, st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 3, 1 << 18]))
def test_windows_add_up_to_the_whole(pair, rows, columns, waiting):
    """Any windows, added up at once or a few at a time: the table of the whole image, and every score bit by bit."""
    sums, before = OverlapSums(), overlaps._WAITING
    overlaps._WAITING = waiting
    try:
        for part in windows(pair, rows, columns):
            sums.add(count_overlaps(*part))
        assert columns_of(sums.total()) == columns_of(count_overlaps(*pair))
        scores, ids = match_windows(windows(pair, rows, columns))
    finally:
        overlaps._WAITING = before
    assert scores == match(*pair)
    assert ids.tolist() == np.unique(pair[0][pair[0] > 0]).tolist()


@given(PAIRS)
def test_a_table_is_what_counting_pixel_by_pixel_gives(pair):
    """Every cell, id and area, by brute force."""
    truth, predicted = pair
    table = count_overlaps(truth, predicted)
    assert dict(zip(table.true_ids.tolist(), table.true_areas.tolist(), strict=True)) == {
        int(t): int((truth == t).sum()) for t in np.unique(truth[truth > 0])
    }
    cells = {
        (int(table.true_ids[r]), int(table.predicted_ids[c])): int(n)
        for r, c, n in zip(table.row, table.column, table.pixels, strict=True)
    }
    assert cells == {
        (int(t), int(p)): n
        for t in np.unique(truth[truth > 0])
        for p in np.unique(predicted[predicted > 0])
        if (n := int(((truth == t) & (predicted == p)).sum()))
    }


def test_no_window_at_all_is_an_empty_image():
    """Nothing was there and nothing was claimed."""
    scores, ids = match_windows(())
    assert scores.empty and ids.size == 0


def test_windows_that_do_not_fit_are_refused():
    """Each window is held to what whole images are."""
    with pytest.raises(MaskError, match="shape"):
        match_windows([(np.zeros((2, 2), int), np.zeros((2, 3), int))])
    with pytest.raises(MaskError, match="label -1"):
        match_windows([(np.full((2, 2), -1), np.zeros((2, 2), int))])
    with pytest.raises(MaskError, match="float"):
        match_windows([(np.zeros((2, 2)), np.zeros((2, 2), int))])
