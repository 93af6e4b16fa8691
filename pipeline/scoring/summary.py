"""Scores of many images in one mapping of stable names: overall, by modality, by group, with bootstrap intervals.

Detection scores without a suffix (`ap50`, `ap75`, `precision50`, `recall50`, `f1_50`, `pq`) and `*_pooled` are ratios
of counts pooled over the images; `*_mean`, `map` and `aji` are means over images (a single object predicted over a
whole image would swamp a pooled AJI). `count_error` is the mean of |predicted - true| objects an image, `count_bias`
that of predicted - true. `objects_merged`, `_split`, `_missed`, `_inexact` and `_extra` say what went wrong (`Scores`).

Intervals (`*_low`, `*_high`) are the middle 95 % of resamples of whole images, or of whole groups where groups are
given: images of one slide or patient are no independent draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.scoring.metrics import STEPS, THRESHOLDS, Scores
from pipeline.scoring.ranking import rank_bad
from pipeline.types import FORMAT_VERSION, Modality

Floats = NDArray[np.float64]
_AT50, _AT75 = STEPS.index(10), STEPS.index(15)
_COVER = (2.5, 97.5)
ERRORS = ("merged", "split", "missed", "inexact", "extra")  # what went wrong: the last counts of `Scores`


@dataclass(frozen=True)
class CaseScore:
    """One scored image, or one that could not be scored (`error` says why; its `scores` are left out of everything)."""

    case: str
    scores: Scores
    modality: Modality = "unknown"
    group: str = ""
    missing: bool = False  # there was no prediction: scored as an empty one
    error: str = ""
    hint: str = ""
    confidence: float | None = None  # of the model in its own prediction, where a model made it

    @property
    def row(self) -> dict[str, Any]:
        """What scores.csv says of it; an image in error has no numbers."""
        status = "failed" if self.error else "missing" if self.missing else "scored"
        s = self.scores
        sure = "" if self.confidence is None else _round(self.confidence)
        head: dict[str, Any] = {"case": self.case, "modality": self.modality, "group": self.group, "status": status}
        tail = {"confidence": sure, "empty": s.empty, "error": self.error, "hint": self.hint}
        if self.error:
            return head | dict.fromkeys(ROW_NUMBERS, "") | {**tail, "empty": ""}
        return head | {name: _round(value(s)) for name, value in ROW_NUMBERS.items()} | tail


ROW_NUMBERS: Mapping[str, Callable[[Scores], float]] = {
    "objects_true": lambda s: s.true,
    "objects_predicted": lambda s: s.predicted,
    "count_error": lambda s: s.count_error,
    "count_bias": lambda s: s.count_bias,
    "dice": lambda s: s.dice,
    "iou": lambda s: s.iou,
    "map": lambda s: s.dsb_score,
    "ap50": lambda s: s.ap(0.5),
    "ap75": lambda s: s.ap(0.75),
    "precision50": lambda s: s.precision(0.5),
    "recall50": lambda s: s.recall(0.5),
    "f1_50": lambda s: s.f1(0.5),
    "pq": lambda s: s.pq,
    "aji": lambda s: s.aji,
    **{f"objects_{kind}": attrgetter(kind) for kind in ERRORS},
}


def _round(value: float) -> float:
    return value if isinstance(value, int) else round(float(value), 6)


def summarise(per_image: Sequence[CaseScore], bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All numbers of an evaluation, ready for JSON; `bootstrap` resamples (0: no intervals, `*_low` and `*_high` None).

    Raises InputError where no image could be scored.
    """
    scored = [one for one in per_image if not one.error]
    if not scored:
        first = next((one.error for one in per_image), "no images at all")
        raise InputError(
            "scoring", f"no image that can be scored ({first})", "one at least", "check truth and prediction"
        )
    whole = _Table.of(scored)
    units, groups = _units(scored)
    return {
        "format_version": FORMAT_VERSION,
        **_section(whole, units, bootstrap, seed),
        "missing_predictions": sum(one.missing for one in scored),
        "failed": len(per_image) - len(scored),
        "intervals": {"over": "groups" if groups else "images", "resamples": bootstrap, "cover": 0.95, "seed": seed},
        "curve": _curve(whole),
        "by_modality": _parts(scored, [one.modality for one in scored], bootstrap, seed),
        "by_group": _parts(scored, [one.group for one in scored], bootstrap, seed) if groups else {},
        **_confidence(scored, units, bootstrap, seed),
        "missing": [one.case for one in scored if one.missing],
        "errors": [{"case": one.case, "error": one.error, "hint": one.hint} for one in per_image if one.error],
    }


