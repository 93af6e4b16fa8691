"""Scores of class maps for people and for other programs: a table, `scores.json`, `scores.csv`, confusion matrix."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.files import atomic_write
from pipeline.scoring.class_metrics import ClassCase, accuracy, dice, iou, mean
from pipeline.scoring.counts import write_counts

JSON, CSV, PICTURE = "scores.json", "scores.csv", "confusion.png"
MOST_TOLD = 5
_TITLES = {"dice_mean": "mean foreground Dice", "miou": "mIoU", "accuracy": "pixel accuracy"}
_INK, _PALE = (30, 30, 30), (245, 245, 245)


def _shown(part: Mapping[str, Any], name: str) -> str:
    value, low, high = (part[f"{name}{side}"] for side in ("", "_low", "_high"))
    text = "  –  " if value is None else f"{value:.3f}"
    return text if low is None else f"{text} ({low:.3f} to {high:.3f})"


def of_the_training(scores: Mapping[str, Any]) -> list[str]:
    """A line where the model's training had seen images that are scored."""
    count = scores.get("learned_from", 0)
    return [f"{count} of these images are the training's own: their scores flatter"] if count else []


def class_table(scores: Mapping[str, Any]) -> str:
    """The numbers of `summarise_classes` in lines of at most 100 characters: overall, by class, what went wrong."""
    over = f"95 % by {scores['intervals']['over']}"
    lines = [f"{scores['images']} images, {len(scores['names'])} classes ({over})"]
    lines += [f"{title:<22}{_shown(scores, name)}" for name, title in _TITLES.items()]
    width = max(8, *(len(name) for name in scores["names"])) + 2
    lines.append(f"{'':<{width}}{'Dice':<26}{'IoU':<26}{'pixels':>12}")
    for name in scores["names"]:
        part = scores["classes"][name]
        lines.append(f"{name:<{width}}{_shown(part, 'dice'):<26}{_shown(part, 'iou'):<26}{part['pixels_true']:>12,}")
    lines += of_the_training(scores)
    if scores["missing"]:
        lines.append(f"{len(scores['missing'])} images without a prediction, scored as all {scores['names'][0]}")
    lines += [f"not scored: {one['error']}; {one['hint']}" for one in scores["errors"][:MOST_TOLD]]
    if len(scores["errors"]) > MOST_TOLD:
        lines.append(f"... and {len(scores['errors']) - MOST_TOLD} more that could not be scored")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.6f}" if np.isfinite(value) else ""


def _row(one: ClassCase, names: Sequence[str]) -> dict[str, str]:
    """What scores.csv says of an image; one in error has no numbers."""
    row = {"case": one.case, "group": one.group, "status": one.status, "error": one.error, "hint": one.hint}
    empty = bool(one.error)
    row["dice"] = "" if empty else _number(one.dice)
    row["miou"] = "" if empty else _number(mean(iou(one.counts)))
    row["accuracy"] = "" if empty else _number(accuracy(one.counts))
    for ratio, each in (("dice", dice(one.counts)), ("iou", iou(one.counts))):
        pairs = zip(names, each, strict=True)
        row |= {f"{ratio}_{name}": "" if empty else _number(value) for name, value in pairs}
    return row


def write_class_scores(folder: Path, scores: Mapping[str, Any], cases: Sequence[ClassCase]) -> None:
    """Write `scores.json`, `scores.csv` (worst image first, those in error before all), `counts.json`, `confusion.png`.

    Each whole or not at all; raises OutputError where the folder cannot be written.
    """
    atomic_write(folder / JSON, (json.dumps(scores, indent=2, allow_nan=False) + "\n").encode())
    order = sorted(cases, key=lambda one: (not one.error, one.dice if np.isfinite(one.dice) else 2.0, one.case))
    rows = [_row(one, scores["names"]) for one in order]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(folder / CSV, text.getvalue().encode())
    write_counts(folder, cases, scores["names"])
    atomic_write(folder / PICTURE, confusion_picture(np.asarray(scores["confusion"]), scores["names"]))


def confusion_picture(counts: NDArray[np.int64], names: Sequence[str]) -> bytes:
    """A PNG of the confusion matrix: true classes down, predicted ones across, each row in percent of its pixels."""
    cell, margin = max(56, 8 * max(len(name[:14]) for name in names) + 8), 130
    side = margin + cell * len(names) + 12
    picture: Any = np.full((side, side, 3), 255, np.uint8)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def write(text: str, left: int, base: int, ink: tuple[int, int, int] = _INK) -> None:
        cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)

    write("true, down", 8, margin - 34)
    write("predicted, across", 8, margin - 16)
    for row, name in enumerate(names):
        top = margin + row * cell
        write(_plain(name), 8, top + cell // 2 + 4)
        write(_plain(name), margin + row * cell + 4, margin - 8)
        for column in range(len(names)):
            left, part = margin + column * cell, float(share[row, column])
            colour = tuple(int(255 + (c - 255) * part) for c in (150, 80, 20))  # BGR
            cv2.rectangle(picture, (left, top), (left + cell - 2, top + cell - 2), colour, -1)
            write(f"{100 * part:.1f}", left + 8, top + cell // 2 + 4, _PALE if part > 0.5 else _INK)
    return bytes(cv2.imencode(".png", picture)[1].tobytes())


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)[:14]
