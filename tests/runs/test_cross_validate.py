"""Folds: every image is scored by the model that never saw it, and the models answer as one."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from pipeline.config import CropSampling, EarlyStopping, NucleiUNet, TrainConfig
from pipeline.data.images import open_image
from pipeline.data.manifest import load_data
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import TrainingError
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import load_model
from pipeline.runs.cross_validate import cross_validate, join_models
from pipeline.runs.evaluate_model import score_folder
from pipeline.types import Event

CONFIG = TrainConfig(
    name="tiny",
    network=NucleiUNet(filters=(4, 8, 8)),
    sampling=CropSampling(size=64, per_epoch=8),
    batch_size=4,
    epochs=1,
    stopping=EarlyStopping(patience=9, minimum_epochs=0),
    ema=0.5,
    sample_pictures=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    simulate_dataset(folder, images=6, mosaic=False, broken=False)
    return folder


@pytest.fixture(scope="module")
def crossed(data: Path, tmp_path_factory: pytest.TempPathFactory):
    events: list[Event] = []
    out = tmp_path_factory.mktemp("crossed")
    return cross_validate(CONFIG, data, out, 2, track=False, device="cpu", watch=events.append), events


def test_every_image_is_scored_once_out_of_fold(crossed, data: Path) -> None:
    """As many scored as there are labelled images; the label files give the same numbers again."""
    result, events = crossed
    manifest = load_data(data)
    assert result.scores["images"] == len(manifest.split("all")) and result.scores["failed"] == 0
    again = score_folder(result.out, data)
    assert again["map"] == result.scores["map"] and again["aji"] == result.scores["aji"]
    assert json.loads((result.out / "scores.json").read_text())["split"] == "out of fold"
    assert {event.stage for event in events} >= {"fold 1 of 2: train", "fold 2 of 2: train", "evaluate"}
    assert any("the mean of all folds" in line for line in result.lines())


def test_no_fold_learns_what_it_is_tested_on(crossed) -> None:
    """The folds' own manifests part the images."""
    result, _ = crossed
    tested = []
    for fold in ("fold-0", "fold-1"):
        manifest = load_data(result.out / fold / "manifest.csv")
        ids = {name: {c.id for c in manifest.split(name)} for name in ("train", "val", "test")}
        assert ids["train"] and ids["val"] and not ids["test"] & (ids["train"] | ids["val"])
        tested.append(ids["test"])
    assert not tested[0] & tested[1]


def test_the_model_is_the_mean_of_the_folds(crossed, data: Path) -> None:
    """Loaded from disk, its logits are the mean of the folds' (to the precision that weights are stored in)."""
    result, _ = crossed
    image = open_image(load_data(data).split("all")[0].image)
    models = [load_model(path) for path in (result.out / "fold-0/model", result.out / "fold-1/model", result.model)]
    first, second, mean = (Segmenter(model, "cpu").segment(image).probabilities for model in models)
    np.testing.assert_allclose(logit(mean), (logit(first) + logit(second)) / 2, atol=0.02)
    assert models[2].record.halo == models[0].record.halo and models[2].digest == result.digest


def test_resume_keeps_finished_folds(crossed, data: Path) -> None:
    """With --resume nothing is trained again; without, a begun training is not overwritten."""
    result, _ = crossed
    weights = [p.stat().st_mtime_ns for p in sorted(result.out.glob("fold-*/model/weights.safetensors"))]
    events: list[Event] = []
    again = cross_validate(CONFIG, data, result.out, 2, resume=True, track=False, device="cpu", watch=events.append)
    assert weights == [p.stat().st_mtime_ns for p in sorted(result.out.glob("fold-*/model/weights.safetensors"))]
    assert again.scores["map"] == result.scores["map"] and {event.stage for event in events} == {"evaluate"}
    with pytest.raises(TrainingError, match="--resume"):
        cross_validate(CONFIG, data, result.out, 2, track=False, device="cpu")
    first = str(result.out / "fold-0" / "model")
    with pytest.raises(TrainingError, match="another config"):  # other weights to begin with: not the same training
        cross_validate(CONFIG, data, result.out, 2, resume=True, start=first, track=False, device="cpu")


def test_other_networks_do_not_join(crossed, tmp_path: Path) -> None:
    """An ensemble has one architecture, and no ensemble within."""
    result, _ = crossed
    single, joined = load_model(result.out / "fold-0/model"), load_model(result.model)
    with pytest.raises(TrainingError, match="networks that differ"):
        join_models([single, joined], tmp_path / "x", "x", "")
