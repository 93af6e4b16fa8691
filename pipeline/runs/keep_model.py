"""What a training leaves behind: the model with its record, curves, sample pictures, and its page in MLflow."""

import csv
import io
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ClassesTarget, PatchSampling, Target, TrainConfig
from pipeline.data.files import atomic_write
from pipeline.data.manifest import Manifest
from pipeline.model.bundle import ModelRecord, VolumeRecord, describe_network, record_thresholds, save_model
from pipeline.model.targets import Thresholds, channel_names, decode
from pipeline.model.volumes import describe_volume_network
from pipeline.results.run import Run
from pipeline.runs.show_training import GIF, show_example
from pipeline.scoring.confidence import confidence
from pipeline.scoring.metrics import match
from pipeline.scoring.ranking import doubtful_below
from pipeline.training.dataset import Example
from pipeline.training.train import Training
from pipeline.training.validate import Answer, score_at, score_name, tune_thresholds
from pipeline.types import FORMAT_VERSION, Watch

FEW = 4  # validation images; with fewer, thresholds and doubtful cut are not chosen on them where a model has its own
ALIKE = 1.01  # times the smallest that the largest pixel size of a training may be to be the model's


def _provenance(
    config: TrainConfig, manifest: Manifest, training: Training, ended: str, tuned: float
) -> dict[str, Any]:
    """Where the model comes from; `models promote` compares the score (tuned, where thresholds were tuned)."""
    score = score_name(config.target)
    untuned = training.progress.history[training.progress.best_epoch][score]
    return {
        "config": config.model_dump(mode="json"),
        "manifest_digest": manifest.digest,
        "origin": training.origin,
        "pretrained": training.pretrained,
        score: round(tuned if np.isfinite(tuned) else untuned, 6),
        "epochs": training.progress.epoch,
        "best_epoch": training.progress.best_epoch + 1,
        "ended": ended,
        "seconds": round(training.progress.elapsed, 1),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {training.device}",
        "precision": str(training.precision).removeprefix("torch."),
        "torch": torch.__version__,
    }


def _diameter(examples: Sequence[Example]) -> float | None:
    """Median diameter, in px, of circles (in voxels, of balls) as large as the objects."""
    areas = [np.bincount(e.labels.ravel())[1:] for e in examples]
    flat = np.concatenate(areas)
    flat = flat[flat > 0]
    diameters = np.cbrt(6 * flat / np.pi) if examples[0].labels.ndim == 3 else 2 * np.sqrt(flat / np.pi)
    return float(np.median(diameters).round(2)) if flat.size else None


def _pixel_size(examples: Sequence[Example], config: TrainConfig) -> float | None:
    """The pixel size (um) that all training images state, within 1 %; None where they do not, or where images come to
    the network by another measure (a fixed size, a voxel size) or nobody looks at their size (classes).
    """
    if config.prepare.size.kind != "native" or isinstance(config.target, ClassesTarget):
        return None
    stated = [e.geometry.spacing for e in examples if e.geometry is not None and e.geometry.unit == "um"]
    sides = np.array([side for spacing in stated for side in spacing])
    if len(stated) < len(examples) or examples[0].labels.ndim == 3 or sides.max() > ALIKE * sides.min():
        return None
    return float(np.exp(np.log(sides).mean()).round(6))


def choose_doubtful(found: Sequence[Answer], target: Target, thresholds: Thresholds) -> float:
    """The confidence under which validation images came out badly."""
    confidences, ap50 = [], []
    for answer in found:
        labels = decode(answer.probabilities, target, thresholds)
        confidences.append(confidence(labels, answer.probabilities, target).image)
        ap50.append(match(answer.truth, labels).ap(0.5))
    return round(doubtful_below(confidences, ap50), 4)


def _table(history: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]) if history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def _grid(network: torch.nn.Module, config: TrainConfig) -> tuple[int, int | None, VolumeRecord | None]:
    """Stride and halo (the largest, where axes differ), and what a network of volumes has for each axis."""
    if not isinstance(config.sampling, PatchSampling):
        return *describe_network(network, config.prepare.channels), None
    strides, halos = describe_volume_network(network, config.prepare.channels)
    volume = VolumeRecord(strides=strides, halos=halos, window=config.sampling.size)
    return max(strides), max(halos) if halos else None, volume


