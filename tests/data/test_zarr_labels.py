"""Label images as OME-Zarr: zarr reads what was written, it lies on the image it is of, and is there whole or not."""

import json
import shutil

import numpy as np
import pytest
import zarr

from pipeline.data import zarr_labels
from pipeline.data.files import sha256_file, walk_files
from pipeline.data.images import open_image
from pipeline.data.labels import read_labels, write_labels
from pipeline.data.multiscales import Multiscale, pick_transforms, plan_multiscale
from pipeline.data.pyramids import LabelPyramid
from pipeline.errors import ImageError, OutputError
from pipeline.types import Geometry

GEOMETRY = Geometry((0.25, 0.5), "um")
RNG = np.random.default_rng(5)


def numbers(shape, highest=100_000):
    return RNG.integers(0, highest, shape).astype(np.uint32)


def image(path, pixels, axes, version, factors=(1,), translation=False, shared=()):
    """An OME-Zarr image whose level n holds every factors[n]-th pixel along Y and X."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    kinds = {"t": ("time", "second"), "c": ("channel", None)}
    stated = [
        dict(zip(("name", "type", "unit"), (a, *kinds.get(a, ("space", "micrometer"))), strict=True)) for a in axes
    ]
    stated = [{k: v for k, v in axis.items() if v} for axis in stated]
    datasets = []
    for number, step in enumerate(factors):
        part = pixels[..., ::step, ::step]
        group.create_array(f"s{number}", shape=part.shape, dtype=part.dtype, chunks=part.shape)[...] = part
        transforms = [{"type": "scale", "scale": [0.5 * step if a in "yx" else 2.0 if a == "z" else 1.0 for a in axes]}]
        if translation:
            transforms.append({"type": "translation", "translation": [100.0 * n for n in range(len(axes))]})
        datasets.append({"path": f"s{number}", "coordinateTransformations": transforms})
    scales = {"axes": stated, "datasets": datasets, "name": "picture"}
    scales |= {"coordinateTransformations": list(shared)} if shared else {}
    old = version == "0.4"
    group.attrs.update(
        {"multiscales": [{"version": version, **scales}]}
        if old
        else {"ome": {"version": version, "multiscales": [scales]}}
    )
    return path


def stated(path):
    """What a label image's group says, whatever the version."""
    about = zarr.open_group(path, mode="r").attrs.asdict()
    return about.get("ome", about)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_lie_on_the_image_they_are_of(tmp_path, version):
    """Same version, axes, units, scales, translations, number and shapes of levels; channels and time are left out."""
    pixels = RNG.integers(0, 255, (1, 2, 6, 90, 70), np.uint8)
    shared = [{"type": "scale", "scale": [0.1, 1.0, 1.0, 1.0, 1.0]}]
    path = image(tmp_path / "a.zarr", pixels, "tczyx", version, (1, 2, 6), True, shared)
    source, labels = open_image(path), numbers((6, 90, 70))
    digest = write_labels(tmp_path / "out.ome.zarr", labels, source.geometry, path, source.multiscale)
    assert digest == sha256_file(tmp_path / "out.ome.zarr")
    again = open_image(tmp_path / "out.ome.zarr", pages="stack")
    assert (again.levels, again.geometries) == (source.levels, source.geometries)
    about, of_image = stated(tmp_path / "out.ome.zarr"), stated(path)
    assert "image-label" in about
    mine, theirs = about["multiscales"][0], of_image["multiscales"][0]
    assert mine["axes"] == theirs["axes"][2:]
    for one, other in zip(mine["datasets"], theirs["datasets"], strict=True):
        for a, b in zip(one["coordinateTransformations"], other["coordinateTransformations"], strict=True):
            assert a == {"type": b["type"], b["type"]: b[b["type"]][2:]}
    assert mine["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    for number, step in enumerate((1, 2, 6)):
        np.testing.assert_array_equal(group[str(number)][...], labels[:, ::step, ::step])
        if version == "0.5":
            assert group[str(number)].metadata.dimension_names == ("z", "y", "x")


@pytest.mark.parametrize("level", [0, 1])
def test_labels_of_a_level_begin_there(tmp_path, level):
    """--level 1: the labels' first level is the image's second."""
    path = image(tmp_path / "a.zarr", RNG.integers(0, 255, (80, 60), np.uint8), "yx", "0.5", (1, 2, 4))
    source = open_image(path, level=level)
    write_labels(tmp_path / "out.zarr", numbers(source.shape[1:]), source.geometry, path, source.multiscale)
    again = open_image(tmp_path / "out.zarr")
    assert (again.levels, again.geometries) == (source.levels, source.geometries)


def test_an_image_without_a_pyramid_gets_one_of_halves(tmp_path):
    """Every second pixel of the level before, each twice as large; a smaller image has its one level."""
    path = image(tmp_path / "a.zarr", np.ones((2051, 1200), np.uint8), "yx", "0.4", translation=True)
    source, labels = open_image(path), numbers((2051, 1200))
    write_labels(tmp_path / "out.zarr", labels, source.geometry, path, source.multiscale)
    again, group = open_image(tmp_path / "out.zarr"), zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert again.levels == ((2051, 1200), (1026, 600), (513, 300))
    assert [geometry.spacing for geometry in again.geometries] == [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0)]
    for number in range(3):
        np.testing.assert_array_equal(group[str(number)][...], labels[:: 2**number, :: 2**number])
    shifts = [d["coordinateTransformations"][1] for d in stated(tmp_path / "out.zarr")["multiscales"][0]["datasets"]]
    assert shifts == [{"type": "translation", "translation": [0.0, 100.0]}] * 3


