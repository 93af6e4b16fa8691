"""The plan: what would be done and why, at what cost, without touching anything."""

import importlib.util
from pathlib import Path

import pytest
from squares import draw, make_model

from pipeline.config import SegmentConfig
from pipeline.errors import InputError, ModelError
from pipeline.results.ledger import Entry, Product
from pipeline.runs import plan_segmentation as plan_segmentation_module
from pipeline.runs.plan_chunks import MOST_IN_A_CHUNK, SPEED, Planned, cut_chunks, learn_speed
from pipeline.runs.plan_segmentation import (
    digest_settings,
    locate_model,
    plan_segmentation,
    read_record,
    which_engine,
)
from pipeline.types import Case

NOTHING = Product("", (0, 0, 0, 0))


@pytest.fixture
def config(tmp_path, images):
    return SegmentConfig(folder=images, out=tmp_path / "out", model=str(make_model(tmp_path / "model")), track=False)


def test_dry_run_writes_nothing_and_names_everything(config, images):
    """Every image with its reason, the sum, megapixels, time and memory; the results folder is not made."""
    lines = plan_segmentation(config).lines()
    first = next(line for line in lines if line.startswith("do "))
    assert first == "do    plate0/00.png  (new, 0.00 megapixels, 1 tile)"
    assert sum(line.startswith("do ") for line in lines) == 6
    assert "6 to do in 1 chunk, 0 skipped, 6 in all" in lines
    assert any("GB of memory" in line and "megapixels" in line for line in lines)
    assert not config.out.exists()


def test_dry_run_after_a_run(config, run, images):
    """What is proven done is skipped, what has changed is to do, each with its reason; nothing is written."""
    run()
    draw(images / "plate1/new.png", 2)
    draw(images / "plate0/02.png", 5, seed=8)
    before = sorted((path, path.stat().st_mtime_ns) for path in config.out.rglob("*"))
    plan = plan_segmentation(config)
    assert {p.case.relative: p.reason for p in plan.todo} == {
        "plate0/02.png": "the file has changed",
        "plate1/new.png": "new",
    }
    assert len(plan.skipped) == 5
    assert "skip  plate0/00.png  (proven done)" in plan.lines()
    assert sorted((path, path.stat().st_mtime_ns) for path in config.out.rglob("*")) == before


def test_nothing_to_do_says_so(config, run):
    """No cost to tell of."""
    run()
    lines = plan_segmentation(config).lines()
    assert "0 to do in 0 chunks, 6 skipped, 6 in all" in lines
    assert not any("GB of memory" in line for line in lines)


def test_sizes_come_from_the_headers(config, images):
    """A dry run reads every header; memory grows with the largest image; what does not open counts as nothing."""
    (images / "broken.png").write_bytes(b"")
    small = plan_segmentation(config)
    assert small.megapixels == pytest.approx(6 * 48 * 64 / 1e6)
    import cv2
    import numpy as np

    (images / "large.png").write_bytes(cv2.imencode(".png", np.zeros((2000, 3000), np.uint8))[1].tobytes())
    large = plan_segmentation(config)
    assert large.megapixels - small.megapixels == pytest.approx(6.0)
    assert small.refused == large.refused == 1
    assert large.memory > small.memory


def planned(*sizes: float) -> list[Planned]:
    return [Planned(Case(str(i), Path(str(i)), str(i)), "new", size) for i, size in enumerate(sizes)]


def test_chunks_hold_every_image_once_in_order():
    """However large and small images follow each other, nothing is lost and nothing is twice."""
    todo = planned(*[0.5, 40.0, 0.01, 0.01, 40.0, 40.0, 3.0, 3.0, 3.0, 3.0, 0.2] * 20)
    chunks = cut_chunks(todo, 10.0, 0.6)
    assert [case.id for chunk in chunks for case in chunk.cases] == [p.case.id for p in todo]
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    alone = {case.id for chunk in chunks if len(chunk.cases) == 1 for case in chunk.cases}
    assert {p.case.id for p in todo if p.megapixels == 40.0} <= alone