def _confidence(
    scored: Sequence[CaseScore], units: NDArray[np.int64], bootstrap: int, seed: int
) -> dict[str, dict[str, Any]]:
    """How well the confidences rank bad images; nothing where there are none."""
    sure = [one.confidence for one in scored if one.confidence is not None]
    if len(sure) < len(scored):
        return {}
    return {"confidence": rank_bad(sure, [one.scores.ap(0.5) for one in scored], units, bootstrap, seed)}


def _units(scored: Sequence[CaseScore]) -> tuple[NDArray[np.int64], bool]:
    """What is drawn together: the number of each image's group; images without a group stand alone."""
    names = [f"group {one.group}" if one.group else f"image {i}" for i, one in enumerate(scored)]
    units = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return units, any(one.group for one in scored)


def _parts(scored: Sequence[CaseScore], names: Sequence[str], bootstrap: int, seed: int) -> dict[str, Any]:
    parts = {}
    for name in sorted(set(names)):
        members = [one for one, its in zip(scored, names, strict=True) if its == name]
        # within one group only images are left to draw
        units = _units(members)[0]
        units = units if units.max() else np.arange(len(members))
        parts[name] = _section(_Table.of(members), units, bootstrap, seed)
    return parts


@dataclass(frozen=True)
class _Table:
    """One row an image: the counts that add up, and the ratios that are averaged."""

    counts: Floats  # (N, 2 + 10 + 10 + 10), in the order of the fields of Scores
    means: Floats  # (N, len(_MEANS))

    @classmethod
    def of(cls, scored: Sequence[CaseScore]) -> "_Table":
        counts = [np.hstack(astuple(one.scores)) for one in scored]
        means = [[value(one.scores) for value in _MEANS.values()] for one in scored]
        return cls(np.array(counts, np.float64), np.array(means, np.float64))


_MEANS: Mapping[str, Callable[[Scores], float]] = {
    "dice_mean": lambda s: s.dice,
    "iou_mean": lambda s: s.iou,
    "map": lambda s: s.dsb_score,
    "ap50_mean": lambda s: s.ap(0.5),
    "pq_mean": lambda s: s.pq,
    "aji": lambda s: s.aji,
    "count_error": lambda s: s.count_error,
    "count_bias": lambda s: s.count_bias,
}


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0)


