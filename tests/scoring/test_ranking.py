"""The area under the ROC curve, against counting pairs, and the cut that parts bad from good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.ranking import auroc, doubtful_below, rank_bad


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30))
def test_auroc_counts_pairs(drawn: list[tuple[int, bool]]) -> None:
    """Over every bad and good pair: 1 where the bad one is less sure, a half for a tie."""
    values, bad = np.array([d[0] for d in drawn], float), np.array([d[1] for d in drawn])
    pairs = [(v > w) + (v == w) / 2 for v, b in drawn if not b for w, c in drawn if c]
    found = auroc(values, bad)
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


def test_images_are_ranked_with_an_interval() -> None:
    """Perfect ranking is 1 whatever is drawn; too few bad images have no number."""
    confidences, ap50 = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0.1, 0.2, 0.4, 0.6, 0.7, 0.9]
    found = rank_bad(confidences, ap50, np.arange(6), 50)
    assert found == {"auroc": 1.0, "auroc_low": 1.0, "auroc_high": 1.0, "bad": 3}
    assert rank_bad(confidences, [0.9] * 6, np.arange(6), 50)["auroc"] is None
    mixed = rank_bad([0.1, 0.8, 0.3, 0.7, 0.2, 0.9], ap50, np.arange(6), 200)
    assert mixed["auroc_low"] < mixed["auroc"] < mixed["auroc_high"]


def test_the_cut_parts_bad_from_good() -> None:
    """Between the surest bad and the least sure good one; the lowest twentieth where none is bad."""
    assert doubtful_below([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0, 0, 0, 1, 1, 1]) == pytest.approx(0.5)
    assert doubtful_below(list(np.linspace(0, 1, 21)), [1.0] * 21) == pytest.approx(0.05)