def test_chunks_of_tiny_images_are_bounded():
    """A kill loses at most one chunk, and so a chunk is no more than a few hundred images."""
    chunks = cut_chunks(planned(*[0.0] * (MOST_IN_A_CHUNK + 1)), 1e9, 1.0)
    assert [len(chunk.cases) for chunk in chunks] == [MOST_IN_A_CHUNK, 1]


def done(seconds: float, side: int = 1000, model: str = "m") -> Entry:
    row = {"height": side, "width": side, "planes": 1}
    return Entry("a", "a", "done", NOTHING, model, "s", row=row, seconds={"segment": seconds})


def test_speed_is_learnt_from_the_ledger():
    """Two images of a megapixel in 0.5 s each (and a little for itself): about 2 megapixels a second."""
    assert learn_speed([done(0.53), done(0.53)], "m") == pytest.approx(2.0)
    assert learn_speed([done(0.53, model="other")], "m") == SPEED
    assert learn_speed([done(0.53, side=10)], "m") == SPEED
    assert learn_speed([], "m") == SPEED


def test_settings_digest_knows_what_decides(config):
    """Options of the image and the engine decide the results; where they go and how they are cut does not."""
    one = digest_settings(config)
    assert digest_settings(config.model_copy(update={"out": Path("x"), "chunk_seconds": 1.0, "geojson": True})) == one
    chosen = ({"pages": "stack"}, {"series": "1"}, {"level": 1}, {"time": 0}, {"engine": "openvino-int8"})
    for change in ({"diameter": 9.0}, {"pixel_size": 0.5}, {"channel": 1}, *chosen):
        assert digest_settings(config.model_copy(update=change)) != one


@pytest.mark.parametrize(
    ("device", "found", "installed", "expected"),
    [
        ("auto", "cuda", True, "torch"),
        ("auto", "cpu", True, "openvino"),
        ("auto", "cpu", False, "torch"),
        ("cpu", "cuda", True, "openvino"),
        ("cuda:0", "cuda", True, "torch"),
    ],
)
def test_the_engine_that_settings_name_is_the_one_that_computes(
    config, monkeypatch, device, found, installed, expected
):
    """`--device auto` is the GPU where there is one, and there torch computes, whatever else is installed."""
    monkeypatch.setattr(plan_segmentation_module, "_has_accelerator", lambda: found != "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert which_engine(config.model_copy(update={"device": device})) == expected


def test_an_accelerator_is_asked_of_torch(monkeypatch):
    """Wherever a driver stands; what torch then says counts."""
    monkeypatch.setattr(plan_segmentation_module.sys, "platform", "darwin")
    for device in ("mps", "cpu"):
        monkeypatch.setattr("pipeline.inference.engines.choose_device", lambda name, device=device: device)
        assert plan_segmentation_module._has_accelerator() == (device == "mps")


def test_no_images_says_what_to_check(config, tmp_path):
    """An empty folder, and one where the patterns match nothing."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"wanted images \(PNG, JPEG, .*LIF\); check the path"):
        plan_segmentation(config.model_copy(update={"folder": tmp_path / "empty"}))
    with pytest.raises(InputError, match=r"no image that is asked for.*check the folder, --include and --exclude"):
        plan_segmentation(config.model_copy(update={"include": ("*.xyz",)}))


def test_model_that_is_not_there(tmp_path):
    """A path without a model is told by name."""
    with pytest.raises(ModelError, match=r"no model.json"):
        locate_model(str(tmp_path))
    assert read_record(tmp_path) == {}
    (tmp_path / "model.json").write_text("rubbish")
    assert read_record(tmp_path) == {}
    (tmp_path / "model.json").write_text("[]")
    assert read_record(tmp_path) == {}
