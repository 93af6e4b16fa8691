"""The whole line once, on made images or on real ones: data, ingest, a short training, unseen images, scores.

Everything lies in one folder: `data/` and `unseen/` (made images), `manifest.csv`, `training/`, `results/`, `scores/`,
and `home/` when the caller has pointed MASKLINE_HOME there.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import EvaluateConfig, IngestConfig, SegmentConfig, TrainConfig
from pipeline.data.files import atomic_write
from pipeline.data.images import split_suffix
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import InputError, OutputError
from pipeline.runs.evaluate_model import evaluate_model
from pipeline.runs.ingest_folder import ingest_folder
from pipeline.runs.segment_folder import SegmentSummary, segment_folder
from pipeline.runs.train_model import train_model
from pipeline.types import FORMAT_VERSION, Case, Watch, unwatched

TRAINING_IMAGES, UNSEEN_IMAGES = 24, 8
MARKER = "maskline-demo.json"  # what is beside it may be made anew
UNSEEN_SEED = 1_000_003  # far from any seed a person types, so that unseen images are unseen
Say = Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """What the demo made: `map` and `ap50` on the images kept out of training, and where everything lies."""

    folder: Path
    segmented: SegmentSummary
    scores: dict[str, Any]

    def lines(self) -> list[str]:
        """Where to look."""
        results = self.folder / "results"
        overall = self.scores.get("overall", self.scores)
        numbers = ", ".join(f"{name} {overall[name]:.3f}" for name in ("map", "ap50", "dice_mean") if name in overall)
        run = self.segmented
        done = f"{run.done:,} images, {run.objects or 0:,} objects, {run.failed:,} broken files"
        return [
            "",
            f"Segmented   {done}",
            f"Scores      {numbers} (on images kept out of the training)",
            "",
            "Where to look:",
            f"  report    {results / 'report.html'}   (open it in a browser)",
            f"  tables    {results / 'images.csv'}, {results / 'objects.parquet'}",
            f"  labels    {results / 'labels'}",
            f"  model     {self.folder / 'training' / 'model'}",
            f"  MLflow    MASKLINE_HOME={self.folder / 'home'} maskline serve",
        ]


def claim(folder: Path) -> None:
    """Make the demo's folder, or find it to be one; raises OutputError for a folder that holds anything else."""
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and any(path.name != "home" for path in folder.iterdir()):
        raise OutputError(
            f"demo in {folder}", "a folder with something else in it", "a new folder", "give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(marker, f'{{"format_version": {FORMAT_VERSION}}}\n'.encode())


def simulate_demo(folder: Path, seed: int) -> tuple[Path, Path]:
    """Made images to learn from, in the Data Science Bowl layout, and others to segment; made anew each time."""
    data, unseen = folder / "data", folder / "unseen"
    for old in (data, unseen):
        shutil.rmtree(old, ignore_errors=True)
    simulate_dataset(data, images=TRAINING_IMAGES, seed=seed)
    simulate_dataset(unseen, images=UNSEEN_IMAGES, seed=seed + UNSEEN_SEED)
    return data, unseen


def copy_images(cases: Sequence[Case], folder: Path) -> Path:
    """The images of `cases`, without their masks, as a folder of their own; raises InputError when there are none."""
    if not cases:
        raise InputError(
            "demo",
            "a data set without test images",
            "some that training does not see",
            "give more images, or other fractions in a manifest",
        )
    shutil.rmtree(folder, ignore_errors=True)
    for case in cases:
        copy = folder / f"{case.id}{split_suffix(case.image.name)[1]}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(case.image, copy)
    return folder


def open_data(data: Path, folder: Path, watch: Watch) -> tuple[Path, Manifest]:
    """The manifest of `data` and its file: as it is when it is a CSV, else by ingesting the folder."""
    if data.is_file():
        return data, read_manifest(data)
    path = folder / "manifest.csv"
    return path, ingest_folder(IngestConfig(folder=data, manifest=path), watch).manifest


def run_demo(
    folder: Path,
    config: TrainConfig,
    *,
    data: Path | None = None,
    time_budget: float = 240.0,
    seed: int = 0,
    say: Say = lambda line: None,
    watch: Watch = unwatched,
) -> Shown:
    """Run every station once, in `folder`. With `data` the unseen images are the test part of that data set."""
    claim(folder)
    unseen: Path | None = None
    if data is None:
        say("1/5  making images")
        data, unseen = simulate_demo(folder, seed)
    say(f"2/5  ingesting {data}")
    path, manifest = open_data(data, folder, watch)
    say(f"3/5  training for at most {time_budget / 60:.0f} min on {len(manifest.split('train'))} images")
    shutil.rmtree(folder / "training", ignore_errors=True)
    model = train_model(config, path, folder / "training", time_budget=time_budget, watch=watch).model
    unseen = unseen or copy_images(manifest.split("test"), folder / "unseen")
    say(f"4/5  segmenting {unseen}")
    settings = SegmentConfig(folder=unseen, out=folder / "results", model=str(model), max_failed_fraction=1.0)
    segmented = segment_folder(settings, watch=watch)
    say("5/5  scoring on the images kept out of the training")
    scores = evaluate_model(EvaluateConfig(data=path, out=folder / "scores", model=str(model)), watch)
    return Shown(folder, segmented, scores)
