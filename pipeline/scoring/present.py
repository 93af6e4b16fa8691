"""Scores for people and for other programs: a compact table, `scores.json`, `scores.csv` (one row an image)."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.files import atomic_write
from pipeline.scoring.counts import write_counts
from pipeline.scoring.present_classes import class_table, of_the_training
from pipeline.scoring.summary import ERRORS, CaseScore

JSON, CSV = "scores.json", "scores.csv"
MOST_GROUPS, MOST_TOLD = 10, 5
_COLUMNS: Mapping[str, str] = {
    "map": "mAP",
    "ap50": "AP@.5",
    "ap75": "AP@.75",
    "f1_50": "F1@.5",
    "dice_mean": "Dice",
    "iou_mean": "IoU",
    "pq": "PQ",
    "aji": "AJI",
    "count_error": "count±",
}


def score_table(scores: Mapping[str, Any]) -> str:
    """The numbers of `summarise` in lines of at most 100 characters.

    `all` with its interval, the modalities, the groups of more than one image (the worst, where there are many), and
    what became of the objects, and what was missing or could not be scored. Class maps have a table of their own.
    """
    if scores.get("kind") == "classes":
        return class_table(scores)
    width = max(24, *(len(name) + 2 for name in scores["by_modality"]))
    lines = [f"{'':<{width}}images objects " + "".join(f"{title:>7}" for title in _COLUMNS.values())]
    lines.append(_line("all", scores, width))
    lines += [_bound(scores, side, width) for side in ("low", "high") if scores["map_low"] is not None]
    if len(scores["by_modality"]) > 1:
        lines += [_line(f"  {name}", part, width) for name, part in scores["by_modality"].items()]
    lines += _groups(scores["by_group"], width)
    return "\n".join(lines + _remarks(scores))


def _line(name: str, part: Mapping[str, Any], width: int) -> str:
    shown = name if len(name) < width else f"{name[: width - 2]}…"
    numbers = "".join(f"{part[key]:>7.3f}" for key in _COLUMNS)
    return f"{shown:<{width}}{part['images']:>6} {part['objects_true']:>7} {numbers}"


def _bound(scores: Mapping[str, Any], side: str, width: int) -> str:
    title = f"  95 % {side}, by {scores['intervals']['over']}"
    return f"{title:<{width}}{'':>15}" + "".join(f"{scores[f'{key}_{side}']:>7.3f}" for key in _COLUMNS)


def _groups(groups: Mapping[str, Any], width: int) -> list[str]:
    shown = sorted(
        (name for name, part in groups.items() if name and part["images"] > 1), key=lambda n: groups[n]["map"]
    )
    title = f"the {MOST_GROUPS} worst of {len(shown)} groups with more than one image:"
    lines = [title] if len(shown) > MOST_GROUPS else ["groups:"] if shown else []
    return lines + [_line(f"  {name}", groups[name], width) for name in shown[:MOST_GROUPS]]


def _found(scores: Mapping[str, Any]) -> str:
    """What became of the true objects, and what was found where there is none, at IoU .5."""
    lost = {kind: scores[f"objects_{kind}"] for kind in ERRORS}
    extra, found = lost.pop("extra"), scores["objects_true"] - sum(lost.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in lost.items())
    return f"of {scores['objects_true']:,} objects {found:,} found at IoU .5, {kinds}; {extra:,} extra"


def _remarks(scores: Mapping[str, Any]) -> list[str]:
    lines = [_found(scores), *of_the_training(scores)]
    ranked = scores.get("confidence", {})
    if ranked.get("auroc") is not None:
        interval = f"{ranked['auroc_low']:.3f} to {ranked['auroc_high']:.3f}"
        what = f"{ranked['bad']} images with AP@.5 below .5"
        lines.append(f"confidence ranks the {what}: AUROC {ranked['auroc']:.3f} (95 % {interval})")
    if scores["both_empty"]:
        lines.append(f"{scores['both_empty']} images empty in truth and prediction: they score 1")
    if scores["missing"]:
        lines.append(
            f"{len(scores['missing'])} images without a prediction, scored as empty: {_some(scores['missing'])}"
        )
    errors = scores["errors"]
    lines += [f"not scored: {one['error']}; {one['hint']}" for one in errors[:MOST_TOLD]]
    if len(errors) > MOST_TOLD:
        lines.append(f"... and {len(errors) - MOST_TOLD} more that could not be scored")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return ", ".join(name if len(name) <= 24 else f"{name[:20]}…" for name in names[:MOST_TOLD]) + more


def write_scores(folder: Path, scores: Mapping[str, Any], per_image: Sequence[CaseScore]) -> None:
    """Write `scores.json`, `scores.csv` (worst image first, those in error before all) and `counts.json`, each whole.

    Raises OutputError where the folder cannot be written.
    """
    atomic_write(folder / JSON, (json.dumps(scores, indent=2, allow_nan=False) + "\n").encode())
    order = sorted(per_image, key=lambda one: (not one.error, one.scores.dsb_score, one.case))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(order[0].row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(one.row for one in order)
    atomic_write(folder / CSV, text.getvalue().encode())
    write_counts(folder, per_image)
