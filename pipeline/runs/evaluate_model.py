"""How good a model is on labelled images: predict, then score."""

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config import EvaluateConfig, ImageOptions, masks_of
from pipeline.data.files import atomic_write, remove
from pipeline.data.images import open_image
from pipeline.data.labels import write_labels
from pipeline.data.manifest import Manifest, load_data
from pipeline.errors import InputError, MasklineError, OutputError
from pipeline.model.told_size import KnownSize
from pipeline.results.names import label_suffix
from pipeline.results.run import Run
from pipeline.runs.evaluate_classes import evaluate_classes, publish_classes
from pipeline.runs.find_model import find_any_model
from pipeline.runs.measure_cost import Cost, cost_numbers
from pipeline.runs.score_labels import Truth, failed_case, read_truth, score_folder
from pipeline.scoring.counts import COUNTS
from pipeline.scoring.metrics import match
from pipeline.scoring.present import CSV, JSON, score_table, write_scores
from pipeline.scoring.summary import NAMES, CaseScore, summarise
from pipeline.types import Case, Event, Image, Labels, Watch, unwatched

if TYPE_CHECKING:
    from pipeline.data.sources import FileSource
    from pipeline.inference.segment import Segmenter

__all__ = ["evaluate_model", "score_folder", "score_table"]
PICTURES = 6  # of the images with the lowest scores


def evaluate_model(config: EvaluateConfig, watch: Watch = unwatched) -> dict[str, Any]:
    """Segment the images of a split with a model and score them; the numbers are those of `summarise`.

    Those of a model of classes are `summarise_classes`'; see `evaluate_classes`.

    `config.out` then holds `labels/` (what was predicted, so that `score_folder` gives the same numbers),
    `scores.json` (with parameters, speed and memory as `cost`), `scores.csv`, `counts.json`, `scores.txt` and `worst/`
    (image, truth and prediction of the images with the lowest scores). An image that cannot be read or segmented is
    left out of the numbers and named in `errors`.

    Raises
    ------
    InputError
        The data have no labelled image in the split, or none of them can be scored.
    OutputError
        `config.out` is a results folder of `maskline segment`, or cannot be written.
    ModelError, TrackingError
        There is no such model.
    UsageError
        A diameter is given that the model has no use for.
    """
    if (config.out / ".maskline").exists():
        raise OutputError(str(config.out), "a results folder of maskline segment", "another --out", "name a new folder")
    manifest = load_data(config.data, _masks(config), config.pages)
    cases = [case for case in manifest.split(config.split) if case.mask_kind != "none"]
    if not cases:
        wanted = "one at least"
        raise InputError(str(config.data), f"no labelled image in split {config.split}", wanted, "choose another split")
    with _tracked(config, manifest) as run:
        start, cost = time.perf_counter(), Cost()
        segmenter = _load(config)
        about = {
            "model": config.model,
            "model_digest": segmenter.model.digest,
            "data": str(config.data),
            "manifest_digest": manifest.digest,
            "split": config.split,
            "learned_from": _learned_from(segmenter.model.record.provenance, manifest, cases),
        }
        if getattr(segmenter, "classes", ()):
            scores = evaluate_classes(cases, segmenter, config, about, cost, watch)
            if run is not None:
                publish_classes(run, config.out, scores)
            return scores
        scored = Scored(cost)
        for number, case in enumerate(cases, start=1):
            evaluate_case(case, segmenter, config, config.out, scored)
            watch(Event("evaluate", number, len(cases), scored.fields))
        scores = summarise(scored.per_image, config.bootstrap) | about
        scores |= {"cost": cost.record(segmenter, config.device), "seconds": round(time.perf_counter() - start, 2)}
        write_evaluation(config.out, scores, scored)
        if run is not None:
            publish_evaluation(run, config.out, scores)
    return scores


def _learned_from(made: Mapping[str, Any], manifest: Manifest, cases: Sequence[Case]) -> int:
    """How many of the cases the model's own training, if it was on this manifest, learned from or chose by."""
    seen: set[str] = set()
    if made.get("tuned", {}).get("manifest_digest") == manifest.digest:
        seen = {"val"}
    if made.get("manifest_digest") == manifest.digest:
        everything = "folds" in made or made.get("config", {}).get("validation", {}).get("learn_from_test", False)
        seen = {"train", "val", "test"} if everything else {"train", "val"}
    return sum(case.split in seen for case in cases)


@dataclass(order=True)
class _Bad:
    """An image to show; `badness` is minus its score."""

    badness: float
    case: str
    image: Image = field(compare=False)
    truth: Labels = field(compare=False)
    predicted: Labels = field(compare=False)


