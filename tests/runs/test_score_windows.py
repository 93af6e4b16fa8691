"""Label images that are scored by windows, against the same ones read whole."""

from collections import Counter

import numpy as np
import pytest
import tifffile

from pipeline.data.label_source import open_labels
from pipeline.data.labels import write_labels
from pipeline.data.pyramids import LabelPyramid
from pipeline.data.simulate import simulate_image
from pipeline.errors import MaskError
from pipeline.runs.score_labels import score_folder
from pipeline.runs.score_windows import large_truth, modality_of, score_windows
from pipeline.scoring.metrics import match
from pipeline.types import Case, Geometry

SHAPE = (700, 1300)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """The cache of merged masks lies in the test's own folder."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def made():
    """A picture, its true labels, and a prediction: some objects moved, some gone, some numbered above 65,535."""
    picture, truth = simulate_image(np.random.default_rng(2), "fluorescence", SHAPE, density=0.2, radius=11.0)
    predicted = np.roll(truth, 3, axis=1)
    predicted[np.isin(predicted, np.arange(1, 400, 7))] = 0
    predicted[predicted > 200] += 100_000
    assert 300 < truth.max() < 1000
    return picture, truth, predicted


def save(path, labels, kind):
    """As a pyramid in TIFF or Zarr, strips, or whatever write_labels makes of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pyramid":
        scratch = path.parent.parent / f"{path.parent.name} scratch"
        scratch.mkdir()
        with LabelPyramid(scratch, labels.shape, Geometry.pixels()) as pyramid:
            pyramid.put(0, 0, labels)
            pyramid.write(path)
    elif kind == "strips":
        tifffile.imwrite(path, labels, rowsperstrip=7, compression="zlib")
    else:
        write_labels(path, labels, Geometry.pixels())
    return path


@pytest.mark.parametrize(("first", "second"), [(".tif pyramid", ".ome.zarr"), (".tif strips", ".tif pyramid")])
def test_scores_by_windows_are_those_of_the_whole(tmp_path, made, first, second):
    """Any formats on either side: every number, and the files and intervals told of, are the same."""
    _, truth, predicted = made
    for folder, labels, how in (("truth", truth, first), ("predicted", predicted, second)):
        suffix, _, kind = how.partition(" ")
        save(tmp_path / folder / f"p/a{suffix}", labels, kind)
        save(tmp_path / folder / "small.tif", labels[:50, :60], "")
    whole = score_folder(tmp_path / "predicted", tmp_path / "truth", bootstrap=10)
    large = score_folder(tmp_path / "predicted", tmp_path / "truth", bootstrap=10, whole_megapixels=0.1)
    assert 0.2 < whole["ap50"] < 0.95
    assert large == whole


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (512, 512), (100, 999), (512, 8192)])
def test_any_windows_give_the_same_counts_and_decode_each_block_once(tmp_path, made, rows, columns):
    """Tiles of 512 px against strips of 7 rows: what is decoded is decoded once, whatever the windows."""
    _, truth, predicted = made
    case = Case("a", tmp_path / "t/a.tif", "a.tif", (save(tmp_path / "t/a.tif", truth, "strips"),), "labels")
    opened, seen = open_labels(case.image), Counter()
    opened.source.on_decode = lambda key: seen.update([key])
    assert score_windows(case, opened, save(tmp_path / "p/a.tif", predicted, "pyramid"), rows, columns) == match(
        truth, predicted
    )
    assert len(seen) == 100 and set(seen.values()) == {1}


def test_a_labelled_image_is_scored_by_windows_beside_its_picture(tmp_path, made):
    """images/ and labels/: the same numbers, and the kind of picture, as whole; a missing prediction found nothing."""
    picture, truth, predicted = made
    for name in ("a", "b"):
        (tmp_path / "truth/images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / f"truth/images/{name}.tif", picture, tile=(256, 256))
        save(tmp_path / f"truth/labels/{name}.tif", truth, "strips")
    save(tmp_path / "out/labels/images/a.tif", predicted, "")
    whole = score_folder(tmp_path / "out", tmp_path / "truth", bootstrap=10)
    large = score_folder(tmp_path / "out", tmp_path / "truth", bootstrap=10, whole_megapixels=0.1)
    assert large == whole
    assert (large["missing"], list(large["by_modality"])) == (["images/b"], ["fluorescence"])


def test_the_kind_of_a_picture_is_told_of_a_small_level(tmp_path, made):
    """A pyramid's small level is enough; a kind that is known is not looked for."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(made[0], subifds=1, tile=(256, 256))
        writer.write(made[0][::4, ::4], subfiletype=1, tile=(64, 64))
    case = Case("a", tmp_path / "a.tif", "a.tif", (tmp_path / "a.tif2",), "labels")
    assert modality_of(case) == "fluorescence"
    assert modality_of(Case("a", tmp_path / "none", "a.tif", modality="stained")) == "stained"


def test_which_cases_are_scored_by_windows(tmp_path, made):
    """One 2-D label image above the limit; not volumes, not masks one an object, not what is small."""
    path = save(tmp_path / "a.tif", made[1], "strips")
    alone, beside = (
        Case("a", path, "a.tif", (path,), "labels"),
        Case("a", tmp_path / "i.tif", "i.tif", (path,), "labels"),
    )
    assert large_truth(alone, 0.9) is not None
    assert large_truth(alone, 0.91) is large_truth(alone) is large_truth(beside) is None
    assert large_truth(Case("a", path, "a.tif", (path,), "instances"), 0.1) is None
    volume = tmp_path / "v.tif"
    write_labels(volume, np.ones((3, 40, 50), np.uint32), Geometry.pixels(3))
    assert large_truth(Case("v", volume, "v.tif", (volume,), "labels"), 0.0) is None


def test_what_cannot_be_scored_by_windows_is_said(tmp_path, made):
    """A prediction or an image of another size, and a mask, whose pieces only the whole image could tell apart."""
    picture, truth, predicted = made
    save(tmp_path / "p/a.tif", predicted[:-1], "")
    alone = Case("a", tmp_path / "t/a.tif", "a.tif", (save(tmp_path / "t/a.tif", truth, ""),), "labels")
    with pytest.raises(MaskError, match=r"\(699, 1300\).*\(700, 1300\)"):
        score_windows(alone, open_labels(alone.image), tmp_path / "p/a.tif")
    tifffile.imwrite(tmp_path / "i.tif", picture[:-1])
    beside = Case("i", tmp_path / "i.tif", "i.tif", alone.masks, "labels")
    with pytest.raises(MaskError, match="re-export the mask"):
        large_truth(beside, 0.1)
    mask = save(tmp_path / "m/a.tif", (truth > 0) * np.uint32(255), "")
    with pytest.raises(MaskError, match="number the objects"):
        score_windows(Case("a", tmp_path / "i.tif", "i.tif", (mask,), "labels"), open_labels(mask), None)
    assert score_windows(Case("a", mask, "a.tif", (mask,), "labels"), open_labels(mask), None).true == 1


def test_outlines_are_drawn_whole(tmp_path, made):
    """GeoJSON of a large image is scored as ever."""
    from pipeline.data.geojson import write_geojson

    save(tmp_path / "t/a.tif", made[1], "")
    (tmp_path / "p").mkdir()
    write_geojson(tmp_path / "p/a.geojson", made[1])
    assert score_folder(tmp_path / "p", tmp_path / "t", bootstrap=10, whole_megapixels=0.1)["map"] == 1
