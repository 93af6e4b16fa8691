"""What a run will take is known before it is begun: how large images become, memory, disk, engine."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import tifffile
from smoothed_segmenter import make_segmenter
from squares import make_model, rows_of

from flows.cli import run as command
from pipeline.config import ImageOptions, SegmentConfig
from pipeline.data.images import open_image
from pipeline.data.labels import read_labels
from pipeline.errors import ImageError, LargeError
from pipeline.inference import segment as segmenting
from pipeline.inference.sizing import Glance
from pipeline.inference.tile_sizes import core_file
from pipeline.runs import check_room, plan_image, segment_case
from pipeline.runs.check_room import machine_memory, memory_now
from pipeline.runs.plan_chunks import Planned, cut_chunks, learn_speed
from pipeline.runs.plan_large import PROCESS, ImageCost, stream_cost, whole_cost
from pipeline.runs.plan_segmentation import name_engine, plan_segmentation
from pipeline.runs.scratch import name_work, scratch_folder
from pipeline.runs.segment_folder import segment_folder
from pipeline.types import Case, Window

SIDE = 300
RECORD = {"outputs": ["foreground"] * 3, "halo": 112, "prepare": {"channels": 1}}


def picture(side: int = SIDE) -> np.ndarray:
    image = np.full((side, side), 12, np.uint8)
    for y in range(25, side - 20, 40):
        for x in range(25, side - 20, 40):
            cv2.circle(image, (x, y), 9, 200, -1)
    return image


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", picture(), tile=(64, 64))
    return folder


@pytest.fixture
def config(tmp_path, images):
    """Images above 1 Mpx are streamed; the model's objects have 8 px."""
    model = make_model(tmp_path / "model")
    about = {"folder": images, "out": tmp_path / "out", "model": str(model), "track": False, "device": "cpu"}
    return SegmentConfig(**about, whole_megapixels=1.0)


@pytest.fixture
def run(config, monkeypatch):
    def start(**changes):
        segmenter = make_segmenter(diameter=8.0)
        monkeypatch.setattr(segment_case, "load_segmenter", lambda job: segmenter)
        return segment_folder(config.model_copy(update=changes))

    return start


@pytest.mark.slow
def test_an_image_that_is_told_to_be_magnified_is_streamed(run, tmp_path):
    """0.09 Mpx at zoom 4 are 1.44: above the limit it is streamed, with the objects that memory gives."""
    assert run(diameter=2.0).done == 1
    row = rows_of(tmp_path / "out")["a.tif"]
    assert row["model_zoom"] == "4" and int(row["model_tiles"]) > 1
    streamed, _ = read_labels(tmp_path / "out/labels/a.tif")
    assert run(diameter=2.0, whole_megapixels=2.0, out=tmp_path / "whole").done == 1
    assert "model_tiles" not in rows_of(tmp_path / "whole")["a.tif"]
    whole, _ = read_labels(tmp_path / "whole/labels/a.tif")
    assert streamed.max() == whole.max() == 49
    assert ((streamed > 0) == (whole > 0)).mean() > 0.999


def test_an_image_that_is_found_to_be_magnified_is_streamed(run, tmp_path, monkeypatch):
    """The zoom is not known beforehand: memory is not taken, the image is streamed at that zoom instead."""
    monkeypatch.setattr(segmenting, "choose_view", lambda *_: Glance(4.0, 1.0, 6.0))
    assert run().done == 1
    row = rows_of(tmp_path / "out")["a.tif"]
    assert row["model_zoom"] == "4" and int(row["model_tiles"]) > 1 and int(row["objects"]) == 49


def test_what_would_be_magnified_beyond_memory_says_its_numbers(images):
    """For who cannot stream it; what is as large as it was given is not in question."""
    segmenter, opened = make_segmenter(diameter=8.0), open_image(images / "a.tif")
    with pytest.raises(LargeError, match=r"0\.1 Mpx that are magnified to 1\.4, wanted at most 1 Mpx in memory"):
        segmenter.segment(opened, ImageOptions(diameter=2.0, whole_megapixels=1.0))
    assert segmenter.segment(opened, ImageOptions(diameter="native", whole_megapixels=0.01)).labels.max() == 49


