"""Images that are streamed, from folder to results."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import nibabel
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr
from smoothed_segmenter import make_segmenter
from squares import fingerprint, make_model

from pipeline.config import SegmentConfig
from pipeline.data import pyramids, zarr_labels
from pipeline.data.images import open_image
from pipeline.data.labels import read_geojson, read_labels
from pipeline.errors import InputError, OutputError
from pipeline.runs import scratch, segment_case
from pipeline.runs.segment_folder import plan_segmentation, segment_folder
from pipeline.runs.verify_folder import verify_folder
from pipeline.scoring.measure import measure
from pipeline.types import Case, Geometry, Image

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


def leave_out(path, tiles):
    """Take tiles of a TIFF out of its tables, as GDAL leaves out what is empty: no place and no bytes."""
    with tifffile.TiffFile(path) as tiff:
        tags = [tiff.pages[0].tags[name] for name in ("TileOffsets", "TileByteCounts")]
    data = bytearray(path.read_bytes())
    for tag in tags:
        size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        for tile in tiles:
            data[tag.valueoffset + tile * size : tag.valueoffset + (tile + 1) * size] = bytes(size)
    path.write_bytes(data)


def test_missing_tiles_are_flagged_streamed_or_not(run, images, picture, tmp_path):
    """Half of the tiles of a streamed image and one of a small one are not in the file: flagged, with the numbers."""
    tifffile.imwrite(images / "small.tif", picture[:300, :300], tile=(256, 256), compression="zlib")
    tifffile.imwrite(images / "whole.tif", picture[300:600, :300], tile=(256, 256), compression="zlib")
    leave_out(images / "large.tif", range(50))
    leave_out(images / "small.tif", [1])
    assert run().done == 3
    rows = pd.read_csv(tmp_path / "out/images.csv").set_index("path")
    flags = rows["flags"].fillna("").str.contains("missing_tiles")
    assert flags.to_dict() == {"large.tif": True, "small.tif": True, "whole.tif": False}
    numbers = rows[["missing_tiles", "tiles"]].fillna(-1).astype(int).T.to_dict("list")
    assert numbers == {"large.tif": [50, 121], "small.tif": [1, 4], "whole.tif": [-1, -1]}
    report = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "50 of 121 tiles are not in the file" in report and "1 of 4 tiles are not in the file" in report


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_other_settings_do_not_take_over_the_work(run, tmp_path):
    """Bands that were predicted from another channel are not used."""
    with pytest.raises(KeyboardInterrupt):
        run(segmenter=make_segmenter(killed_after=8 * 11 + 3))
    again = make_segmenter()
    run(segmenter=again, channel=0)
    assert again.engine.tiles == 11 * 11 + CORNERS + SMALL


def test_a_dry_run_tells_what_streaming_will_cost(run, images, tmp_path, monkeypatch):
    """Tiles, memory and disk of the large image; none of it for the small one."""
    told = {"folder": images, "out": tmp_path / "out", "model": str(tmp_path / "model"), "whole_megapixels": 1.0}
    config = SegmentConfig(**told, threads=1, engine="openvino")
    assert "3.0 GB" in plan_segmentation(config.model_copy(update={"threads": 2})).lines()[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert "3.0 GB" in plan_segmentation(config.model_copy(update={"threads": None})).lines()[0]
    large, small, *_ = plan_segmentation(config).lines()
    assert "large.tif" in large
    assert "6.76 megapixels, streamed: about 36 tiles, 2.1 GB of memory, 0.0 GB of disk" in large
    assert "streamed" not in small


def test_an_image_the_disk_has_no_room_for_is_refused_beforehand(run, tmp_path, monkeypatch):
    """The row says how much is free and how much is needed; the other image is done."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    summary = run()
    assert (summary.done, summary.failed) == (1, 1)
    assert "0.0 GB free on the disk" in summary.failures[0].error
    assert not (tmp_path / "out/labels/large.tif").exists()


