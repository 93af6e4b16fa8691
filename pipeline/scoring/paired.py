"""Several systems on the same images: every score with its interval, and its difference from the first system's.

The resamples are the same for all systems (paired bootstrap), so that what makes an image hard for all of them does not
widen the interval of a difference. Whole images are drawn, or whole groups where there are groups, as in `summarise`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.scoring import class_metrics, summary
from pipeline.scoring.class_metrics import ClassCase
from pipeline.scoring.counts import Counted, truth_of
from pipeline.scoring.summary import CaseScore

Floats = NDArray[np.float64]
_COVER = (2.5, 97.5)
_TOLD = 5


@dataclass(frozen=True)
class Measured:
    """A score with the interval that holds 95 % of its resamples; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Score:
    """One score of one system, and how much it is above that of the first; None for the first itself."""

    own: Measured
    difference: Measured | None = None


def same_images(systems: Mapping[str, Counted], common: bool = False) -> tuple[dict[str, Counted], int]:
    """The systems on the images that all of them scored against the same truth, and how many images that leaves out.

    Images stand in the order of the first system. Raises InputError where some of the systems lack an image or know
    another truth of it (not with `common`), where no image is left, where one counts objects and another classes, or
    where the images' groups differ.
    """
    first, *others = systems.items()
    for other in others:
        _check_kind(first, other)
    known = {name: system.scored for name, system in systems.items()}
    every = list(dict.fromkeys(case for scored in known.values() for case in scored))
    lacking = {case: _lacking(case, known) for case in every}
    kept = [case for case in known[first[0]] if not lacking[case]]
    if len(kept) < len(every) and not common:
        raise _unlike(every, lacking)
    if not kept:
        raise InputError("compare", "no image that all runs scored", "one at least", "evaluate all on one split")
    aligned = {name: replace(one, images=tuple(known[name][case] for case in kept)) for name, one in systems.items()}
    for name, _ in others:
        _check_groups(first[0], aligned[first[0]], name, aligned[name])
    return aligned, len(every) - len(kept)


def _check_kind(first: tuple[str, Counted], other: tuple[str, Counted]) -> None:
    told = [", ".join(one.names) or "objects" for _, one in (first, other)]
    if first[1].names != other[1].names:
        raise InputError(other[0], f"scores of {told[1]}", f"{told[0]}, as {first[0]} has", "compare systems of a kind")


def _lacking(case: str, known: Mapping[str, Mapping[str, CaseScore | ClassCase]]) -> str:
    """What is wrong with an image, "" where all systems have it."""
    without = [name for name, scored in known.items() if case not in scored]
    if without:
        return f"not scored in {', '.join(without)}"
    truths = {truth_of(scored[case]) for scored in known.values()}
    return "its truth differs" if len(truths) > 1 else ""


def _unlike(every: Sequence[str], lacking: Mapping[str, str]) -> InputError:
    strange = [case for case in every if lacking[case]]
    told = "; ".join(f"{_short(case)} ({lacking[case]})" for case in strange[:_TOLD])
    more = f"; and {len(strange) - _TOLD} more" if len(strange) > _TOLD else ""
    left = len(every) - len(strange)
    hint = "evaluate all on one split" + (f", or compare the {left} others with --common" if left else "")
    return InputError("compare", f"{len(strange)} of {len(every)} images: {told}{more}", "the same for all runs", hint)


def _short(case: str) -> str:
    return case if len(case) <= 40 else f"{case[:24]}…{case[-12:]}"


def _check_groups(first: str, one: Counted, name: str, other: Counted) -> None:
    mine, theirs = (tuple(image.group for image in system.images) for system in (one, other))
    if mine != theirs:
        case = next(image.case for image, a, b in zip(one.images, mine, theirs, strict=True) if a != b)
        came = f"other groups than {first} has, as of {case}"
        raise InputError(name, came, "one grouping, which intervals are drawn by", "evaluate both with one manifest")


def compare_scores(systems: Mapping[str, Counted], bootstrap: int = 1000, seed: int = 0) -> dict[str, dict[str, Score]]:
    """Every score of every system, by name; `systems` stand on the same images, as `same_images` gives them.

    Those of one system alone are the scores and intervals that `summarise` and `summarise_classes` give. `bootstrap` is
    the number of resamples; 0, or one group alone, gives no intervals.
    """
    resampled = {name: _resample(system, bootstrap, seed) for name, system in systems.items()}
    base = next(iter(resampled.values()))
    scores: dict[str, dict[str, Score]] = {}
    for number, (name, (values, drawn)) in enumerate(resampled.items()):
        scores[name] = {}
        for key, value in values.items():
            own = _measured(value, drawn.get(key))
            more = _measured(value - base[0][key], drawn[key] - base[1][key] if drawn else None) if number else None
            scores[name][key] = Score(own, more)
    return scores


def _resample(system: Counted, bootstrap: int, seed: int) -> tuple[dict[str, Floats], dict[str, Floats]]:
    if system.kind == "classes":
        return class_metrics.resample(cast(tuple[ClassCase, ...], system.images), bootstrap, seed)
    return summary.resample(cast(tuple[CaseScore, ...], system.images), bootstrap, seed)


def _measured(value: Floats, drawn: Floats | None) -> Measured:
    known = drawn[np.isfinite(drawn)] if drawn is not None else np.zeros(0)
    low, high = np.percentile(known, _COVER) if known.size else (np.nan, np.nan)
    return Measured(*(round(float(x), 6) if np.isfinite(x) else None for x in (value[0], low, high)))