def _split(counts: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """true (R,), predicted (R,), tp (R, 10), iou_sum (R, 10), areas and errors (R, 10) of summed counts (R, 32)."""
    n = len(STEPS)
    return counts[:, 0], counts[:, 1], counts[:, 2 : 2 + n], counts[:, 2 + n : 2 + 2 * n], counts[:, 2 + 2 * n :]


def _pooled(counts: Floats) -> dict[str, Floats]:
    """Ratios of summed counts, one a resample: `Scores`' own properties, for many sums at once."""
    true, predicted, tp, iou_sum, areas = _split(counts)
    both = true + predicted
    ap = _divide(tp, both[:, None] - tp)
    intersection, foreground = areas[:, 0], areas[:, 1] + areas[:, 2]
    return {
        "dice_pooled": _divide(2 * intersection, foreground),
        "iou_pooled": _divide(intersection, foreground - intersection),
        "ap50": ap[:, _AT50],
        "ap75": ap[:, _AT75],
        "map_pooled": ap.mean(axis=1),
        "precision50": np.where(true + predicted > 0, _divide(tp[:, _AT50], predicted) * (predicted > 0), 1.0),
        "recall50": np.where(true + predicted > 0, _divide(tp[:, _AT50], true) * (true > 0), 1.0),
        "f1_50": _divide(2 * tp[:, _AT50], both),
        "pq": _divide(iou_sum[:, _AT50], both / 2),
        "aji_pooled": _divide(areas[:, 3], areas[:, 4]),
    }


def _section(table: _Table, units: NDArray[np.int64], bootstrap: int, seed: int) -> dict[str, Any]:
    images = len(units)
    values = _ratios(table, np.ones((1, images)))
    drawn = _ratios(table, _draw(units, bootstrap, seed)) if bootstrap and units.max() else {}
    section: dict[str, Any] = {
        "images": images,
        "objects_true": int(table.counts[:, 0].sum()),
        "objects_predicted": int(table.counts[:, 1].sum()),
        "both_empty": int((table.counts[:, 0] + table.counts[:, 1] == 0).sum()),
    }
    section |= {f"objects_{kind}": int(table.counts[:, i - len(ERRORS)].sum()) for i, kind in enumerate(ERRORS)}
    for name in NAMES:
        section[name] = _round(values[name][0])
        low, high = np.percentile(drawn[name], _COVER) if drawn else (None, None)
        section[f"{name}_low"] = None if low is None else _round(low)
        section[f"{name}_high"] = None if high is None else _round(high)
    return section


def _draw(units: NDArray[np.int64], bootstrap: int, seed: int) -> Floats:
    """How often each resample holds each image, `(bootstrap, N)`: units are drawn with replacement."""
    count = int(units.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=bootstrap)
    return drawn[:, units].astype(np.float64)


def resample(scored: Sequence[CaseScore], bootstrap: int, seed: int = 0) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Every score, `(1,)`, and the same of each resample, `(bootstrap,)`; no resamples of one group alone.

    The draws depend on the order and the groups of the images alone, so that those of two systems go together.
    """
    table, units = _Table.of(scored), _units(scored)[0]
    drawn = _ratios(table, _draw(units, bootstrap, seed)) if bootstrap and units.max() else {}
    return _ratios(table, np.ones((1, len(scored)))), drawn


def _ratios(table: _Table, weights: Floats) -> dict[str, Floats]:
    means = weights @ table.means / weights.sum(axis=1, keepdims=True)
    return _pooled(weights @ table.counts) | {name: means[:, i] for i, name in enumerate(_MEANS)}


NAMES = (
    *("dice_mean", "dice_pooled", "iou_mean", "iou_pooled", "ap50", "ap75", "map", "map_pooled"),
    *(
        "precision50",
        "recall50",
        "f1_50",
        "pq",
        "aji",
        "ap50_mean",
        "pq_mean",
        "aji_pooled",
        "count_error",
        "count_bias",
    ),
)


def _curve(table: _Table) -> dict[str, list[float]]:
    """Pooled detection scores at every IoU threshold."""
    true, predicted, tp, _, _ = (part[0] for part in _split(table.counts.sum(axis=0, keepdims=True)))
    anything = true + predicted > 0
    zero_or_one = np.zeros_like(tp) if anything else np.ones_like(tp)
    return {
        "iou": list(THRESHOLDS),
        "ap": _listed(_divide(tp, true + predicted - tp)),
        "precision": _listed(tp / predicted if predicted else zero_or_one),
        "recall": _listed(tp / true if true else zero_or_one),
        "f1": _listed(_divide(2 * tp, np.full_like(tp, true + predicted))),
    }


def _listed(values: Floats) -> list[float]:
    return [_round(value) for value in values]
