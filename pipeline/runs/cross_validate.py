"""Train one model a fold, score every image by the model that never saw it, and keep the models as one.

`OUT/fold-K/` is a training like any other, with its `manifest.csv`; `OUT/labels`, `scores.json` and `worst/` are the
evaluation of all images out of fold; `OUT/model` is the mean of the fold's networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import unet
from pipeline.config import ClassesTarget, Ensemble, ImageOptions, ManifestValidation, TrainConfig, masks_of
from pipeline.data.manifest import Manifest, load_data, write_manifest
from pipeline.data.splits import fold_cases
from pipeline.errors import ConfigError, ModelError, TrainingError
from pipeline.inference.direct import build_segmenter
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import ThresholdRecord, TrainedModel, load_model, save_model
from pipeline.runs.evaluate_classes import ClassesFound, evaluate_class_case, publish_classes, write_classes
from pipeline.runs.evaluate_model import Scored, evaluate_case, publish_evaluation, score_table, write_evaluation
from pipeline.runs.find_model import find_any_model
from pipeline.runs.keep_model import ALIKE
from pipeline.runs.measure_cost import Cost
from pipeline.runs.train_model import STOPPED, split_for_training, train_model, with_palette
from pipeline.scoring.class_metrics import summarise_classes
from pipeline.scoring.present_classes import class_table
from pipeline.scoring.summary import summarise
from pipeline.types import Event, Watch, unwatched


@dataclass(frozen=True)
class FoldsStopped:
    """Where Ctrl-C ended the folds: those that were trained, and the model of the one that was not to its end."""

    out: Path
    model: Path
    done: int
    folds: int

    def lines(self) -> list[str]:
        """A few lines for a person."""
        return [
            f"stopped by Ctrl-C in fold {self.done + 1} of {self.folds}, whose best model so far is in {self.model}",
            f"{self.done} of {self.folds} folds are done and kept in {self.out}; nothing is scored out of fold yet",
            "go on with the same command and --resume",
        ]


@dataclass(frozen=True)
class CrossValidated:
    """The scores out of fold, and where they and the ensemble lie."""

    out: Path
    model: Path
    digest: str
    scores: dict[str, Any]
    run_url: str = ""
    version: str = ""

    def lines(self) -> list[str]:
        """A table and a few lines for a person."""
        seen = [f"registered as version {self.version}"] if self.version else []
        classes = self.scores.get("kind") == "classes"
        return [
            class_table(self.scores) if classes else score_table(self.scores),
            f"scores out of fold in {self.out / 'scores.json'}",
            f"model in {self.model} (the mean of all folds)",
            *seen,
            *([f"run: {self.run_url}"] if self.run_url else []),
        ]


def cross_validate(
    config: TrainConfig,
    data: Path,
    out: Path,
    folds: int,
    *,
    resume: bool = False,
    start: str | None = None,
    time_budget: float | None = None,
    device: str = "auto",
    track: bool = True,
    watch: Watch = unwatched,
) -> CrossValidated | FoldsStopped:
    """Train `folds` models on grouped, stratified folds of all labelled cases, whatever their split says.

    In each fold 15 % of what it does not test is its validation part: epochs and thresholds are chosen there alone.
    `time_budget` (seconds) is each fold's. With `resume`, finished folds stay as they are and the one that was stopped
    goes on. Ctrl-C ends the fold's training as it ends any, and with it the job: what is done is said. Raises what
    `train_model` raises; ConfigError for an impossible number of folds, or for a config that
    learns from what it is scored on.
    """
    if isinstance(config.validation, ManifestValidation) and config.validation.learn_from_test:
        came, wanted = "true with --folds", "folds that are scored by models that never saw them"
        raise ConfigError("validation.learn_from_test", came, wanted, "leave one of them out")
    manifest = load_data(data, masks_of(config.target))
    parts = [replace(manifest, cases=cases, path=None) for cases in fold_cases(manifest.cases, folds, config.seed)]
    origin = load_model(find_any_model(start)).digest if start else ""
    for number, part in enumerate(parts):
        folder = out / f"fold-{number}"
        own = config.model_copy(update={"name": f"{config.name}-fold-{number}"})
        if not (resume and _finished(folder, own, part, origin)):
            write_manifest(folder / "manifest.csv", part)
            goes_on = resume and (folder / "checkpoint" / "checkpoint.json").exists()
            trained = train_model(
                own,
                folder / "manifest.csv",
                folder,
                resume=goes_on,
                start=start,
                time_budget=time_budget,
                device=device,
                track=track,
                watch=_naming(watch, f"fold {number + 1} of {folds}"),
            )
            if trained.ended == STOPPED:
                return FoldsStopped(out, trained.model, number, folds)
    models = [load_model(out / f"fold-{number}" / "model") for number in range(folds)]
    digest = join_models(models, out / "model", config.name, manifest.digest)
    about = {
        "model": f"{folds} folds of {config.name}",
        "model_digest": digest,
        "data": str(data),
        "manifest_digest": manifest.digest,
        "split": "out of fold",
        "seconds": sum(float(model.record.provenance["seconds"]) for model in models),
    }
    if isinstance(config.target, ClassesTarget):
        mapped = _score_classes(models, parts, out, device, watch)
        scores = summarise_classes(mapped.cases, config.target.names) | about
        write_classes(out, scores, mapped)
    else:
        scored = _score(models, parts, out, device, watch)
        scores = summarise(scored.per_image) | about
        write_evaluation(out, scores, scored)
    url, version = _publish(config, data, out, scores) if track else ("", "")
    return CrossValidated(out, out / "model", digest, scores, url, version)


def _finished(folder: Path, config: TrainConfig, manifest: Manifest, origin: str) -> bool:
    """Whether a fold's model is there and was made of this very config, data and beginning."""
    try:
        made = load_model(folder / "model").record.provenance
    except ModelError:
        return False
    config = with_palette(config, split_for_training(manifest, config)[0])
    wanted = {"config": config.model_dump(mode="json"), "manifest_digest": manifest.digest, "origin": origin}
    return bool(made.get("ended") != STOPPED and all(made.get(k) == v for k, v in wanted.items()))


