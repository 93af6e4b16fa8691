"""From output folders of evaluations to tables, files, a picture and an MLflow run."""

import csv
import json
from contextlib import contextmanager
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError, TrackingError, UsageError
from pipeline.runs import compare_runs as module
from pipeline.runs.compare_runs import compare_runs
from pipeline.runs.measure_cost import Cost, cost_numbers, peak_memory
from pipeline.scoring.class_metrics import ClassCase, summarise_classes
from pipeline.scoring.metrics import match
from pipeline.scoring.present import write_scores
from pipeline.scoring.present_classes import write_class_scores
from pipeline.scoring.summary import CaseScore, summarise

MACHINE = {"machine": "x86_64", "cpus": 2}
COST = {
    "parameters": 1_941_105,
    "timed_images": 5,
    "megapixels_per_second": 0.75,
    "images_per_second": 11.4,
    "peak_memory_mb": 812.5,
    "accelerator_memory_mb": None,
    "engine": "torch",
    "device": "cpu",
    "hardware": MACHINE,
}


def evaluation(folder, seen, images=6, **cost):
    """An output folder of `maskline evaluate`: `seen` objects of up to four are found in each image."""
    scored = []
    for number in range(images):
        truth = np.zeros((1, 40), int)
        for index in range(1 + number % 4):
            truth[0, index * 6 : index * 6 + 4] = index + 1
        scored.append(CaseScore(f"case{number}", match(truth, np.where(truth <= seen, truth, 0))))
    about = {"model": folder.name, "model_digest": "0123", "split": "test"}
    record = {"cost": COST | cost} if cost is not None else {}
    write_scores(folder, summarise(scored, 50) | about | record, scored)
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [evaluation(tmp_path / "first" / "test", 4), evaluation(tmp_path / "second" / "test", 1, parameters=38_785)]


def test_what_is_shown(runs):
    """Both systems by the ends of their paths, scores with intervals, the difference, and what they took."""
    shown = "\n".join(compare_runs(runs, track=False).lines())
    assert "6 images, the same for all; 95 % by images, 1,000 resamples" in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "1.000 (1.000 to 1.000)" in lines["first"] or "1,941,105" in lines["first"]
    assert lines["difference"].split()[1].startswith("-0.")
    assert "38,785" in lines["second"] and lines["second"].endswith("torch cpu")
    assert "different machines" not in shown and "left out" not in shown


def test_files_for_other_programs_and_a_picture(runs, tmp_path):
    """compare.csv has a row a system, compare.json everything, compare.png is a picture worth looking at."""
    comparison = compare_runs(runs, ["ours", "theirs"], out=tmp_path / "out", bootstrap=50, track=False)
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["ours", "theirs"]
    assert rows[0]["map"] == "1.0" and rows[0]["map_difference"] == ""
    assert float(rows[1]["map_difference"]) == pytest.approx(float(rows[1]["map"]) - 1)
    assert rows[1]["parameters"] == "38785"
    tree = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert tree == json.loads(json.dumps(comparison.as_json())) and tree["format_version"] == 1
    assert tree["systems"][1]["scores"]["pq"]["difference"]["high"] <= 0
    picture = cv2.imread(str(tmp_path / "out" / "compare.png"))
    assert picture.shape[1] == 1430 and picture.shape[0] > 400
    assert (picture < 128).any(axis=2).mean() > 0.005


def test_classes_are_compared_by_their_own_scores(tmp_path):
    """Mean foreground Dice, mIoU and pixel accuracy; runs without a record of cost say so."""
    for name, wrong in (("a", 0), ("b", 2)):
        cases = [ClassCase(f"case{n}", np.array([[9, wrong], [1, 5 + n]])) for n in range(4)]
        cases = [ClassCase(c.case, c.counts - [[wrong, 0], [0, 0]]) for c in cases]
        write_class_scores(tmp_path / name, summarise_classes(cases, ("none", "box"), 50), cases)
    comparison = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")], out=tmp_path, track=False)
    shown = "\n".join(comparison.lines())
    assert "foreground Dice" in shown and "mIoU" in shown and "pixel accuracy" in shown
    assert "on record for none" in shown
    assert comparison.systems[1].scores["accuracy"].difference.value < 0