def kept_from(training: Training, found: Sequence[Answer]) -> ModelRecord | None:
    """The record whose thresholds and doubtful cut a training keeps: that of the model it began with, of the same
    target, where there are fewer than `FEW` validation images to choose others by. None: its own are chosen.
    """
    base, target = training.base, training.config.target
    if base is None or base.target != target or isinstance(target, ClassesTarget) or len(found) >= FEW:
        return None
    return base


def keep_model(
    training: Training,
    found: Sequence[Answer],
    manifest: Manifest,
    examples: Sequence[Example],
    out: Path,
    ended: str,
    watch: Watch,
) -> tuple[str, Thresholds, float]:
    """Tune the thresholds (or keep those of `kept_from`), derive the halo, save network and record; answers digest,
    thresholds and the score with them.
    """
    config, base = training.config, kept_from(training, found)
    thresholds, score = Thresholds(minimum_area=1), float("nan")
    classes = isinstance(config.target, ClassesTarget)
    if config.tune_thresholds and base is not None:
        thresholds = Thresholds(**base.thresholds.model_dump())
        score = score_at(found, config.target, thresholds)
    elif config.tune_thresholds and not classes:
        thresholds, score = tune_thresholds(found, config.target, watch)
    cut = base.confidence if base is not None else None
    if base is None and not classes:
        cut = choose_doubtful(found, config.target, thresholds)
    stride, halo, volume = _grid(training.average.cpu(), config)
    record = ModelRecord(
        name=config.name,
        network=config.network,
        prepare=config.prepare,
        target=config.target,
        thresholds=record_thresholds(thresholds),
        outputs=channel_names(config.target),
        stride=stride,
        halo=halo,
        volume=volume,
        diameter=None if classes else _diameter(examples),
        pixel_size=_pixel_size(examples, config),
        confidence=cut,
        provenance=_provenance(config, manifest, training, ended, score),
    )
    return save_model(out / "model", training.average, record, half=True), thresholds, score


def sample_pictures(found: Sequence[Answer], training: Training, thresholds: Thresholds) -> Iterator[tuple[str, bytes]]:
    """Image, truth and prediction side by side for a few validation images, spread over the modalities."""
    from pipeline.results.pictures import png

    target = training.config.target
    order = sorted(range(len(found)), key=lambda i: (i % 7, found[i].example.case.modality))
    for i in order[: training.config.sample_pictures]:
        predicted = decode(found[i].probabilities, target, thresholds)
        yield f"samples/{i:03d}.png", png(show_example(found[i].example, predicted, training.config))


def final_numbers(training: Training, tuned: float) -> dict[str, float]:
    """The best epoch's validation numbers, and the tuned score."""
    progress = training.progress
    best = progress.history[progress.best_epoch]
    numbers = {name: value for name, value in best.items() if name.startswith("val_") and name != "val_loss"}
    if "val_map" in best:
        numbers["val_map_tuned"] = tuned
    return {**numbers, "epochs": progress.epoch, "minutes": round(progress.elapsed / 60, 1)}


def write_record(
    out: Path,
    history: Sequence[Mapping[str, float]],
    pictures: Sequence[tuple[str, bytes]],
    numbers: Mapping[str, float],
    manifest: Manifest,
    ended: str,
) -> None:
    """Pictures, history.csv and train.json into the training's folder."""
    (out / "samples").mkdir(exist_ok=True)
    for name, picture in pictures:
        atomic_write(out / name, picture)
    atomic_write(out / "history.csv", _table(history))
    record = {
        "format_version": FORMAT_VERSION,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "ended": ended,
        "manifest_digest": manifest.digest,
        "numbers": {name: value if np.isfinite(value) else None for name, value in numbers.items()},
    }
    atomic_write(out / "train.json", (json.dumps(record, indent=2) + "\n").encode())


def publish_training(tracking: Any, run: Run, out: Path, numbers: Mapping[str, float], name: str) -> str:
    """Show in MLflow what people look at, and register the model; only `models promote` moves an alias."""
    run.log_metrics({f"final_{key}": value for key, value in numbers.items()})
    for path in (out / "history.csv", out / "train.json", out / GIF):
        if path.is_file():
            run.log_file(path)
    run.log_file(out / "samples", "samples")
    return str(tracking.register(out / "model", name, run))