def test_the_disk_is_asked_again_once_the_zoom_is_known(run, tmp_path, monkeypatch):
    """1.3 MB are needed at zoom 4: with 1 MB free the image is refused, with none of it predicted."""
    monkeypatch.setattr(segmenting, "choose_view", lambda *_: Glance(4.0, 1.0, 6.0))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    failure = run().failures[0]
    assert "0.0 GB free on the disk" in failure.error and "free some disk" in failure.hint
    assert not list((tmp_path / "out/.maskline/large").glob("*/band*"))


def test_a_told_zoom_enters_the_cost():
    """Four times as wide and high: 16 times the tiles and the probabilities; labels and pixels held grow less."""
    one, four = (stream_cost((1, 8192, 8192), 1, RECORD, zoom) for zoom in (1.0, 4.0))
    assert four.tiles == 16 * one.tiles and four.disk - four.stays == pytest.approx(16 * (one.disk - one.stays))
    assert four.stays == one.stays and four.memory > one.memory
    assert whole_cost((1, 1000, 1000), 4.0).memory - PROCESS == 16 * (whole_cost((1, 1000, 1000)).memory - PROCESS)


def test_a_dry_run_counts_the_told_zoom(config):
    """It says that the image will be streamed, and how much work it is."""
    plain, told = (plan_segmentation(config.model_copy(update={"diameter": d})) for d in ("native", 2.0))
    assert "streamed" not in str(plain.todo[0]) and "1 tile" in str(plain.todo[0])
    assert "streamed: about 9 tiles" in str(told.todo[0])
    assert told.todo[0].work == pytest.approx(16 * plain.todo[0].work) and told.seconds > plain.seconds


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(check_room, "machine_memory", lambda: 500_000_000)


def test_more_memory_than_there_is_is_refused_before_work(run, little_memory, monkeypatch):
    """With what there is and what it takes; no model is asked."""
    failure = run().failures[0]
    assert failure.error == "memory: got 0.5 GB in all, wanted about 0.7 GB" and "larger machine" in failure.hint


def test_a_dry_run_tells_what_will_be_refused(config, little_memory, capsys, monkeypatch):
    """Memory, disk and files that do not open, each with its reason; the exit code is that of images that failed."""
    (config.folder / "broken.tif").write_bytes(b"")
    plan = plan_segmentation(config)
    assert plan.refused == 2 and "2 of them cannot be done as they are" in plan.lines()
    assert any(line.startswith("no    a.tif  (memory: got 0.5 GB in all") for line in plan.lines())
    assert any(line.startswith("no    broken.tif  (") and "an empty file" in line for line in plan.lines())
    monkeypatch.setattr(
        "pipeline.runs.segment_folder.load_segmenter", Mock()
    )  # the stand-in for a model has no weights
    asked = ["segment", str(config.folder), "--out", str(config.out), "--model", config.model, "--dry-run"]
    assert command(asked) == 3 and not config.out.exists()


def test_a_dry_run_asks_the_disk(config, monkeypatch):
    """Of the streamed image, though the results folder is not there yet."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    plan = plan_segmentation(config.model_copy(update={"diameter": 2.0}))
    assert "0.0 GB free on the disk" in plan.todo[0].refused
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    plan = plan_segmentation(config.model_copy(update={"diameter": 2.0}))
    assert not plan.refused and any("of 1.0 GB of free disk" in line for line in plan.lines())


def test_what_is_done_already_need_not_be_free(config, monkeypatch, tmp_path):
    """1.3 MB are needed and 0.5 MB free: refused afresh, not where the scratch holds 1 MB of it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5e5))
    told = config.model_copy(update={"diameter": 2.0})
    plan = plan_segmentation(told)
    assert plan.refused
    sha256 = hashlib.sha256((told.folder / "a.tif").read_bytes()).hexdigest()
    work = name_work(plan.cases[0], sha256, plan.model_digest, plan.settings)
    scratch = scratch_folder(told.out, work)
    scratch.mkdir(parents=True)
    (scratch / "band-00000.planes").write_bytes(bytes(1_000_000))
    assert not plan_segmentation(told).refused


