"""Class maps that are streamed, from folder to results: what the image held in memory gives."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image as Pillow
from squares import fingerprint

import unet
from pipeline.config import ClassesTarget, Divide, NucleiUNet, PrepareConfig, SegmentConfig
from pipeline.data.labels import read_labels
from pipeline.inference.direct import DirectSegmenter
from pipeline.model.bundle import ModelRecord, describe_network, load_model, save_model
from pipeline.results.pictures import split_preview
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder
from pipeline.runs.verify_folder import verify_folder

NAMES = ("sky", "road", "car", "never")
SHAPE = (1100, 2300)  # two parts, two bands


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Drawn weights: what is darker than the mean is sky, what is brighter road or car; the last class is nowhere."""
    config = NucleiUNet(filters=(4, 4), out_channels=4, in_channels=1)
    torch.manual_seed(1)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    final = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        answer = network(torch.from_numpy(picture()[:256, :256] / np.float32(255))[None, None])[0]
        scale = 2 / answer.std((1, 2))
        final.weight *= scale[:, None, None, None]
        final.bias.copy_((final.bias - answer.mean((1, 2))) * scale)
        final.bias[-1] -= 1000
    stride, halo = describe_network(network, 1)
    target = ClassesTarget(names=NAMES, palette=((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)))
    record = ModelRecord(
        name="scenes",
        network=config,
        prepare=PrepareConfig(channels=1, normalise=Divide()),
        target=target,
        outputs=NAMES,
        stride=stride,
        halo=halo,
    )
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, network, record)
    return folder


def picture() -> np.ndarray:
    """Noise on coarse squares."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 200, (35, 72)), np.ones((32, 32), int))[: SHAPE[0], : SHAPE[1]]
    return (coarse + rng.integers(0, 55, SHAPE)).astype(np.uint8)


@pytest.fixture
def run(tmp_path, model):
    """Segment a folder with a large image, as TIFF and as PNG, and a small one; above 1 Mpx is streamed."""
    folder = tmp_path / "images"
    folder.mkdir()
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "large.tif", picture(), tile=(256, 256), compression="zlib", **resolution)
    Pillow.fromarray(picture()).save(folder / "other.png")
    tifffile.imwrite(folder / "small.tif", picture()[:300, :300])

    def start(out="out", **changes):
        given = {"folder": folder, "out": tmp_path / out, "model": str(model), "track": False, "engine": "torch"}
        return segment_folder(SegmentConfig(**(given | {"threads": 2, "whole_megapixels": 1.0} | changes)))

    return start


@pytest.mark.slow
def test_a_streamed_class_map_is_the_one_of_memory(run, tmp_path):
    """Labels, rows and tables of both ways are equal; labels are a pyramid; the picture has the classes' colours."""
    assert (run("whole", whole_megapixels=100.0).failed, run().failed) == (0, 0)
    out, whole = tmp_path / "out", tmp_path / "whole"
    streamed, _ = read_labels(out / "labels/large.tif")
    np.testing.assert_array_equal(streamed, read_labels(whole / "labels/large.tif")[0])
    with Pillow.open(whole / "labels/other.png") as other:
        np.testing.assert_array_equal(streamed, np.asarray(other))
    assert len(np.unique(streamed)) == 3
    with tifffile.TiffFile(out / "labels/other.tif") as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(1100, 2300), (550, 1150), (275, 575)]
    tables = [pd.read_parquet(folder / "objects.parquet") for folder in (out, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["area_um2"].notna().sum() == 3
    ours, theirs = (pd.read_csv(folder / "images.csv").set_index("path") for folder in (out, whole))
    changed = ["edge_width", "labels"]  # told of a part; TIFF in place of PNG
    pd.testing.assert_frame_equal(ours.drop(columns=changed), theirs.drop(columns=changed), check_exact=True)
    assert ours.loc["large.tif", "fraction_never"] == 0 and ours.loc["large.tif", "edge_width"] > 0
    plain, tints = split_preview((out / ".maskline/pictures/large.jpg").read_bytes())
    assert plain and tints.startswith(b"\x89PNG")
    assert json.loads((out / "run.json").read_text())["objects"] is None
    assert not list((out / ".maskline/large").glob("*")) and verify_folder(out).exit_code == 0


def test_the_label_of_the_other_way_does_not_stay(run, tmp_path):
    """The PNG of an image that was held in memory goes when it is streamed, and the TIFF when it is held again."""
    for megapixels, there in ((100.0, "png"), (1.0, "tif"), (100.0, "png")):
        run(whole_megapixels=megapixels, include=("other.png",))
        assert [path.suffix for path in (tmp_path / "out/labels").iterdir()] == [f".{there}"]


def test_a_killed_run_goes_on_and_ends_the_same(run, tmp_path, model, monkeypatch):
    """Stopped in the second band: the next run predicts what is left, and all bytes are the same."""
    run("calm", include=("large.tif",))
    segmenter, told = DirectSegmenter(load_model(model), "cpu", "torch", 2), []
    engine, go = segmenter.engine, segmenter.engine.map_cores
    engine.core = 256

    def count(tiles, preparation, most=10**9):
        def counted():
            for number, tile in enumerate(tiles):
                if number >= most:
                    raise KeyboardInterrupt
                told.append(tile.pixels.shape)
                yield tile

        return go(counted(), preparation)

    monkeypatch.setattr(segment_case, "load_segmenter", lambda job: segmenter)
    monkeypatch.setattr(engine, "map_cores", lambda *given: count(*given, most=38))
    with pytest.raises(KeyboardInterrupt):
        run(include=("large.tif",))
    assert len(list((tmp_path / "out/.maskline/large").glob("*/band-*.planes"))) == 1
    told.clear()
    monkeypatch.setattr(engine, "map_cores", count)
    run(include=("large.tif",))
    assert len(told) == 9  # of the second band, of 76 rows
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "calm")


@pytest.mark.slow
def test_outlines_of_it_are_refused(run, tmp_path):
    """Polygons of a class reach over all of the image: that image fails with what to do, the small one has them."""
    assert run(geojson=True, max_failed_fraction=1.0, include=("large.tif", "small.tif")).failed == 1
    images = pd.read_csv(tmp_path / "out/images.csv").set_index("path")
    assert "leave --geojson out" in images.loc["large.tif", "hint"]
    assert (tmp_path / "out/geojson/small.geojson").is_file()
