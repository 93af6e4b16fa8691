"""Train a model from labelled images, keep it, show it: the whole job."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import unet
from pipeline.config import ClassesTarget, LastFraction, ManifestValidation, RandomFraction, TrainConfig, masks_of
from pipeline.data.manifest import Manifest, load_data
from pipeline.data.palettes import read_palette
from pipeline.errors import TrainingError
from pipeline.inference.engines import choose_device
from pipeline.model.bundle import (
    TrainedModel,
    load_model,
)
from pipeline.results.run import Run
from pipeline.runs.find_model import find_any_model
from pipeline.runs.keep_model import (
    FEW,
    final_numbers,
    keep_model,
    kept_from,
    publish_training,
    sample_pictures,
    write_record,
)
from pipeline.runs.show_training import Film, write_first_pictures
from pipeline.training.dataset import load_examples
from pipeline.training.train import EpochResult, Training, epochs_done, resume_training, run_training, start_training
from pipeline.training.validate import Answer, answers
from pipeline.types import Case, Watch, unwatched

log = logging.getLogger("maskline.training")

FEW_IMAGES = 20  # labelled images up to which each one counts
STOPPED = "stopped by the user"  # how a training ended that Ctrl-C ended


@dataclass(frozen=True)
class Trained:
    """What a training left: the model's folder and digest, its numbers, and where to look at its run."""

    model: Path
    digest: str
    numbers: Mapping[str, float]
    ended: str
    run_url: str = ""
    version: str = ""
    history: Sequence[Mapping[str, float]] = field(default=())
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A few lines for a person."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in self.numbers.items())
        seen = [f"registered as version {self.version}"] if self.version else []
        return [
            f"model in {self.model} ({self.ended})",
            numbers,
            *self.notes,
            *seen,
            *([f"run: {self.run_url}"] if self.run_url else []),
        ]


