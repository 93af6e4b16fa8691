"""How well class maps agree: one confusion matrix an image, every ratio made of it.

Counts add over images. Dice and IoU of a class in one image are not defined (NaN) where neither truth nor prediction
holds it, and are then left out of means.

>>> truth, predicted = np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, 2]])
>>> counts = confusion(truth, predicted, 3)
>>> counts.tolist()
[[1, 1, 0], [0, 1, 0], [0, 0, 1]]
>>> dice(counts).round(3).tolist(), float(accuracy(counts))
([0.667, 0.667, 1.0], 0.75)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, MaskError
from pipeline.types import FORMAT_VERSION, Array

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
_IGNORED = 255
_COVER = (2.5, 97.5)


def confusion(truth: Array, predicted: Array, classes: int) -> Counts:
    """Pixels by true class (rows) and predicted class (columns), `(classes, classes)`.

    Those that the truth ignores (255) are left out. Raises MaskError where the shapes differ, or a number is no class.
    """
    if truth.shape != predicted.shape:
        hint = "score the class map of this very image, at its own size"
        raise MaskError("prediction", f"shape {predicted.shape}", f"the truth's {truth.shape}", hint)
    counted = truth != _IGNORED
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("truth", rows), ("prediction", columns)):
        if values.max(initial=0) >= classes or values.min(initial=0) < 0:
            came = f"class {values.max() if values.max() >= classes else values.min()}"
            raise MaskError(name, came, f"0 to {classes - 1}", "score with the classes of the labels")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def _parts(counts: Counts | Floats) -> tuple[Floats, Floats, Floats]:
    """Agreement, true and predicted pixels of each class, `(..., K)`, of matrices `(..., K, K)`."""
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    return both, counts.sum(axis=-1).astype(np.float64), counts.sum(axis=-2).astype(np.float64)


def _divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def dice(counts: Counts | Floats) -> Floats:
    """Dice of each class, `(..., K)`; NaN where truth and prediction lack it."""
    both, true, predicted = _parts(counts)
    return _divide(2 * both, true + predicted)


def iou(counts: Counts | Floats) -> Floats:
    """Intersection over union of each class, `(..., K)`; NaN where truth and prediction lack it."""
    both, true, predicted = _parts(counts)
    return _divide(both, true + predicted - both)


def accuracy(counts: Counts | Floats) -> Any:
    """The part of the pixels that have their true class; NaN without any."""
    both, true, _ = _parts(counts)
    return _divide(both.sum(axis=-1), true.sum(axis=-1))[()]


def mean(values: Floats, axis: int | None = None) -> Any:
    """The mean of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return _divide(np.asarray(total, np.float64), np.asarray(known.sum(axis=axis), np.float64))[()]


@dataclass(frozen=True)
class ClassCase:
    """One scored image, or one that could not be scored: `error` says why, its counts are then left out."""

    case: str
    counts: Counts
    group: str = ""
    missing: bool = False
    error: str = ""
    hint: str = ""

    @property
    def status(self) -> str:
        return "failed" if self.error else "missing" if self.missing else "scored"

    @property
    def dice(self) -> float:
        """Mean over the foreground classes that are there."""
        return float(mean(dice(self.counts)[1:]))


def _ratios(stack: Counts, drawn: Floats) -> dict[str, Floats]:
    """Every score of resamples `drawn` `(R, N)` (how often each image), `(R,)` or `(R, K)`."""
    per_image = dice(stack)  # (N, K)
    known = np.isfinite(per_image)
    dice_class = _divide(drawn @ np.where(known, per_image, 0.0), drawn @ known)
    foreground = mean(per_image[:, 1:], axis=1)  # (N,)
    has = np.isfinite(foreground)
    pooled = np.tensordot(drawn, stack.astype(np.float64), 1)
    return {
        "dice_class": dice_class,
        "iou_class": iou(pooled),
        "dice_pooled_class": dice(pooled),
        "dice_mean": _divide(drawn @ np.where(has, foreground, 0.0), drawn @ has.astype(np.float64)),
        "dice_pooled": np.asarray(mean(dice(pooled)[:, 1:], axis=1)),
        "miou": np.asarray(mean(iou(pooled), axis=1)),
        "accuracy": np.asarray(accuracy(pooled)),
    }


