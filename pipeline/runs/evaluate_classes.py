"""How good a model of classes is on labelled images, and how well class maps that exist agree with the truth."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ClassesTarget, EvaluateConfig, ImageOptions
from pipeline.data.classes import class_indices, class_map, read_class_map
from pipeline.data.files import atomic_write, remove
from pipeline.data.images import open_image
from pipeline.data.ingest import load_case
from pipeline.data.labels import write_labels
from pipeline.data.palettes import write_class_png
from pipeline.errors import InputError, MaskError, MasklineError
from pipeline.results.names import label_suffix
from pipeline.results.run import Run
from pipeline.runs.measure_cost import Cost, cost_numbers
from pipeline.scoring.class_metrics import NAMES, ClassCase, confusion, summarise_classes
from pipeline.scoring.counts import COUNTS
from pipeline.scoring.present_classes import CSV, JSON, PICTURE, class_table, write_class_scores
from pipeline.types import Array, Case, Event, Watch, unwatched

PICTURES = 6  # of the images with the lowest scores


@dataclass
class ClassesFound:
    """What is collected over the images: counts, what they took, and pictures of those that were scored, by score."""

    cost: Cost
    cases: list[ClassCase] = field(default_factory=list)
    pictures: list[tuple[float, str, bytes]] = field(default_factory=list)

    def show(self, one: ClassCase, picture: bytes) -> None:
        self.cases.append(one)
        score = one.dice if np.isfinite(one.dice) else 2.0
        self.pictures = sorted([*self.pictures, (score, one.case, picture)])[:PICTURES]


def evaluate_classes(
    cases: Sequence[Case],
    segmenter: Any,
    config: EvaluateConfig,
    about: Mapping[str, Any],
    cost: Cost,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Segment labelled cases with a model of classes and score them; the numbers are those of `summarise_classes`.

    `config.out` then holds `labels/`, `scores.json`, `scores.csv`, `counts.json`, `scores.txt`, `confusion.png` and
    `worst/`. `about` and the record of `cost` join the numbers. Raises InputError where no case can be scored.
    """
    began, found, target = time.perf_counter(), ClassesFound(cost), segmenter.model.record.target
    for number, case in enumerate(cases, start=1):
        evaluate_class_case(case, segmenter, config, config.out, found)
        watch(Event("evaluate", number, len(cases)))
    scores = summarise_classes(found.cases, target.names, config.bootstrap) | dict(about)
    scores |= {"cost": cost.record(segmenter, config.device), "seconds": round(time.perf_counter() - began, 2)}
    write_classes(config.out, scores, found)
    return scores


def write_classes(out: Path, scores: Mapping[str, Any], found: ClassesFound) -> None:
    """The files of an evaluation of classes but `labels/`, which are written case by case."""
    write_class_scores(out, scores, found.cases)
    atomic_write(out / "scores.txt", (class_table(scores) + "\n").encode())
    for old in sorted((out / "worst").glob("[0-9][0-9]_*.png")):
        old.unlink()
    for number, (_, name, picture) in enumerate(found.pictures, start=1):
        atomic_write(out / "worst" / f"{number:02d}_{name.replace('/', '_')[-80:]}.png", picture)


def evaluate_class_case(case: Case, segmenter: Any, options: ImageOptions, out: Path, found: ClassesFound) -> None:
    """One image: labels written below `out`, counts kept; what is wrong with it becomes its row."""
    from pipeline.results.class_pictures import class_sample
    from pipeline.results.pictures import png

    target: ClassesTarget = segmenter.model.record.target
    path = out / "labels" / f"{case.id}{label_suffix(case.relative, classes=True)}"
    try:
        truth = class_map(load_case(case)[1], case.mask_kind, target, f"case {case.id}")
        opened = open_image(case.image, pages=case.pages)
        answer = found.cost.segment(segmenter, opened, options)
        counts = confusion(truth, answer.labels, len(target.names))
    except MasklineError as error:
        remove(path)
        found.cases.append(_failed(case, error, len(target.names)))
        return
    if path.suffix == ".png":
        write_class_png(path, answer.labels, answer.classes, answer.colours)
    else:
        write_labels(path, answer.labels, answer.image.geometry, case.image, opened.multiscale)
    picture = png(class_sample(answer.image, truth.astype(np.uint32), answer.labels, target))
    found.show(ClassCase(case.id, counts, case.group), picture)


def _failed(case: Case, error: MasklineError, classes: int) -> ClassCase:
    where = "" if case.id in error.message else f"case {case.id}, "
    nothing = np.zeros((classes, classes), np.int64)
    return ClassCase(case.id, nothing, case.group, error=f"{where}{error.message}", hint=error.hint)


def publish_classes(run: Run, out: Path, scores: Mapping[str, Any]) -> None:
    """The numbers overall and by class, the confusion matrix, and the files that people look at."""
    numbers = {
        f"{name}{side}": scores[f"{name}{side}"]
        for name in NAMES
        for side in ("", "_low", "_high")
        if scores[f"{name}{side}"] is not None
    }
    for name, part in scores["classes"].items():
        numbers |= {f"{kind}/{name}": part[kind] for kind in ("dice", "iou") if part[kind] is not None}
    run.set_tags({"maskline.model_digest": scores["model_digest"]})
    numbers |= cost_numbers(scores) | {"images": float(scores["images"]), "failed": float(scores["failed"])}
    run.log_metrics(numbers)
    for file in (JSON, CSV, COUNTS, PICTURE, "scores.txt"):
        run.log_file(out / file)
    run.log_file(out / "worst", "worst")


def score_class_maps(
    cases: Sequence[Case],
    claimed: Mapping[str, Sequence[Path]],
    *,
    names: Sequence[str] = (),
    ignore: int = 255,
    out: Path | None = None,
    bootstrap: int = 1000,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Score class maps that exist already; `claimed` are the files of each case, by its relative path.

    Without `names`, the classes are `class 0`, `class 1` ... up to the largest number of any truth but `ignore`.
    A case without a file counts as all background. Raises InputError where no case can be scored.
    """
    truths = {case.id: truth for case in cases if (truth := _truth(case)) is not None}
    names = names or _count(truths.values(), ignore)
    scored = []
    for number, case in enumerate(cases, start=1):
        scored.append(_score(case, claimed[case.relative], names, ignore))
        watch(Event("score", number, len(cases)))
    scores = summarise_classes(scored, names, bootstrap)
    if out is not None:
        write_class_scores(out, scores, scored)
    return scores


def _truth(case: Case) -> Array | None:
    try:
        return load_case(case)[1]
    except MasklineError:
        return None  # `_score` meets the same error and tells of it


def _count(truths: Any, ignore: int) -> tuple[str, ...]:
    largest = max((int(truth[truth != ignore].max(initial=0)) for truth in truths), default=0)
    if largest > 254:
        raise InputError("truth", f"class {largest}", "0 to 254", "score objects without --masks classes")
    return tuple(f"class {index}" for index in range(max(2, largest + 1)))


def _score(case: Case, files: Sequence[Path], names: Sequence[str], ignore: int) -> ClassCase:
    try:
        truth = class_indices(load_case(case)[1], names, ignore, f"case {case.id}")
        if len(files) > 1:
            told = ", ".join(path.name for path in files)
            raise MaskError(f"case {case.id}", f"{len(files)} label files ({told})", "one", "remove the others")
        predicted = read_class_map(files[0], truth.shape) if files else np.zeros(truth.shape, np.uint32)
        return ClassCase(case.id, confusion(truth, predicted, len(names)), case.group, missing=not files)
    except MasklineError as error:
        return _failed(case, error, len(names))