def split_for_training(manifest: Manifest, config: TrainConfig) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Cases to learn from and cases to validate on; test cases are not among them but where the config says so."""
    learn, check = manifest.split("train"), manifest.split("val")
    if isinstance(config.validation, ManifestValidation) and config.validation.learn_from_test:
        learn += manifest.split("test")
    if isinstance(config.validation, LastFraction | RandomFraction):
        everything = learn + check
        if isinstance(config.validation, RandomFraction):
            order = np.random.default_rng(config.validation.seed).permutation(len(everything))
            everything = tuple(everything[number] for number in order)
        kept = round(len(everything) * (1 - config.validation.fraction))
        learn, check = everything[:kept], everything[kept:]
    if not learn or not check:
        raise TrainingError(
            "data",
            f"{len(learn)} images to train on and {len(check)} to validate on",
            "at least one of each",
            "give more labelled images, or set the split column of the manifest",
        )
    return learn, check


def with_palette(config: TrainConfig, cases: Sequence[Case]) -> TrainConfig:
    """The config with the colours of the first label image, where its target has none and the image has a palette."""
    target, masks = config.target, cases[0].masks
    if (
        not isinstance(target, ClassesTarget)
        or target.palette
        or target.merge
        or target.trimap is not None
        or not masks
    ):
        return config
    colours = read_palette(masks[0], len(target.names))
    return config.model_copy(update={"target": target.model_copy(update={"palette": colours})})


def _identity(config: TrainConfig, manifest: Manifest, start: TrainedModel | None) -> str:
    parts = [config.model_dump_json(), manifest.digest, start.digest if start else ""]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _warn_of_unused(manifest: Manifest, data: Path, config: TrainConfig) -> None:
    """Say so where a folder of a few labelled images has some kept out of training, and how to use them."""
    learned = {case.id for part in split_for_training(manifest, config) for case in part}
    few, kept = len(manifest.split("all")), len({case.id for case in manifest.split("test")} - learned)
    if data.is_dir() and few <= FEW_IMAGES and kept:
        classes = " --masks classes" * (masks_of(config.target) == "classes")
        again = f"maskline ingest {data} --out MANIFEST.csv --fractions 0.7 0.3 0{classes}"
        log.warning("%d of %d images are kept for testing; to learn from them too: %s", kept, few, again)


def _thresholds_kept(training: Training, found: Sequence[Answer]) -> tuple[str, ...]:
    """What is to be said of thresholds that were not chosen on the validation images."""
    base = kept_from(training, found)
    if base is None:
        return ()
    few = "1 validation image is" if len(found) == 1 else f"{len(found)} validation images are"
    return (
        f"thresholds and doubtful cut are those of {base.name}: {few} too few to choose others by (at least {FEW})",
    )


def _how_it_ended(training: Training, interrupted: bool) -> str:
    if interrupted:
        return STOPPED
    if epochs_done(training):
        return "all epochs done"
    if training.budget is not None and training.elapsed >= 0.9 * training.budget:
        return "time budget used up"
    return f"no better for {training.config.plan[training.progress.phase].patience} epochs"


def _epochs(results: Iterator[EpochResult], run: Run | None, film: Film | None) -> bool:
    """Log and film every epoch as it comes; True where Ctrl-C ended it."""
    try:
        for result in results:
            if film is not None:
                film.take()
            if run is not None:
                run.log_metrics({**result.metrics, "best": float(result.better)}, result.epoch)
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def _tracked(
    config: TrainConfig, data: Path, manifest: Manifest, track: bool, resumed: bool
) -> Iterator[tuple[Any, Run | None]]:
    if not track:
        yield None, None
        return
    from pipeline.results.tracking import open_tracking

    tracking = open_tracking("maskline-training")
    params = {**config.model_dump(mode="json"), "data": str(data)}
    tags = {"maskline.job": "train", "maskline.manifest_digest": manifest.digest, "maskline.resumed": str(resumed)}
    with tracking.start(f"train {config.name}", params, tags) as run:
        yield tracking, run


def _begin(
    config: TrainConfig,
    manifest: Manifest,
    start: str | None,
    resume: bool,
    budget: float | None,
    device: str,
    folder: Path,
    watch: Watch,
) -> tuple[Training, str]:
    model = load_model(find_any_model(start)) if start else None
    if model is not None and model.record.network != config.network:
        raise TrainingError(
            f"--from {start}", "another network", "the config's", "train it with the config it was made with"
        )
    weights = dict(model.network.state_dict()) if model else None
    training = start_training(config, choose_device(device), weights=weights, budget=budget, watch=watch)
    if model is not None:
        training.origin, training.base = model.digest, model.record
    identity = _identity(config, manifest, model)
    if resume:
        resume_training(training, folder, identity)
    elif (folder / "checkpoint.json").exists():
        raise TrainingError(
            str(folder), "a training that was begun", "an empty --out", "add --resume, or use another --out"
        )
    return training, identity


def train_model(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    start: str | None = None,
    time_budget: float | None = None,
    device: str = "auto",
    track: bool = True,
    watch: Watch = unwatched,
) -> Trained:
    """Train on a manifest's train split, validate on its val split, write the model to `out/model`.

    Parameters
    ----------
    data : manifest CSV or labelled folder.
    out : holds model/ (the result), checkpoint/ (what --resume needs), history.csv, train.json, pictures of random
        cases before (data/) and of validation images after (samples/), and with `film` epochs.gif.
    resume : go on from `out/checkpoint`; bit for bit the undisturbed training on the CPU without a time budget.
    start : a model whose weights to begin with (same network): shipped:NAME, a registered name, or a folder.
    time_budget : seconds of training, validation included; tuning and writing come on top.

    Ctrl-C stops after the current step and keeps the best model of the epochs that were finished. Raises TrainingError
    where nothing can be trained, no epoch was finished, or the loss is not finite.
    """
    manifest = load_data(data, masks_of(config.target))
    _warn_of_unused(manifest, data, config)
    learn, check = split_for_training(manifest, config)
    config = with_palette(config, learn)
    out.mkdir(parents=True, exist_ok=True)
    training, identity = _begin(config, manifest, start, resume, time_budget, device, out / "checkpoint", watch)
    stride = unet.stride_of(training.network)
    with _tracked(config, data, manifest, track, resume) as (tracking, run):
        examples = load_examples(learn, config, stride, watch)
        validation = load_examples(check, config, stride, watch)
        first = write_first_pictures(examples, validation, config, out)
        if run is not None and first is not None:
            run.log_file(first, "data")
        film = Film(training, validation[0], out) if config.film else None
        results = run_training(training, examples, validation, out / "checkpoint", identity, watch)
        interrupted = _epochs(results, run, film)
        if not training.best:
            again = "begin again; with --folds, --resume keeps the folds that are done"
            hint = again if interrupted else "give it more time, or smaller epochs"
            raise TrainingError("training", "no finished epoch", "at least one", hint)
        training.average.load_state_dict(training.best)
        found = list(answers(training.average, validation, config, training.loss, training.device))
        ended = _how_it_ended(training, interrupted)
        digest, thresholds, tuned = keep_model(training, found, manifest, examples, out, ended, watch)
        pictures = list(sample_pictures(found, training, thresholds))
        numbers = final_numbers(training, tuned)
        write_record(out, training.progress.history, pictures, numbers, manifest, ended)
        version = publish_training(tracking, run, out, numbers, config.name) if run is not None else ""
        url = run.url if run is not None else ""
    notes = _thresholds_kept(training, found)
    return Trained(out / "model", digest, numbers, ended, url, version, training.progress.history, notes)