def test_other_machines_and_missing_images_are_remarked(runs, tmp_path):
    """Speeds of two machines are not compared in silence, nor are images left out in silence."""
    other = evaluation(tmp_path / "third", 2, images=5, hardware=MACHINE | {"cpus": 64}, peak_memory_mb=None)
    with pytest.raises(InputError, match=r"case5 \(not scored in third\)"):
        compare_runs([runs[0], other], track=False)
    comparison = compare_runs([runs[0], other], common=True, track=False)
    assert comparison.images == 5
    assert "1 images are left out" in "\n".join(comparison.lines())
    assert "different machines" in "\n".join(comparison.lines())


def test_one_group_alone_is_remarked(tmp_path):
    """No interval, and why."""
    scored = [CaseScore("a", match(np.array([[1]]), np.array([[1]])))]
    for name in "xy":
        write_scores(tmp_path / name, summarise(scored, 0), scored)
    shown = "\n".join(compare_runs([str(tmp_path / "x"), str(tmp_path / "y")], track=False).lines())
    assert "no intervals" in shown


def test_wrong_runs_and_names_are_said(runs, tmp_path):
    """Exit code 2 for the command line, 1 for what lies there."""
    for given, names, message in (
        (runs[:1], (), "1 run, wanted two"),
        (runs, ("a",), "1 names for 2 runs"),
        (runs, ("a", "a"), "a twice"),
        ([runs[0], runs[0]], (), "twice"),
    ):
        with pytest.raises(UsageError, match=message):
            compare_runs(given, names, track=False)
    with pytest.raises(InputError, match="no such folder"):
        compare_runs([runs[0], str(tmp_path / "nothing")], track=False)
    for text, message in (("[]", "got list"), ("{", "scores of an evaluation")):
        (tmp_path / "second" / "test" / "scores.json").write_text(text)
        with pytest.raises(InputError, match=message):
            compare_runs(runs, track=False)


def test_the_comparison_is_tracked_and_runs_are_fetched(runs, monkeypatch, tmp_path):
    """An id of MLflow stands for its files; numbers by system, the files and the table are logged."""
    told = SimpleNamespace(metrics={}, files=[], note="")

    class Run:
        def log_metrics(self, values):
            told.metrics |= values

        def log_picture(self, content, name):
            assert content
            told.files.append(name)

        def set_note(self, text):
            told.note = text

    class Tracking:
        def fetch_artifact(self, run_id, name, folder):
            if run_id != "0" * 32:
                raise TrackingError(f"run {run_id}", "not known", "a run", "check it")
            (folder / name).write_bytes((tmp_path / "first" / "test" / name).read_bytes())

        @contextmanager
        def start(self, name, params, tags):
            told.name, told.tags = name, tags
            yield Run()

    monkeypatch.setattr(module, "_tracking", Tracking)
    compare_runs(["0" * 32, runs[1]])
    assert told.name == "compare 00000000 and test"
    assert told.files == ["compare.csv", "compare.json", "compare.png"]
    assert told.metrics["00000000/map"] == 1 and told.metrics["test/map_difference"] < 0
    assert told.metrics["test/parameters"] == 38_785
    assert "difference" in told.note
    with pytest.raises(TrackingError):
        compare_runs(["1" * 32, runs[1]], track=False)


class _Segmenter:
    model = SimpleNamespace(network=None)

    def segment(self, source, options):
        return SimpleNamespace(labels=np.zeros((10, 100)), seconds={"read": 0.0}, statistics={"engine": "torch"})


def test_what_an_evaluation_took():
    """The first image is left out of the speed, memory counts only what this evaluation raised."""
    import torch

    segmenter = _Segmenter()
    segmenter.model.network = torch.nn.Linear(3, 2)
    cost = Cost(before=0)
    for _ in range(3):
        cost.segment(segmenter, None, None)
    record = cost.record(segmenter, "cpu")
    assert (record["parameters"], record["timed_images"]) == (8, 2)
    assert record["megapixels_per_second"] == pytest.approx(record["images_per_second"] / 1000, abs=1e-3, rel=1e-3)
    assert record["peak_memory_mb"] > 10 and record["engine"] == "torch" and record["device"] == "cpu"
    assert Cost(before=peak_memory() * 2).record(segmenter, "cpu")["peak_memory_mb"] is None
    assert cost_numbers({"cost": record})["parameters"] == 8
    assert cost_numbers({}) == {}