def _draw(cases: Sequence[ClassCase], bootstrap: int, seed: int) -> Floats | None:
    """How often each resample holds each image, `(bootstrap, N)`; groups are drawn whole, one alone gives None."""
    names = [f"group {one.group}" if one.group else f"image {i}" for i, one in enumerate(cases)]
    units = np.unique(names, return_inverse=True)[1]
    count = int(units.max()) + 1
    if count == 1 or not bootstrap:
        return None
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=bootstrap)
    return drawn[:, units].astype(np.float64)


def resample(cases: Sequence[ClassCase], bootstrap: int, seed: int = 0) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The scores `NAMES`, `(1,)`, and the same of each resample, `(bootstrap,)`; no resamples of one group alone.

    The draws depend on the order and the groups of the images alone, so that those of two systems go together.
    """
    stack, often = np.stack([one.counts for one in cases]), _draw(cases, bootstrap, seed)
    whole = _ratios(stack, np.ones((1, len(cases))))
    drawn = {} if often is None else _ratios(stack, often)
    return {name: whole[name] for name in NAMES}, {name: drawn[name] for name in NAMES if drawn}


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _bounds(values: Floats) -> tuple[float | None, float | None]:
    known = values[np.isfinite(values)]
    if not known.size:
        return None, None
    low, high = np.percentile(known, _COVER)
    return _number(low), _number(high)


NAMES = ("dice_mean", "dice_pooled", "miou", "accuracy")


def summarise_classes(
    cases: Sequence[ClassCase], names: Sequence[str], bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All numbers of an evaluation of class maps, ready for JSON; what is not defined is None.

    `dice_mean` is the mean over images of the mean over foreground classes; a class' `dice` the mean over the images
    that hold it; `*_pooled`, `iou`, `miou` (over all classes) and `accuracy` are of the summed matrix. Intervals are
    the middle 95 % of `bootstrap` resamples of whole images, or of whole groups. Raises InputError without any image.
    """
    scored = [one for one in cases if not one.error]
    if not scored:
        first = next((one.error for one in cases), "no images at all")
        raise InputError("scoring", f"no image that can be scored ({first})", "one", "check truth and prediction")
    stack = np.stack([one.counts for one in scored])
    whole = _ratios(stack, np.ones((1, len(scored))))
    often = _draw(scored, bootstrap, seed)
    drawn = {} if often is None else _ratios(stack, often)
    total = stack.sum(axis=0)
    scores: dict[str, Any] = {"format_version": FORMAT_VERSION, "kind": "classes", "images": len(scored)}
    for name in NAMES:
        scores[name] = _number(whole[name][0])
        scores[f"{name}_low"], scores[f"{name}_high"] = _bounds(drawn[name]) if drawn else (None, None)
    scores["classes"] = {name: _of_class(index, whole, drawn, total) for index, name in enumerate(names)}
    return scores | {
        "confusion": total.tolist(),
        "names": list(names),
        "intervals": {
            "over": "groups" if any(one.group for one in scored) else "images",
            "resamples": bootstrap,
            "cover": 0.95,
            "seed": seed,
        },
        "missing": [one.case for one in scored if one.missing],
        "failed": len(cases) - len(scored),
        "errors": [{"case": one.case, "error": one.error, "hint": one.hint} for one in cases if one.error],
    }


def _of_class(index: int, whole: dict[str, Floats], drawn: dict[str, Floats], total: Counts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in (("dice_class", "dice"), ("dice_pooled_class", "dice_pooled"), ("iou_class", "iou")):
        found[name] = _number(whole[key][0, index])
        found[f"{name}_low"], found[f"{name}_high"] = _bounds(drawn[key][:, index]) if drawn else (None, None)
    return found | {"pixels_true": int(total[index].sum()), "pixels_predicted": int(total[:, index].sum())}
