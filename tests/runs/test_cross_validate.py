"""Folds: every image is scored by the model that never saw it, and the models answer as one."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from pipeline.config import CropSampling, EarlyStopping, ManifestValidation, NucleiUNet, TrainConfig
from pipeline.data.images import open_image
from pipeline.data.manifest import load_data
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import ConfigError, TrainingError
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import load_model
from pipeline.runs.cross_validate import CrossValidated, FoldsStopped, cross_validate, join_models
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


def test_folds_that_learn_from_what_they_are_scored_on_are_refused(data: Path, tmp_path: Path) -> None:
    """The test images of a fold's manifest are the fold."""
    config = CONFIG.model_copy(update={"validation": ManifestValidation(learn_from_test=True)})
    with pytest.raises(ConfigError, match="learn_from_test"):
        cross_validate(config, data, tmp_path, 2, track=False)


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


@pytest.mark.slow
def test_the_model_is_the_mean_of_the_folds(crossed, data: Path) -> None:
    """Loaded from disk, its logits are the mean of the folds' (to the precision that weights are stored in)."""
    result, _ = crossed
    image = open_image(load_data(data).split("all")[0].image)
    models = [load_model(path) for path in (result.out / "fold-0/model", result.out / "fold-1/model", result.model)]
    first, second, mean = (Segmenter(model, "cpu").segment(image).probabilities for model in models)
    np.testing.assert_allclose(logit(mean), (logit(first) + logit(second)) / 2, atol=0.02)
    assert models[2].record.halo == models[0].record.halo and models[2].digest == result.digest


@pytest.mark.slow
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


@pytest.mark.slow
def test_ctrl_c_stops_all_folds_and_resume_goes_on(data: Path, tmp_path: Path) -> None:
    """Ctrl-C in the first fold's second epoch: no other fold begins, what is done is said, --resume makes the rest."""
    config, events = CONFIG.model_copy(update={"epochs": 2, "tune_thresholds": False}), []

    def watch(event: Event) -> None:
        events.append(event.stage)
        if event.stage == "fold 1 of 2: train" and event.fields["epoch"] == 2:
            raise KeyboardInterrupt

    stopped = cross_validate(config, data, tmp_path, 2, track=False, device="cpu", watch=watch)
    assert isinstance(stopped, FoldsStopped) and stopped.done == 0 and stopped.model == tmp_path / "fold-0" / "model"
    assert not any(stage.startswith(("fold 2", "evaluate")) for stage in events)
    assert not (tmp_path / "fold-1").exists() and not (tmp_path / "model").exists()
    assert "in fold 1 of 2" in stopped.lines()[0] and "--resume" in stopped.lines()[-1]
    whole = cross_validate(config, data, tmp_path, 2, resume=True, track=False, device="cpu")
    assert isinstance(whole, CrossValidated) and load_model(tmp_path / "fold-0/model").record.provenance["epochs"] == 2


@pytest.mark.parametrize(("sizes", "wanted"), [((0.5, 0.5), 0.5), ((0.5, None), None), ((0.5, 0.25), None)])
def test_an_ensemble_has_the_pixel_size_that_all_its_members_have(crossed, tmp_path: Path, sizes, wanted) -> None:
    """Of members that know none, or another, it has none."""
    one = load_model(crossed[0].out / "fold-0/model")
    members = [
        replace(one, network=copy.deepcopy(one.network), record=one.record.model_copy(update={"pixel_size": size}))
        for size in sizes
    ]
    join_models(members, tmp_path / "joined", "x", "")
    assert load_model(tmp_path / "joined").record.pixel_size == wanted


def test_an_ensemble_has_the_medians_of_its_members(crossed, tmp_path: Path) -> None:
    """Thresholds, diameter and the cut under which images are doubtful; a member that has no cut does not count."""
    model = load_model(crossed[0].out / "fold-0/model")

    def member(cut: float | None, diameter: float, foreground: float):
        thresholds = model.record.thresholds.model_copy(update={"foreground": foreground})
        changes = {"confidence": cut, "diameter": diameter, "thresholds": thresholds}
        return replace(model, network=copy.deepcopy(model.network), record=model.record.model_copy(update=changes))

    join_models([member(0.9, 10, 0.3), member(0.2, 30, 0.7), member(0.3, 20, 0.4)], tmp_path / "three", "x", "")
    record = load_model(tmp_path / "three").record
    assert (record.confidence, record.diameter, record.thresholds.foreground) == (0.3, 20, 0.4)
    join_models([member(None, 10, 0.3), member(0.2, 30, 0.7)], tmp_path / "two", "x", "")
    assert load_model(tmp_path / "two").record.confidence == 0.2