@pytest.mark.parametrize(("text", "limit"), [("1000000\n", 1_000_000), ("max\n", None), (None, None)])
def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch, text, limit):
    """Its limit counts where there is one."""
    if text:
        (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(check_room, "_LIMITS", ())
    whole = machine_memory()
    monkeypatch.setattr(check_room, "_LIMITS", (tmp_path / "memory.max",))
    assert machine_memory() == (limit or whole) and whole > 1e8


@pytest.mark.parametrize("name", ["whole.png", "strip.tif", "planes.tif"])
def test_a_file_that_is_decoded_whole_is_held_once(tmp_path, name):
    """By both who read it when it is streamed; a tiled file has two small caches, and both are counted."""
    decoded = []
    if name.endswith(".png"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    elif name == "strip.tif":
        tifffile.imwrite(tmp_path / name, picture(), rowsperstrip=SIDE, compression="zlib")
    else:
        planes = {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": SIDE, "compression": "zlib"}
        tifffile.imwrite(tmp_path / name, np.stack([picture()] * 3), **planes)
    opened = open_image(tmp_path / name)
    opened.on_decode = decoded.append
    windows = [Window((top, 0), (top + 50, SIDE)) for top in (0, 200)]
    one, other = ([source.read(window) for window in windows][-1] for source in (opened, opened.again()))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert len(decoded) == len(set(decoded)) and opened.kept == np.prod(opened.shape)
    tifffile.imwrite(tmp_path / "tiled.tif", picture(), tile=(64, 64))
    tiled = open_image(tmp_path / "tiled.tif")
    assert tiled.kept == 2 * tiled._cache.capacity and tiled.again()._cache is not tiled._cache


def planned(name: str, gigabytes: float, alone: bool) -> Planned:
    cost = ImageCost(1, PROCESS + gigabytes * 1e9, 0.0, 0.0)
    return Planned(Case(name, Path(name), name), "new", 0.1, cost, 1.0, alone)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([(1.0, False), (1.0, False), (1.0, False)], 2.0),  # two small ones at once
        ([(5.0, True), (4.0, True)], 5.0),  # large ones one by one
        ([(5.0, True), (1.0, False)], 6.0),  # a small one beside a large one
        ([(3.0, False)], 3.0),
    ],
)
def test_two_images_are_held_at_a_time(config, sizes, most):
    """The plan's memory is that of neighbours together, the process counted once."""
    todo = tuple(planned(str(k), *size) for k, size in enumerate(sizes))
    plan = plan_segmentation(config)
    plan = replace(plan, todo=todo, chunks=cut_chunks(todo, 30.0, 1.0))
    assert plan.memory == pytest.approx(PROCESS + most * 1e9)


def test_magnified_images_are_large_sooner():
    """What counts is what is held."""
    assert not plan_image.is_alone((1, 2000, 2000), 1.0) and plan_image.is_alone((1, 2000, 2000), 2.0)


def test_speed_is_of_what_the_network_was_shown():
    """An image of 1 Mpx that took 1 s at zoom 2: 4 Mpx a second, where the zoom is told."""
    row = {"height": 1000, "width": 1000, "model_zoom": 2.0}
    entry = SimpleNamespace(status="done", model="m", row=row, seconds={"segment": 1.03})
    assert learn_speed([entry], "m") == pytest.approx(1.0) and learn_speed([entry], "m", told=True) == pytest.approx(4)


@pytest.mark.parametrize(
    ("changes", "record", "engine"),
    [
        ({"engine": "torch"}, RECORD, "torch on cpu"),
        ({"engine": "openvino-int8"}, RECORD, "openvino-int8 on cpu"),
        ({}, RECORD | {"halo": None}, "torch on cpu"),
        ({}, RECORD | {"volume": {"strides": [2, 2, 2]}}, "torch on cpu"),
        ({"device": "cuda:0,cuda:1"}, RECORD, "torch on cuda:0, cuda:1"),
    ],
)
def test_a_dry_run_names_the_engine(config, changes, record, engine):
    """As it will be made: blended windows, volumes and GPUs are torch's."""
    assert name_engine(config.model_copy(update=changes), record) == engine


@pytest.mark.parametrize(
    ("device", "engine", "said"),
    [
        ("cpu", "torch-bfloat16", "a processor without bfloat16"),
        ("cuda", "openvino", "choose --engine torch"),
        ("cpu,cpu", "openvino-int8", "choose --engine torch"),
        ("cuda", "torch", "a device of this machine"),
    ],
)
def test_a_dry_run_refuses_an_engine_that_could_not_run(config, device, engine, said, monkeypatch, capsys):
    """As the run would, before it begins."""
    monkeypatch.setattr("pipeline.inference.engines.processor_has_bfloat16", lambda: False)
    monkeypatch.setattr("pipeline.inference.engines.DeviceEngine", Mock(side_effect=RuntimeError("no NVIDIA driver")))
    asked = ["segment", str(config.folder), "--out", str(config.out), "--model", "shipped:nuclei", "--dry-run"]
    assert command([*asked, "--device", device, "--engine", engine]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not config.out.exists()


def test_tables_and_outlines_take_disk_too(config):
    """An image of 19.4 Mpx with 11,700 objects left 0.19 bytes a pixel in labels and tables, and 0.35 in GeoJSON."""
    plain, outlined = (whole_cost((1, 4400, 4400), geojson=geojson) for geojson in (False, True))
    assert plain.stays > 0.19 * 4400**2 and outlined.stays - plain.stays > 0.35 * 4400**2
    streamed = [stream_cost((1, 8192, 8192), 1, RECORD, geojson=geojson) for geojson in (False, True)]
    assert streamed[1].disk - streamed[0].disk == pytest.approx(streamed[1].stays - streamed[0].stays)
    assert streamed[1].stays - streamed[0].stays > 0.35 * 8192**2
    asked = [plan_segmentation(config.model_copy(update={"geojson": geojson})) for geojson in (False, True)]
    assert asked[1].disk > asked[0].disk


def test_images_that_have_room_one_by_one_may_not_have_it_together(config, monkeypatch, capsys):
    """The dry run says so with the numbers, and ends with 3; with enough disk it does neither."""
    for name in "bcd":
        shutil.copy(config.folder / "a.tif", config.folder / f"{name}.tif")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    plan = plan_segmentation(config)
    assert not plan.refused and plan.disk > 100_000
    assert "all together leave about 0.0 GB of disk, 0.0 GB are free" in plan.short_of_disk
    monkeypatch.setattr("pipeline.runs.segment_folder.load_segmenter", Mock())
    asked = ["segment", str(config.folder), "--out", str(config.out), "--model", config.model, "--dry-run"]
    assert command(asked) == 3 and "give another --out" in capsys.readouterr().out
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    assert command(asked) == 0 and not plan_segmentation(config).short_of_disk


def test_less_memory_right_now_is_a_warning(config, run, monkeypatch, capsys):
    """The dry run and the run's log say it; nothing is refused."""
    monkeypatch.setattr("pipeline.runs.planned_run.memory_now", lambda: 600_000_000)
    said = "it may take 0.7 GB of memory, 0.6 GB are available right now"
    assert f"warning: {said}" in plan_segmentation(config).lines()
    assert run().done == 1 and said in (config.out / "maskline.log").read_text()
    monkeypatch.setattr("pipeline.runs.planned_run.memory_now", lambda: 10**12)
    assert not plan_segmentation(config.model_copy(update={"force": True})).short_of_memory


def test_what_this_process_holds_is_its_own():
    """Memory for now is never more than the machine's, and counts what is held already."""
    import psutil

    assert psutil.Process().memory_info().rss < memory_now() <= machine_memory()


def test_tiles_are_counted_by_the_size_that_is_remembered(config, monkeypatch, tmp_path):
    """1200 x 1200 px at zoom 4 are 9 tiles of 512 and 2 x 2 of 1,024; a device begins with 1,024."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    told = config.model_copy(update={"diameter": 2.0, "engine": "torch"})
    assert plan_segmentation(told).todo[0].cost.tiles == 9
    file = core_file(plan_segmentation(told).model_digest, "torch", 3)
    file.parent.mkdir(parents=True)
    file.write_text('{"format_version": 1, "core": 1024}')
    assert plan_segmentation(told).todo[0].cost.tiles == 4
    assert plan_segmentation(told.model_copy(update={"threads": 2})).todo[0].cost.tiles == 9
    file.write_text("damaged")
    assert plan_segmentation(told).todo[0].cost.tiles == 9
    assert plan_segmentation(told.model_copy(update={"device": "cuda"})).todo[0].cost.tiles == 4


def test_remembered_tiles_need_no_torch():
    """Planning a run of images does not load it."""
    code = "import sys, pipeline.runs.plan_segmentation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_engine_stands_among_the_lines(config):
    """With the device."""
    assert "engine torch on cpu" in plan_segmentation(config).lines()


def test_nothing_is_refused_where_there_is_room(config):
    """Raised for memory and disk alone."""
    check_room.check_room(ImageCost(1, 1e6, 1e3, 1e3, streamed=True), config.out)
    with pytest.raises(ImageError, match="disk"):
        check_room.check_room(ImageCost(1, 1e6, 1e18, 1e3, streamed=True), config.out)
