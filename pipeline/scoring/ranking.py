"""How well a confidence ranks bad predictions: the area under the ROC curve, with its interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

BAD = 0.5  # AP@.5 below which a prediction is bad
LEAST = 3  # bad and good images, of each, that a number needs


def auroc(confidences: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """Probability that a bad image is less sure than a good one, ties half; NaN where either is missing.

    >>> auroc(np.array([0.2, 0.4, 0.4, 0.9]), np.array([True, True, False, False]))
    0.875
    """
    good = int(np.count_nonzero(~bad))
    if good in (0, bad.size):
        return float("nan")
    ranks = rankdata(confidences)[~bad].sum() - good * (good + 1) / 2
    return float(ranks / (good * (bad.size - good)))


def rank_bad(
    confidences: Sequence[float], ap50: Sequence[float], units: NDArray[np.int64], bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """`auroc` of images with AP@.5 below .5, `auroc_low` and `_high` over resampled `units`, and how many are `bad`.

    None in place of the numbers where there are fewer than 3 bad or 3 good images.
    """
    values, bad = np.asarray(confidences, np.float64), np.asarray(ap50, np.float64) < BAD
    found: dict[str, Any] = {"auroc": None, "auroc_low": None, "auroc_high": None, "bad": int(bad.sum())}
    if min(bad.sum(), (~bad).sum()) < LEAST:
        return found
    generator, drawn = np.random.default_rng(seed), []
    members = [np.flatnonzero(units == unit) for unit in range(int(units.max()) + 1)]
    for _ in range(bootstrap):
        chosen = np.concatenate([members[unit] for unit in generator.integers(len(members), size=len(members))])
        drawn.append(auroc(values[chosen], bad[chosen]))
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if drawn else (np.nan, np.nan)
    return found | {"auroc": auroc(values, bad), "auroc_low": float(low), "auroc_high": float(high)}


def doubtful_below(confidences: Sequence[float], ap50: Sequence[float]) -> float:
    """The confidence under which predictions are to be looked at.

    It parts bad from good with the largest sum of sensitivity and specificity (Youden 1950); where there are too few
    bad images to tell, it is the lowest twentieth's.
    """
    values, bad = np.asarray(confidences, np.float64), np.asarray(ap50, np.float64) < BAD
    if min(bad.sum(), (~bad).sum()) < LEAST:
        return float(np.quantile(values, 0.05))
    cuts = np.unique(values)
    gains = [(values[bad] <= cut).mean() - (values[~bad] <= cut).mean() for cut in cuts]
    best = int(np.argmax(gains))
    return float(cuts[best] if best + 1 == len(cuts) else (cuts[best] + cuts[best + 1]) / 2)
