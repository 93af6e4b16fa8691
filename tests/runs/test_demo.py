"""The demo as a list of stations; what each station does is tested where it lives."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import TrainConfig
from pipeline.errors import InputError, OutputError
from pipeline.runs import demo
from pipeline.types import Case


@pytest.fixture
def stations(monkeypatch, tmp_path):
    """Stand-ins for the stations, which keep what they were asked."""
    asked = SimpleNamespace(order=[], segment=None, evaluate=None, train=None)
    image = tmp_path / "real" / "a.tif"
    image.parent.mkdir()
    image.write_bytes(b"pixels")
    cases = {"train": [Case("t", image, "t.tif")], "test": [Case("plate/a", image, "plate/a.tif")]}
    manifest = SimpleNamespace(split=lambda name: tuple(cases.get(name, ())), cases=cases)

    def ingest(config, watch):
        asked.order.append("ingest")
        return SimpleNamespace(manifest=manifest)

    def train(config, data, out, *, time_budget, watch):
        asked.order.append("train")
        asked.train = (data, time_budget)
        return SimpleNamespace(model=out / "model")

    def segment(config, watch):
        asked.order.append("segment")
        asked.segment = config
        return SimpleNamespace(done=8, objects=300, failed=2, exit_code=3)

    def evaluate(config, watch):
        asked.order.append("evaluate")
        asked.evaluate = config
        return {"overall": {"map": 0.5, "ap50": 0.8}}

    monkeypatch.setattr(demo, "simulate_dataset", lambda folder, **more: asked.order.append(f"simulate {folder.name}"))
    monkeypatch.setattr(demo, "ingest_folder", ingest)
    monkeypatch.setattr(demo, "train_model", train)
    monkeypatch.setattr(demo, "segment_folder", segment)
    monkeypatch.setattr(demo, "evaluate_model", evaluate)
    monkeypatch.setattr(demo, "read_manifest", lambda path: manifest)
    asked.cases = cases
    return asked


def test_made_images_go_through_every_station(stations, tmp_path):
    """Made images, ingest, training, unseen images, scores; the last lines say where to look."""
    shown = demo.run_demo(tmp_path / "demo", TrainConfig(), time_budget=60)
    assert stations.order == ["simulate data", "simulate unseen", "ingest", "train", "segment", "evaluate"]
    assert stations.segment.folder == tmp_path / "demo" / "unseen"
    assert stations.segment.model == stations.evaluate.model == str(tmp_path / "demo" / "training" / "model")
    assert stations.train[1] == 60
    lines = "\n".join(shown.lines())
    assert "map 0.500, ap50 0.800" in lines
    assert str(tmp_path / "demo" / "results" / "report.html") in lines and "maskline serve" in lines


def test_real_data_is_segmented_where_training_did_not_look(stations, tmp_path):
    """With data of one's own the unseen images are copies of the manifest's test part, without masks."""
    data = tmp_path / "real" / "manifest.csv"
    data.write_text("")
    demo.run_demo(tmp_path / "demo", TrainConfig(), data=data)
    assert stations.order == ["train", "segment", "evaluate"]
    assert stations.train[0] == data
    copies = [path for path in (tmp_path / "demo" / "unseen").rglob("*") if path.is_file()]
    assert copies == [tmp_path / "demo" / "unseen" / "plate" / "a.tif"]
    assert copies[0].read_bytes() == b"pixels"


def test_a_data_set_without_test_images_is_refused(stations, tmp_path):
    """Images that the model has seen would flatter it."""
    stations.cases["test"] = []
    with pytest.raises(InputError, match="without test images"):
        demo.run_demo(tmp_path / "demo", TrainConfig(), data=tmp_path / "real")


def test_a_folder_of_somebody_elses_is_left_alone(stations, tmp_path):
    """The demo makes its folders anew, so it only works in one of its own; its own it takes again."""
    other = tmp_path / "thesis"
    (other / "data").mkdir(parents=True)
    with pytest.raises(OutputError, match="something else"):
        demo.run_demo(other, TrainConfig())
    assert stations.order == []
    own: Path = tmp_path / "demo"
    demo.run_demo(own, TrainConfig())
    demo.run_demo(own, TrainConfig())
    assert (own / demo.MARKER).is_file()