@pytest.mark.parametrize(("highest", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_labels_of_no_zarr_image(tmp_path, highest, dtype):
    """NGFF 0.5 with the geometry's micrometres, in 16 bit as long as the numbers fit; read back as they were."""
    labels = numbers((3, 40, 50), highest)
    labels[0, 0, 0] = highest - 1
    geometry = Geometry((2.0, 0.25, 0.5), "um")
    write_labels(tmp_path / "a.zarr", labels, geometry)
    again, stored = read_labels(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again, labels)
    assert stored == geometry
    assert zarr.open_array(tmp_path / "a.zarr/0", mode="r").dtype == dtype
    assert write_labels(tmp_path / "b.zarr", labels[0], Geometry.pixels()) != ""
    assert read_labels(tmp_path / "b.zarr")[1] == Geometry.pixels()


def test_every_chunk_is_written_and_bytes_are_repeatable(tmp_path):
    """Background has chunks too, so a lost one shows; the same labels give the same files, over older ones too."""
    labels = np.zeros((700, 1100), np.uint32)
    labels[650:690, 1000:1090] = 3
    first = write_labels(tmp_path / "a.zarr", labels, GEOMETRY)
    assert open_image(tmp_path / "a.zarr").missing.count == 0
    write_labels(tmp_path / "b" / "a.zarr", labels * 2, GEOMETRY)
    (tmp_path / "b/a.zarr/left over").write_text("")
    assert write_labels(tmp_path / "b" / "a.zarr", labels, GEOMETRY) == first
    assert [path.name for path in walk_files(tmp_path / "b")] == ["a.zarr"]
    (tmp_path / "a.zarr/0/c/0/0").unlink()
    assert "1 of 6 chunks" in open_image(tmp_path / "a.zarr").missing.note


def stream(scratch, path, labels, side, order, multiscale):
    scratch.mkdir(exist_ok=True)
    with LabelPyramid(scratch, labels.shape, GEOMETRY, multiscale) as pyramid:
        corners = [(y, x) for y in range(0, labels.shape[0], side) for x in range(0, labels.shape[1], side)]
        for y, x in corners[::order]:
            pyramid.put(y, x, labels[y : y + side, x : x + side])
        return pyramid.write(path)


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 3, 9)])
@pytest.mark.parametrize(("side", "order"), [(512, 1), (700, -1), (333, 1)])
def test_blocks_as_they_come_give_the_folder_that_is_written_at_once(tmp_path, factors, side, order):
    """Whatever the blocks, their order and the steps of the image's levels: the same files, byte by byte."""
    labels = numbers((1800, 1101), 2**20)
    path = image(tmp_path / "a.zarr", np.ones((1800, 1101), np.uint8), "yx", "0.5", factors)
    multiscale = open_image(path).multiscale
    whole = write_labels(tmp_path / "whole/a.zarr", labels, GEOMETRY, path, multiscale)
    assert stream(tmp_path / "s", tmp_path / "parts/a.zarr", labels, side, order, multiscale) == whole
    assert not (tmp_path / "s/labels.zarr").exists()