@dataclass
class Scored:
    """Every image's counts, what they took, and the few images to show."""

    cost: Cost = field(default_factory=Cost)
    per_image: list[CaseScore] = field(default_factory=list)
    worst: list[_Bad] = field(default_factory=list)

    def add(self, one: CaseScore, image: Image, truth: Labels, predicted: Labels) -> None:
        self.per_image.append(one)
        keep = heapq.heappush if len(self.worst) < PICTURES else heapq.heappushpop
        keep(self.worst, _Bad(-one.scores.dsb_score, one.case, image, truth, predicted))

    @property
    def fields(self) -> dict[str, float]:
        good = [one.scores.dsb_score for one in self.per_image if not one.error]
        return {"map": sum(good) / len(good), "failed": len(self.per_image) - len(good)} if good else {}


def _load(config: EvaluateConfig) -> "Segmenter":
    from pipeline.inference.direct import build_segmenter
    from pipeline.model.bundle import load_model

    model = load_model(find_any_model(config.model))
    KnownSize.of(model.record.model_dump()).check(config)
    segmenter: Segmenter = build_segmenter(model, config.device, config.engine, config.threads, skip=config.skip)
    return segmenter


def _open(case: Case, options: ImageOptions) -> "FileSource":
    opened = open_image(case.image, pages=case.pages, series=options.series, time=options.time)
    return opened.told(options.pixel_size)


def _masks(config: EvaluateConfig) -> Literal["instances", "classes"]:
    """What the label images of a folder are, as the model's target says; a manifest says it itself."""
    if not config.data.is_dir():
        return "instances"
    from pipeline.model.bundle import load_model

    return masks_of(load_model(find_any_model(config.model)).record.target)


def evaluate_case(case: Case, segmenter: "Segmenter", options: ImageOptions, out: Path, scored: Scored) -> None:
    """One image: labels written, counts kept; what is wrong with it becomes its row."""
    path = out / "labels" / f"{case.id}{label_suffix(case.relative)}"
    try:
        truth: Truth = read_truth(case)
        opened = _open(case, options)
        answer = scored.cost.segment(segmenter, opened, options)
        counts = match(truth.labels, answer.labels)
    except MasklineError as error:
        remove(path)
        scored.per_image.append(failed_case(case, error))
        return
    write_labels(path, answer.labels, answer.image.geometry, case.image, opened.multiscale)
    sure = answer.confidence.image if answer.confidence else None
    one = CaseScore(case.id, counts, truth.modality, case.group, confidence=sure)
    scored.add(one, answer.image, truth.labels, answer.labels)


def write_evaluation(out: Path, scores: Mapping[str, Any], scored: Scored) -> None:
    """`scores.json`, `scores.csv`, `counts.json`, `scores.txt` and `worst/` of an evaluation, below its folder."""
    from pipeline.results.pictures import png, training_sample

    write_scores(out, scores, scored.per_image)
    atomic_write(out / "scores.txt", (score_table(scores) + "\n").encode())
    for old in sorted((out / "worst").glob("[0-9][0-9]_*.png")):
        old.unlink()
    for number, bad in enumerate(sorted(scored.worst, reverse=True), start=1):
        name = bad.case.replace("/", "_")[-80:]
        picture = png(training_sample(bad.image, bad.truth, bad.predicted))
        atomic_write(out / "worst" / f"{number:02d}_{name}.png", picture)


@contextmanager
def _tracked(config: EvaluateConfig, manifest: Manifest) -> Iterator[Run | None]:
    if not config.track:
        yield None
        return
    from pipeline.results.tracking import open_tracking

    tags = {"maskline.job": "evaluate", "maskline.manifest_digest": manifest.digest}
    model = "/".join(Path(config.model).parts[-2:])  # a training's folder names its model, `model` does not
    name = f"evaluate {model} on {config.data.stem}"
    with open_tracking("maskline-evaluation").start(name, config.model_dump(mode="json"), tags) as run:
        yield run


def publish_evaluation(run: Run, out: Path, scores: Mapping[str, Any]) -> None:
    """The numbers overall and by modality, and the files that people look at."""
    run.set_tags({"maskline.model_digest": scores["model_digest"]})
    numbers = _numbers(scores) | cost_numbers(scores)
    run.log_metrics(numbers | {"seconds": scores["seconds"], "failed": scores["failed"]})
    for modality, part in scores["by_modality"].items():
        run.log_metrics({f"{modality}/{name}": value for name, value in _numbers(part, intervals=False).items()})
    for name in (JSON, CSV, COUNTS, "scores.txt"):
        run.log_file(out / name)
    run.log_file(out / "worst", "worst")


def _numbers(part: Mapping[str, Any], intervals: bool = True) -> dict[str, float]:
    sides: Sequence[str] = ("", "_low", "_high") if intervals else ("",)
    names = [f"{name}{side}" for name in NAMES for side in sides] + ["images", "objects_true", "objects_predicted"]
    return {name: float(part[name]) for name in names if part[name] is not None}