def no_room(number):
    def raises(*_, **__):
        raise OSError(number, os.strerror(number))

    return raises


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [("tiles", errno.ENOSPC), ("chunks", errno.EROFS), ("table", errno.EDQUOT), ("bands", errno.ENOSPC)],
)
def test_a_disk_without_room_ends_the_run(run, request, tmp_path, monkeypatch, place, number):
    """While an image is streamed too: one named error, no row of failure; with room again all is done."""
    if place == "chunks":
        request.getfixturevalue("zarr_images")
    owner, name = {
        "tiles": (pyramids._TiffTiles, "keep"),
        "chunks": (zarr_labels.ZarrTiles, "keep"),
        "table": (pq.ParquetWriter, "write_table"),
        "bands": (Path, "replace"),
    }[place]
    real = getattr(owner, name)

    def full(self, *rest):
        if place != "bands" or self.name.startswith(".band-"):
            no_room(number)()
        return real(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(OutputError, match="a folder that can be written; free space on its disk"):
            run()
    assert not (tmp_path / "out/images.csv").exists()
    summary = run()
    assert (summary.done, summary.failed) == (2, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits are set the POSIX way")
def test_a_disk_that_is_really_full_ends_the_run(run, tmp_path):
    """No file may grow beyond 100 kB, as on a full disk: the run ends, and ends well once they may."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match="a folder that can be written; free space on its disk"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run().done == 2


def test_an_image_that_cannot_be_read_while_it_is_streamed_is_a_row(run, tmp_path, monkeypatch):
    """No rights to a file that is read is that image's trouble: the other one is done."""
    monkeypatch.setattr(pyramids._TiffTiles, "keep", no_room(errno.EACCES))
    summary = run()
    assert (summary.done, summary.failed) == (1, 1)


@pytest.fixture
def begun(run, tmp_path):
    """A run that was killed within its large image; where its work lies."""
    with pytest.raises(KeyboardInterrupt):
        run(segmenter=make_segmenter(killed_after=8 * 11 + 3))
    return next((tmp_path / "out/.maskline/large").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("change", ["settings", "image", "gone", "unknown"])
def test_work_that_no_run_will_go_on_with_is_removed(run, images, begun, tmp_path, change):
    """Other settings, another content of the file, no such file, a folder that says nothing: nothing stays behind."""
    others = {"channel": 0} if change == "settings" else {}
    if change == "image":
        tifffile.imwrite(images / "large.tif", np.full((1200, 1200), 12, np.uint8))
    if change == "gone":
        (images / "large.tif").unlink()
    if change == "unknown":
        (begun / "work.json").unlink()
        run(include=("small.tif",))
        assert not begun.exists()
    run(**others)
    assert not list((tmp_path / "out/.maskline/large").iterdir())


def test_work_on_an_image_that_cannot_be_read_now_is_kept(run, images, begun, tmp_path, monkeypatch):
    """A disk that is not there for a while costs no work."""

    def away(path):
        raise InputError(str(path), "no such device", "a file that can be read", "check it")

    *_, model, settings = json.loads((begun / "work.json").read_text())["identity"].split()
    cases = [Case("large", images / "large.tif", "large.tif")]
    monkeypatch.setattr(scratch, "sha256_file", away)
    assert scratch.drop_others(tmp_path / "out", cases, model, settings) == 0
    assert begun.is_dir()


def test_work_on_a_damaged_image_is_removed_at_once(run, images, tmp_path, picture):
    """What is wrong with the image will be wrong again: its bands are of no use."""
    path = images / "large.tif"
    tifffile.imwrite(path, picture, tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[-1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"x" * 40
    path.write_bytes(data)
    summary = run()
    assert (summary.done, summary.failed) == (1, 1)
    assert "damaged tile" in summary.failures[0].error
    assert not list((tmp_path / "out/.maskline/large").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [(), (1,)])
def test_large_nifti_gives_nifti(run, images, tmp_path, picture, depth):
    """Plane or single slice above `whole_megapixels`: nibabel reads the labels, affine and shape untouched."""
    (images / "large.tif").unlink()
    affine = np.array([[0, -0.5, 0, 3], [0.25, 0, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(picture[:1100, :1000].T.reshape(1000, 1100, *depth), affine), images / "a.nii.gz")
    summary = run(diameter="native")
    assert (summary.done, summary.failed) == (2, 0)
    labels = nibabel.load(tmp_path / "out/labels/a.nii.gz")
    assert labels.shape == (1000, 1100, *depth)
    np.testing.assert_array_equal(labels.affine, affine)
    assert np.asarray(labels.dataobj).max() == pd.read_csv(tmp_path / "out/images.csv")["objects"][0] > 50