def _naming(watch: Watch, phase: str) -> Watch:
    def name(event: Event) -> None:
        watch(replace(event, stage=f"{phase}: {event.stage}"))

    return name


def _score(models: Sequence[TrainedModel], parts: Sequence[Manifest], out: Path, device: str, watch: Watch) -> Scored:
    scored, done = Scored(), 0
    total = sum(len(part.split("test")) for part in parts)
    for model, part in zip(models, parts, strict=True):
        segmenter: Segmenter = build_segmenter(model, device)
        for case in part.split("test"):
            evaluate_case(case, segmenter, ImageOptions(), out, scored)
            done += 1
            watch(Event("evaluate", done, total, scored.fields))
    return scored


def _score_classes(
    models: Sequence[TrainedModel], parts: Sequence[Manifest], out: Path, device: str, watch: Watch
) -> ClassesFound:
    found, total = ClassesFound(Cost()), sum(len(part.split("test")) for part in parts)
    for model, part in zip(models, parts, strict=True):
        segmenter = build_segmenter(model, device)
        for case in part.split("test"):
            evaluate_class_case(case, segmenter, ImageOptions(), out, found)
            watch(Event("evaluate", len(found.cases), total))
    return found


def _middle(values: Sequence[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def join_models(models: Sequence[TrainedModel], folder: Path, name: str, manifest_digest: str) -> str:
    """One model that answers with the mean of several of one architecture; thresholds, diameter and the cut under
    which images are doubtful are the members' medians."""
    first = models[0].record
    if isinstance(first.network, Ensemble) or any(model.record.network != first.network for model in models):
        raise TrainingError("folds", "networks that differ", f"{len(models)} of one", "train them by one config")
    values = [model.record.thresholds.model_dump() for model in models]
    middle = {key: type(values[0][key])(median(value[key] for value in values)) for key in values[0]}
    cut, sizes = (
        _middle([model.record.confidence for model in models]),
        [model.record.pixel_size or 0 for model in models],
    )
    record = first.model_copy(
        update={
            "name": name,
            "network": Ensemble(member=first.network, count=len(models)),
            "thresholds": ThresholdRecord(**middle),
            "diameter": _middle([model.record.diameter for model in models]),
            "confidence": None if cut is None else round(cut, 4),
            "pixel_size": _middle(sizes) if 0 < max(sizes) <= ALIKE * min(sizes) else None,
            "provenance": {"manifest_digest": manifest_digest, "folds": [model.record.provenance for model in models]},
        }
    )
    return save_model(folder, unet.Ensemble([model.network for model in models]), record, half=True)


def _publish(config: TrainConfig, data: Path, out: Path, scores: dict[str, Any]) -> tuple[str, str]:
    """The scores out of fold as a run of their own; the ensemble is registered."""
    from pipeline.results.tracking import open_tracking

    tags = {"maskline.job": "cross-validate", "maskline.manifest_digest": scores["manifest_digest"]}
    tracking = open_tracking("maskline-training")
    params = {**config.model_dump(mode="json"), "data": str(data)}
    with tracking.start(f"cross-validate {config.name}", params, tags) as run:
        publish = publish_classes if isinstance(config.target, ClassesTarget) else publish_evaluation
        publish(run, out, scores)
        return run.url, tracking.register(out / "model", config.name, run)
