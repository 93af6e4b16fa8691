"""Predict, then score: files, numbers, failures and the tracked run."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threshold_segmenter import ThresholdSegmenter

from pipeline.config import EvaluateConfig
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.errors import InputError, ModelError, OutputError, UsageError
from pipeline.runs import evaluate_model as module
from pipeline.runs.compare_runs import compare_runs
from pipeline.runs.evaluate_model import evaluate_model, score_folder
from pipeline.scoring.summary import NAMES
from pipeline.types import Case


class Knows(ThresholdSegmenter):
    """The stand-in, with the digest of the model that it is not."""

    model = SimpleNamespace(digest="0123abcd", network=torch.nn.Linear(3, 2), record=SimpleNamespace(provenance={}))


@pytest.fixture
def segmenter(monkeypatch):
    stand_in = Knows()
    monkeypatch.setattr(module, "_load", lambda config: stand_in)
    return stand_in


def write_case(folder, name, count, seen):
    """`count` objects in the masks, `seen` of them bright enough for the stand-in."""
    import cv2

    labels = np.zeros((32, 40), np.uint8)
    for number in range(count):
        labels[4:10, 2 + 9 * number : 8 + 9 * number] = number + 1
    (folder / name / "masks").mkdir(parents=True)
    (folder / name / "images").mkdir()
    picture = np.where((labels > 0) & (labels <= seen), 200, 10).astype(np.uint8)
    (folder / name / "images" / f"{name}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    for number in range(1, count + 1):
        mask = np.where(labels == number, 255, 0).astype(np.uint8)
        (folder / name / "masks" / f"{number}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A manifest: a, b, c and none to test on, d to train on."""
    from pipeline.data.manifest import Manifest

    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    cases = []
    for name, count, seen in (("a", 1, 1), ("b", 2, 1), ("c", 4, 4), ("d", 3, 3), ("none", 0, 0)):
        write_case(folder, name, count, seen)
        masks = tuple(sorted((folder / name / "masks").iterdir()))
        split = "train" if name == "d" else "test"
        image = folder / name / "images" / f"{name}.png"
        cases.append(Case(name, image, f"{name}/images/{name}.png", masks, "instances", split, "", "fluorescence"))
    write_manifest(tmp_path / "m.csv", Manifest(tuple(cases), folder, "dsb"))
    return tmp_path / "m.csv"


def config(data, **changes):
    return EvaluateConfig(**{"data": data, "out": data.parent / "out", "track": False, "model": "m"} | changes)


def test_a_split_is_predicted_and_scored(data, segmenter):
    """Six of seven objects of the test images; the training image is not touched."""
    scores = evaluate_model(config(data))
    assert segmenter.seen == ["a.png", "b.png", "c.png", "none.png"]
    assert (scores["images"], scores["objects_true"], scores["both_empty"]) == (4, 7, 1)
    assert scores["ap50"] == pytest.approx(6 / 7, abs=1e-6)
    assert scores["map"] == pytest.approx(3.5 / 4)
    assert (scores["model_digest"], scores["split"]) == ("0123abcd", "test")
    assert scores["manifest_digest"] == read_manifest(data).digest


@pytest.mark.parametrize(
    ("split", "validation", "count"),
    [("test", {}, 0), ("all", {}, 1), ("all", {"learn_from_test": True}, 5), ("test", {"learn_from_test": True}, 4)],
)
def test_images_of_the_models_own_training_are_told(data, segmenter, monkeypatch, split, validation, count):
    """How many of the scored images it learned from, in numbers and words; of another manifest nobody knows."""
    made = {"manifest_digest": read_manifest(data).digest, "config": {"validation": validation}}
    monkeypatch.setattr(Knows.model.record, "provenance", made)
    scores = evaluate_model(config(data, split=split))
    said = (data.parent / "out/scores.txt").read_text()
    assert scores["learned_from"] == count
    assert (f"{count} of these images are the training's own" in said) == (count > 0)
    made["manifest_digest"] = "another"
    assert evaluate_model(config(data, split=split))["learned_from"] == 0


def test_the_mean_of_folds_learned_from_all_images(data, segmenter, monkeypatch):
    """Each was held out of one fold alone. A tuned copy chose by the validation images."""
    made = {"manifest_digest": read_manifest(data).digest, "folds": [{}, {}]}
    monkeypatch.setattr(Knows.model.record, "provenance", made)
    assert evaluate_model(config(data))["learned_from"] == 4
    text = data.read_text().replace(",test,", ",val,")
    data.write_text(text)
    made |= {"manifest_digest": "another", "tuned": {"manifest_digest": read_manifest(data).digest}}
    assert evaluate_model(config(data, split="all"))["learned_from"] == 4


def test_the_folder_can_be_scored_again(data, segmenter):
    """labels/ holds what was predicted, the empty image too; `score` gives the same numbers."""
    scores = evaluate_model(config(data))
    out = data.parent / "out"
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["a.tif", "b.tif", "c.tif", "none.tif"]
    again = score_folder(out, data, split="test")
    assert {name: again[name] for name in NAMES} == {name: scores[name] for name in NAMES}
    assert json.loads((out / "scores.json").read_text()) == scores
    assert (out / "scores.csv").read_text().splitlines()[1].startswith("b,fluorescence,")
    assert (out / "scores.txt").read_text().splitlines()[1].startswith("all")


