"""`counts.json`: what was counted in each image, kept beside its scores so that systems can be compared pair by pair.

Ratios of images do not add up to those of a data set, counts do. Whole numbers and the few floats among them come back
exactly as they were.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import InputError
from pipeline.scoring.class_metrics import ClassCase
from pipeline.scoring.metrics import Scores
from pipeline.scoring.summary import CaseScore
from pipeline.types import FORMAT_VERSION

COUNTS = "counts.json"
_HINT = "evaluate again, or `maskline score --predicted RUN --truth DATA --out FOLDER` and compare FOLDER"


@dataclass(frozen=True)
class Counted:
    """The images of an evaluation in its order, those that could not be scored included (`error`).

    `kind` says what `images` are: `CaseScore` of objects, or `ClassCase` of the classes `names`.
    """

    kind: Literal["objects", "classes"]
    images: tuple[CaseScore | ClassCase, ...]
    names: tuple[str, ...] = ()

    @property
    def scored(self) -> Mapping[str, CaseScore | ClassCase]:
        """Those that have numbers, by their names."""
        return {one.case: one for one in self.images if not one.error}


def truth_of(one: CaseScore | ClassCase) -> tuple[int, ...]:
    """What the truth of an image counts alone, whoever predicted it: another truth is another image."""
    if isinstance(one, CaseScore):
        return one.scores.true, one.scores.true_area
    return tuple(one.counts.sum(axis=1).tolist())


def write_counts(folder: Path, images: Sequence[CaseScore] | Sequence[ClassCase], names: Sequence[str] = ()) -> None:
    """Write `counts.json`, whole or not at all; `names` are the classes, where they are classes."""
    kind = "classes" if names else "objects"
    rows = [_row(one) for one in images]
    tree = {"format_version": FORMAT_VERSION, "kind": kind, "names": list(names), "images": rows}
    atomic_write(folder / COUNTS, json.dumps(tree, separators=(",", ":"), allow_nan=False).encode() + b"\n")


def _row(one: CaseScore | ClassCase) -> dict[str, Any]:
    row: dict[str, Any] = {"case": one.case, "group": one.group}
    if one.error:
        return row | {"error": one.error}
    counts = astuple(one.scores) if isinstance(one, CaseScore) else one.counts.tolist()
    return row | {"counts": counts}


def read_counts(folder: Path) -> Counted:
    """What `write_counts` wrote; raises InputError where there is none, or none that this version reads."""
    path = folder / COUNTS
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        wanted = "an output folder of maskline evaluate with its counts"
        raise InputError(str(folder), f"no {COUNTS}", wanted, _HINT) from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), str(error), "readable counts", _HINT) from None
    if not isinstance(tree, dict) or tree.get("format_version") != FORMAT_VERSION:
        came = tree.get("format_version") if isinstance(tree, dict) else type(tree).__name__
        raise InputError(str(path), f"format version {came}", str(FORMAT_VERSION), _HINT)
    try:
        names = tuple(tree["names"])
        images = tuple(_case(row, len(names)) for row in tree["images"])
        return Counted("classes" if names else "objects", images, names)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"{type(error).__name__}: {error}", "counts of every image", _HINT) from None


def _case(row: Mapping[str, Any], classes: int) -> CaseScore | ClassCase:
    error = row.get("error", "")
    if not classes:
        values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row.get("counts", ())]
        return CaseScore(row["case"], Scores(*values), group=row["group"], error=error)
    counts = np.array(row.get("counts", np.zeros((classes, classes))), np.int64).reshape(classes, classes)
    return ClassCase(row["case"], counts, row["group"], error=error)