def test_what_a_killed_stream_left_behind_is_not_mixed_in(tmp_path):
    """Tiles of an earlier try in the scratch folder are gone before the first is written."""
    labels, multiscale = numbers((600, 600)), plan_multiscale((600, 600), GEOMETRY)
    first = stream(tmp_path / "s", tmp_path / "a.zarr", labels, 512, 1, multiscale)
    (tmp_path / "s/labels.zarr/0/c/7").mkdir(parents=True)
    assert stream(tmp_path / "s", tmp_path / "b" / "a.zarr", labels, 512, 1, multiscale) == first


def test_a_hole_in_a_stream_is_an_error(tmp_path):
    """A tile that was never filled is no background, and nothing is put in place."""
    (tmp_path / "s").mkdir()
    with LabelPyramid(tmp_path / "s", (600, 600), GEOMETRY, plan_multiscale((600, 600), GEOMETRY)) as pyramid:
        pyramid.put(0, 0, np.ones((600, 599), np.uint32))
        with pytest.raises(OutputError, match="never filled"):
            pyramid.write(tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_what_is_half_written_is_never_read(tmp_path, monkeypatch):
    """An error while writing leaves the labels that were there, and no temporary folder."""
    labels = numbers((40, 50))
    write_labels(tmp_path / "a.zarr", labels, GEOMETRY)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr_labels, "_describe", full)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(tmp_path / "a.zarr", labels * 0, GEOMETRY)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.zarr")[0], labels)


def test_labels_of_another_shape_are_refused(tmp_path):
    """They would lie beside the image."""
    multiscale = plan_multiscale((40, 50), GEOMETRY)
    with pytest.raises(OutputError, match=r"\(40, 49\).*\(40, 50\)"):
        write_labels(tmp_path / "a.zarr", numbers((40, 49)), GEOMETRY, multiscale=multiscale)
    with pytest.raises(OutputError, match="use its own labels"):
        LabelPyramid(tmp_path, (50, 40), GEOMETRY, multiscale)


def test_transformations_that_are_no_numbers_are_refused(tmp_path):
    """A translation of words is damaged metadata; kinds that labels cannot state are left out."""
    path = image(tmp_path / "a.zarr", np.ones((40, 50), np.uint8), "yx", "0.5", translation=True)
    about = json.loads((path / "zarr.json").read_text())
    dataset = about["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    dataset["coordinateTransformations"][1]["translation"] = ["left", "right"]
    (path / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(ImageError, match="damaged transformations"):
        open_image(path)
    assert pick_transforms([{"type": "identity"}, {"type": "scale", "scale": [1, 2, 3]}], [1, 2], 3) == (
        {"type": "scale", "scale": [2.0, 3.0]},
    )


def test_an_image_that_states_no_axes_types_or_scale(tmp_path):
    """NGFF 0.3 names its axes only: labels state what the version wants, in pixels."""
    path = image(tmp_path / "a.zarr", np.ones((40, 50), np.uint8), "yx", "0.4")
    about = json.loads((path / ".zattrs").read_text())
    about["multiscales"][0] |= {"axes": ["y", "x"], "datasets": [{"path": "s0"}]}
    (path / ".zattrs").write_text(json.dumps(about))
    multiscale = open_image(path).multiscale
    assert isinstance(multiscale, Multiscale)
    assert multiscale.axes == ({"name": "y", "type": "space"}, {"name": "x", "type": "space"})
    assert multiscale.levels[0].transforms == ({"type": "scale", "scale": [1.0, 1.0]},)


def test_damaged_labels_are_refused_when_they_are_read(tmp_path):
    """Labels whose chunk is cut short are refused by name when they are read."""
    write_labels(tmp_path / "a.zarr", numbers((40, 50)), GEOMETRY)
    file = tmp_path / "a.zarr/0/c/0/0"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ImageError, match="damaged chunk"):
        read_labels(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr/0")
    with pytest.raises(ImageError, match="damaged metadata"):
        read_labels(tmp_path / "a.zarr")