def test_the_worst_images_can_be_looked_at(data, segmenter):
    """A picture each, the worst first, of this evaluation alone."""
    evaluate_model(config(data, split="all"))
    names = sorted(path.name for path in (data.parent / "out/worst").iterdir())
    assert len(names) == 5
    assert names[0] == "01_b.png"
    evaluate_model(config(data, split="train"))
    assert [path.name for path in (data.parent / "out/worst").iterdir()] == ["01_d.png"]


def test_more_images_than_pictures_keep_the_worst(data, segmenter, monkeypatch):
    """Only so many pictures are held, those with the lowest scores."""
    monkeypatch.setattr(module, "PICTURES", 1)
    evaluate_model(config(data))
    assert [path.name for path in (data.parent / "out/worst").iterdir()] == ["01_b.png"]


def test_an_image_that_fails_is_an_error_row(data, segmenter):
    """The others are scored; labels of an earlier evaluation do not stay for it."""
    evaluate_model(config(data))
    broken = data.parent / "data/a/images/a.png"
    broken.write_bytes(broken.read_bytes()[:60])
    scores = evaluate_model(config(data))
    assert (scores["images"], scores["failed"]) == (3, 1)
    assert scores["errors"][0]["case"] == "a"
    assert scores["errors"][0]["hint"]
    assert not (data.parent / "out/labels/a.tif").exists()


def test_progress_is_told_with_the_score_so_far(data, segmenter):
    """One event an image."""
    events = []
    evaluate_model(config(data), events.append)
    assert [(event.done, event.total) for event in events] == [(n, 4) for n in (1, 2, 3, 4)]
    assert events[1].fields["map"] == pytest.approx(0.75)


def test_the_run_is_tracked(data, segmenter, monkeypatch):
    """Settings, digests, numbers overall and by modality, tables and pictures; nothing that is no number."""
    told = SimpleNamespace(metrics={}, files=[], tags={})

    class Run:
        def log_metrics(self, values, step=0):
            told.metrics |= values

        def log_file(self, path, folder=""):
            assert path.exists()
            told.files.append(path.name)

        def set_tags(self, tags):
            told.tags |= tags

    class Tracking:
        @contextmanager
        def start(self, name, params, tags):
            told.name, told.params = name, params
            told.tags |= tags
            yield Run()

    monkeypatch.setattr("pipeline.results.tracking.open_tracking", lambda experiment: Tracking())
    scores = evaluate_model(config(data, track=True))
    assert told.name == "evaluate m on m"
    assert told.params["split"] == "test"
    assert told.tags["maskline.manifest_digest"] == scores["manifest_digest"]
    assert told.tags["maskline.model_digest"] == "0123abcd"
    assert told.metrics["ap50"] == told.metrics["fluorescence/ap50"] == scores["ap50"]
    assert told.metrics["map_low"] == scores["map_low"]
    assert all(isinstance(value, int | float) for value in told.metrics.values())
    assert told.files == ["scores.json", "scores.csv", "counts.json", "scores.txt", "worst"]


def test_a_results_folder_is_not_written_into(data, segmenter):
    """Its ledger would no longer tell the truth."""
    (data.parent / "out/.maskline").mkdir(parents=True)
    with pytest.raises(OutputError, match="results folder"):
        evaluate_model(config(data))
    assert not segmenter.seen


def test_a_split_without_labelled_images_is_said(data, segmenter):
    """No score of nothing."""
    with pytest.raises(InputError, match="no labelled image in split val"):
        evaluate_model(config(data, split="val"))


def test_a_model_that_is_not_there_is_said(data):
    """Before any image is read."""
    with pytest.raises(ModelError):
        evaluate_model(config(data, model=str(data.parent / "no/such/model")))


def test_a_real_network_goes_the_whole_way(data, tmp_path):
    """A model folder as training writes it, untrained: every station runs, and score agrees with evaluate."""
    import torch

    import unet
    from pipeline.config import NucleiUNet, PrepareConfig, SeparatedTarget
    from pipeline.model.bundle import ModelRecord, describe_network, save_model
    from pipeline.model.targets import channel_names

    torch.manual_seed(0)
    settings = NucleiUNet(filters=(4, 8))
    network = unet.build("nuclei_unet", **settings.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(network, 3)
    target = SeparatedTarget()
    record = ModelRecord(
        name="tiny",
        network=settings,
        prepare=PrepareConfig(),
        target=target,
        outputs=channel_names(target),
        stride=stride,
        halo=halo,
    )
    digest = save_model(tmp_path / "tiny", network, record)
    with pytest.raises(UsageError, match="a model that records none"):
        evaluate_model(config(data, model=str(tmp_path / "tiny"), diameter=30.0))
    scores = evaluate_model(config(data, model=str(tmp_path / "tiny"), bootstrap=10))
    assert scores["model_digest"] == digest
    assert (scores["images"], scores["failed"]) == (4, 0)
    again = score_folder(tmp_path / "out", data, split="test", bootstrap=10)
    assert {name: again[name] for name in NAMES} == {name: scores[name] for name in NAMES}
    cost = scores["cost"]
    assert cost["parameters"] == unet.count_parameters(network) and cost["device"] in ("cpu", "cuda", "mps")
    assert cost["timed_images"] == 3 and cost["megapixels_per_second"] > 0
    score_folder(tmp_path / "out", data, split="test", out=tmp_path / "scored", bootstrap=10)
    compared = compare_runs([str(tmp_path / "out"), str(tmp_path / "scored")], bootstrap=10, track=False)
    assert compared.systems[0].scores["ap50"].own.value == scores["ap50"]
    assert compared.systems[1].scores["ap50"].difference.value == 0
