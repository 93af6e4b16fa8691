"""The whole training job: from a folder of masks to a model that segments, registered and resumable."""

import csv
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import tifffile

from pipeline.config import (
    CropSampling,
    EarlyStopping,
    LastFraction,
    ManifestValidation,
    NucleiUNet,
    RandomFraction,
    ThreeClassTarget,
    TrainConfig,
)
from pipeline.data.manifest import load_data
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import TrainingError
from pipeline.model.bundle import ModelRecord, ThresholdRecord, load_model, save_model
from pipeline.runs import train_model as job
from pipeline.runs.keep_model import FEW, kept_from
from pipeline.types import Event, unwatched

CONFIG = TrainConfig(
    name="tiny",
    network=NucleiUNet(filters=(4, 8, 8)),
    sampling=CropSampling(size=64, per_epoch=8),
    batch_size=4,
    epochs=2,
    stopping=EarlyStopping(patience=9, minimum_epochs=0),
    ema=0.5,
    sample_pictures=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    simulate_dataset(folder, images=8, mosaic=False, broken=False)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_folder_of_masks_becomes_a_model(data: Path, tmp_path: Path) -> None:
    """Model, curves, pictures and record lie in the folder; the record names data, config and how it ended."""
    seen: list[Event] = []
    trained = job.train_model(CONFIG, data, tmp_path / "run", track=False, watch=seen.append, device="cpu")
    model = load_model(trained.model)
    assert model.digest == trained.digest and trained.ended == "all epochs done"
    assert model.record.provenance["manifest_digest"] == load_data(data).digest
    assert model.record.provenance["config"] == CONFIG.model_dump(mode="json")
    assert model.record.halo is not None and model.record.halo <= 128 and model.record.diameter
    rows = list(csv.DictReader((tmp_path / "run/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0"] and float(rows[0]["train_loss"]) > 0
    shown = min(2, len(load_data(data).split("val")))
    assert shown and len(list((tmp_path / "run/samples").glob("*.png"))) == shown
    assert json.loads((tmp_path / "run/train.json").read_text())["numbers"]["epochs"] == 2
    assert {event.stage for event in seen} >= {"load", "train", "tune"}
    assert any("model in" in line for line in trained.lines())


@pytest.mark.parametrize(("sides", "known"), [((0.5, 0.504), 0.5), ((0.5, 0.51), None), ((0.5, None), None)])
def test_the_pixel_size_of_all_images_is_the_model_s(data: Path, tmp_path: Path, sides, known) -> None:
    """Where they state the same within 1 %; not where they differ, or one of them says nothing."""
    shutil.copytree(data, tmp_path / "data")
    for number, path in enumerate(sorted((tmp_path / "data").glob("**/images/*.png"))):
        side = sides[number % 2]
        stated = {"resolution": (1e4 / side,) * 2, "resolutionunit": "CENTIMETER"} if side else {}
        tifffile.imwrite(path.with_suffix(".tif"), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), **stated)
        path.unlink()
    config = CONFIG.model_copy(update={"epochs": 1, "sample_pictures": 0})
    trained = job.train_model(config, tmp_path / "data", tmp_path / "run", track=False, device="cpu")
    assert load_model(trained.model).record.pixel_size == (pytest.approx(known, rel=0.01) if known else None)


def test_a_second_training_needs_resume_and_resume_goes_on(data: Path, tmp_path: Path) -> None:
    """A begun training is not overwritten; --resume with all epochs done gives the same model again."""
    first = job.train_model(CONFIG, data, tmp_path / "run", track=False, device="cpu")
    with pytest.raises(TrainingError, match="--resume"):
        job.train_model(CONFIG, data, tmp_path / "run", track=False, device="cpu")
    weights = (first.model / "weights.safetensors").read_bytes()
    again = job.train_model(CONFIG, data, tmp_path / "run", track=False, device="cpu", resume=True)
    assert (again.model / "weights.safetensors").read_bytes() == weights


def test_from_another_model_starts_with_its_weights(data: Path, tmp_path: Path) -> None:
    """--from takes a model of the same network and refuses another."""
    first = job.train_model(CONFIG, data, tmp_path / "a", track=False, device="cpu")
    going = CONFIG.model_copy(update={"epochs": 1})
    second = job.train_model(going, data, tmp_path / "b", track=False, device="cpu", start=str(first.model))
    assert second.history[0]["train_loss"] < first.history[0]["train_loss"]
    other = CONFIG.model_copy(update={"network": NucleiUNet(filters=(4, 8, 9))})
    with pytest.raises(TrainingError, match="another network"):
        job.train_model(other, data, tmp_path / "c", track=False, device="cpu", start=str(first.model))


def test_few_validation_images_choose_no_thresholds(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taught from another model with one image to validate on: its thresholds and cut stay, and the output says so."""
    monkeypatch.setattr(job, "log", logging.getLogger("told"))  # a server's set-up may have silenced ours
    short = CONFIG.model_copy(update={"epochs": 1})
    training, _ = job._begin(short, load_data(data), None, False, None, "cpu", tmp_path / "none", unwatched)
    chosen = ThresholdRecord(foreground=0.37, seed=0.44, border=0.8, minimum_area=7, minimum_seed=2)
    record = ModelRecord(
        name="first",
        network=short.network,
        prepare=short.prepare,
        target=short.target,
        thresholds=chosen,
        outputs=("foreground", "border", "distance"),
        stride=4,
        halo=32,
        confidence=0.123,
    )
    save_model(tmp_path / "first" / "model", training.network, record)
    start = str(tmp_path / "first")  # the training's folder will do
    with caplog.at_level(logging.WARNING, "told"):
        trained = job.train_model(short, data, tmp_path / "mine", track=False, device="cpu", start=start)
    assert len(load_data(data).split("val")) < FEW
    made = load_model(trained.model).record
    assert made.thresholds == chosen and made.confidence == 0.123
    assert any("those of first" in line for line in trained.lines())
    assert made.provenance["val_map"] == round(trained.numbers["val_map_tuned"], 6)
    assert "kept for testing" in caplog.text and "--fractions 0.7 0.3 0" in caplog.text


@pytest.mark.parametrize(("images", "same", "kept"), [(FEW - 1, True, True), (FEW, True, False), (1, False, False)])
def test_thresholds_are_kept_only_where_they_mean_the_same(images: int, same: bool, kept: bool) -> None:
    """Enough images choose their own; so do those of another target, and a training from scratch."""
    base = SimpleNamespace(target=CONFIG.target if same else ThreeClassTarget())
    training = SimpleNamespace(base=base, config=CONFIG)
    assert kept_from(training, [None] * images) is (base if kept else None)  # type: ignore[arg-type,list-item]
    training.base = None
    assert kept_from(training, [None] * images) is None  # type: ignore[arg-type,list-item]


def test_ctrl_c_keeps_the_best_so_far(data: Path, tmp_path: Path) -> None:
    """After the first epoch Ctrl-C gives a model; before, an error that says why there is none."""

    def stop_in(epoch: int):  # type: ignore[no-untyped-def]
        def watch(event: Event) -> None:
            if event.stage == "train" and event.fields["epoch"] == epoch:
                raise KeyboardInterrupt

        return watch

    trained = job.train_model(CONFIG, data, tmp_path / "a", track=False, device="cpu", watch=stop_in(2))
    assert trained.ended == "stopped by the user" and len(trained.history) == 1
    with pytest.raises(TrainingError, match=r"no finished epoch.*begin again"):
        job.train_model(CONFIG, data, tmp_path / "b", track=False, device="cpu", watch=stop_in(1))


def test_the_guide_s_validation_is_the_last_part(data: Path) -> None:
    """The last tenth in order, and never a test image."""
    manifest = load_data(data)
    config = CONFIG.model_copy(update={"validation": LastFraction(fraction=0.25)})
    learn, check = job.split_for_training(manifest, config)
    everything = manifest.split("train") + manifest.split("val")
    assert learn + check == everything and len(check) == round(len(everything) * 0.25)
    assert not {case.id for case in manifest.split("test")} & {case.id for case in everything}


def test_test_images_are_learned_from_where_the_config_says_so(data: Path) -> None:
    """They join the training images; what validates stays what it was."""
    manifest = load_data(data)
    config = CONFIG.model_copy(update={"validation": ManifestValidation(learn_from_test=True)})
    learn, check = job.split_for_training(manifest, config)
    assert manifest.split("test") and learn == manifest.split("train") + manifest.split("test")
    assert check == manifest.split("val")


def test_a_drawn_validation_set_is_the_seed_s(data: Path) -> None:
    """Another seed draws other images; none is lost, none is on both sides, none is a test image."""
    manifest = load_data(data)
    drawn = [
        job.split_for_training(
            manifest, CONFIG.model_copy(update={"validation": RandomFraction(fraction=0.25, seed=seed)})
        )
        for seed in (42, 42, 43)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    everything = manifest.split("train") + manifest.split("val")
    learn, check = drawn[0]
    assert {case.id for case in learn + check} == {case.id for case in everything}
    assert len(learn) + len(check) == len(everything) and len(check) == round(len(everything) * 0.25)


def test_nothing_to_train_on_is_said(tmp_path: Path, data: Path) -> None:
    """One image cannot be training and validation at once."""
    manifest = load_data(data)
    alone = type(manifest)(manifest.split("train")[:1], manifest.root, manifest.layout, None)
    with pytest.raises(TrainingError, match="0 to validate"):
        job.split_for_training(alone, CONFIG)


@pytest.mark.slow
def test_a_tracked_training_is_registered(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In MLflow: a version of the model without pickle, curves, pictures; nothing in the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trained = job.train_model(CONFIG, data, tmp_path / "run", device="cpu")
    assert trained.version == "1" and not list((tmp_path / "here").iterdir())
    from pipeline.results.tracking import open_tracking

    kept = open_tracking("maskline-training").resolve("tiny", "1")
    assert load_model(kept).digest == trained.digest
    assert not [path for path in kept.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
