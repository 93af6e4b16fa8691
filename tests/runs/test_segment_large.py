"""Images that are streamed, from folder to results."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from smoothed_segmenter import make_segmenter
from squares import fingerprint, make_model

from pipeline.config import SegmentConfig
from pipeline.data.images import open_image
from pipeline.data.labels import read_geojson, read_labels
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import plan_segmentation, segment_folder
from pipeline.runs.verify_folder import verify_folder
from pipeline.scoring.measure import measure
from pipeline.types import Geometry, Image

SIDE = 2600  # more than a block of 2,048
CORNERS = 1  # of four blocks, where the image is predicted once more to compare
SMALL = 1  # the tile of the small image


@pytest.fixture(scope="module")
def picture():
    """A field of discs, some of them on the border between blocks."""
    generator = np.random.default_rng(0)
    image = np.full((SIDE, SIDE), 12, np.uint8)
    for _ in range(900):
        y, x = (int(v) for v in generator.integers(30, SIDE - 30, 2))
        cv2.circle(image, (x, y), int(generator.integers(7, 16)), 200, -1)
    for k in range(10):
        cv2.circle(image, (2048, 100 + 200 * k), 14, 200, -1)
    return image


@pytest.fixture
def images(tmp_path, picture):
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "large.tif", picture, tile=(256, 256), compression="zlib")
    tifffile.imwrite(folder / "small.tif", picture[:300, :300])
    return folder


@pytest.fixture
def run(tmp_path, images, monkeypatch):
    """Segment the folder; what is above 1 Mpx is streamed."""
    model = make_model(tmp_path / "model")

    def start(out="out", segmenter=None, **changes):
        stand_in = segmenter or make_segmenter()
        monkeypatch.setattr(segment_case, "load_segmenter", lambda job: stand_in)
        given = {"folder": images, "out": tmp_path / out, "model": str(model), "track": False, "diameter": "native"}
        config = SegmentConfig(**(given | {"whole_megapixels": 1.0} | changes))
        return segment_folder(config)

    return start


def test_a_streamed_image_ends_like_any_other(run, tmp_path, picture):
    """Labels, rows, tables, report, and nothing of the work left behind."""
    summary = run()
    out = tmp_path / "out"
    assert (summary.done, summary.failed) == (2, 0)
    labels, _ = read_labels(out / "labels/large.tif")
    assert labels.shape == picture.shape
    objects = pd.read_parquet(out / "objects.parquet")
    mine = objects[objects["image"] == "large.tif"].reset_index(drop=True)
    expected = measure(labels, Image(picture[None], Geometry.pixels()))
    assert len(mine) == len(expected) > 500
    np.testing.assert_allclose(mine["area_px2"], expected["area_px2"])
    np.testing.assert_allclose(mine["centroid_x_px"], expected["centroid_x_px"])
    np.testing.assert_allclose(mine["intensity_mean_c0"], expected["intensity_mean_c0"])
    assert objects.columns[-1] == "flags"
    np.testing.assert_array_equal(mine["flags"].str.contains("touches_edge"), mine["touches_edge"])
    sizes = mine["equivalent_diameter_px"] / mine["equivalent_diameter_px"].median()
    np.testing.assert_array_equal(mine["flags"].str.contains("unusual_size"), (sizes > 2.5) | (sizes < 0.4))
    images = pd.read_csv(out / "images.csv").set_index("path")
    assert images.loc["large.tif", "objects"] == len(mine)
    assert images.loc["large.tif", "model_cut"] == 0
    assert images.loc["large.tif", "model_agreement"] == 1.0
    assert 0.8 < images.loc["large.tif", "model_seams"] < 1.2
    assert (out / "report.html").is_file()
    assert not list((out / ".maskline/large").glob("*"))
    assert verify_folder(out).exit_code == 0


def test_its_labels_are_a_pyramid_with_the_objects_whole(run, tmp_path):
    """Three levels of tiles; a disc on the border of two blocks is one object."""
    run()
    with tifffile.TiffFile(tmp_path / "out/labels/large.tif") as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(2600, 2600), (1300, 1300), (650, 650)]
        labels = tiff.series[0].asarray()
    for k in range(10):
        y = 100 + 200 * k
        assert labels[y, 2044] == labels[y, 2051] > 0


@pytest.fixture
def zarr_images(images, picture):
    """The large image as OME-Zarr with two levels, the small one as it was."""
    shutil.rmtree(images)
    group = zarr.open_group(images / "large.ome.zarr", mode="w")
    for number in range(2):
        part = picture[:: 2**number, :: 2**number]
        group.create_array(str(number), shape=part.shape, dtype=part.dtype, chunks=(512, 512))[...] = part
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scales = ([{"type": "scale", "scale": [0.5 * 2**n] * 2}] for n in range(2))
    datasets = [{"path": str(n), "coordinateTransformations": scale} for n, scale in enumerate(scales)]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    tifffile.imwrite(images / "small.tif", picture[:300, :300])
    return images


def test_labels_of_an_omezarr_are_one(run, zarr_images, tmp_path):
    """Streamed into the levels and scales of the image: at once or after a kill, the same bytes; proven done."""
    with pytest.raises(KeyboardInterrupt):
        run(segmenter=make_segmenter(killed_after=8 * 11 + 3))
    summary, out = run(), tmp_path / "out"
    assert (summary.done, summary.failed) == (2, 0)
    run("calm")
    assert fingerprint(out) == fingerprint(tmp_path / "calm")
    mine, theirs = open_image(out / "labels/large.ome.zarr"), open_image(zarr_images / "large.ome.zarr")
    assert (mine.levels, mine.geometries) == (theirs.levels, theirs.geometries)
    labels, _ = read_labels(out / "labels/large.ome.zarr")
    assert len(np.unique(labels)) - 1 == pd.read_csv(out / "images.csv")["objects"][0] > 500
    np.testing.assert_array_equal(zarr.open_array(out / "labels/large.ome.zarr/1", mode="r")[...], labels[::2, ::2])
    assert (run().skipped, verify_folder(out).exit_code) == (2, 0)


def test_its_outlines_are_written_as_its_parts_come(run, tmp_path):
    """GeoJSON of a streamed image, drawn again, is its label image."""
    run(geojson=True)
    labels, _ = read_labels(tmp_path / "out/labels/large.tif")
    assert np.array_equal(read_geojson(tmp_path / "out/geojson/large.geojson", labels.shape), labels)


def test_a_killed_run_goes_on_and_ends_the_same(run, tmp_path):
    """Interrupted after two bands; the next run predicts the third alone, and all bytes are those of a calm run."""
    run("calm")
    with pytest.raises(KeyboardInterrupt):
        run(segmenter=make_segmenter(killed_after=8 * 11 + 3))
    assert list((tmp_path / "out/.maskline/large").glob("*/band-*.planes"))
    again = make_segmenter()
    run(segmenter=again)
    assert again.engine.tiles == 3 * 11 + CORNERS + SMALL
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "calm")


def test_other_settings_do_not_take_over_the_work(run, tmp_path):
    """Bands that were predicted from another channel are not used."""
    with pytest.raises(KeyboardInterrupt):
        run(segmenter=make_segmenter(killed_after=8 * 11 + 3))
    again = make_segmenter()
    run(segmenter=again, channel=0)
    assert again.engine.tiles == 11 * 11 + CORNERS + SMALL


def test_a_dry_run_tells_what_streaming_will_cost(run, images, tmp_path):
    """Tiles, memory and disk of the large image; none of it for the small one."""
    config = SegmentConfig(folder=images, out=tmp_path / "out", model=str(tmp_path / "model"), whole_megapixels=1.0)
    large, small, *_ = plan_segmentation(config).lines()
    assert "large.tif" in large
    assert "6.76 megapixels, streamed: about 36 tiles, 1.2 GB of memory, 0.0 GB of disk" in large
    assert "streamed" not in small


def test_an_image_the_disk_has_no_room_for_is_refused_beforehand(run, tmp_path, monkeypatch):
    """The row says how much is free and how much is needed; the other image is done."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    summary = run()
    assert (summary.done, summary.failed) == (1, 1)
    assert "0.0 GB free on the disk" in summary.failures[0].error
    assert not (tmp_path / "out/labels/large.tif").exists()
