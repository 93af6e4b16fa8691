"""OME-Zarr: what zarr wrote is what is read, axes, units and levels as the metadata says, damage told from absence."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import zarr

from pipeline.data.images import open_image
from pipeline.data.sources import Missing
from pipeline.errors import ImageError
from pipeline.types import Window

RNG = np.random.default_rng(3)
UNITS = {"t": ("time", "second"), "c": ("channel", None), "z": ("space", "micrometer")}


def write(path, pixels, axes, version="0.5", chunks=None, unit="micrometer", scale=0.5, levels=1, **options):
    """An OME-Zarr of one multiscale, each level half as large along Y and X."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    stated = [
        {"name": a, "type": UNITS.get(a, ("space", unit))[0], "unit": UNITS.get(a, ("space", unit))[1]} for a in axes
    ]
    stated = [{k: v for k, v in axis.items() if v} for axis in stated]
    datasets = []
    for level in range(levels):
        part = pixels[..., :: 2**level, :: 2**level]
        array = group.create_array(
            str(level), shape=part.shape, dtype=part.dtype, chunks=chunks or part.shape, **options
        )
        array[:] = part
        size = [2.0 if a == "z" else scale * 2**level if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": size}]})
    multiscales = [{"version": version, "axes": stated, "datasets": datasets, "name": "picture"}]
    about = {"multiscales": multiscales, "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}}
    group.attrs.update(about if version == "0.4" else {"ome": {"version": version, **about}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_windows_and_levels_are_those_of_zarr(tmp_path, version):
    """Two channels of a volume: shape, names, micrometres and any window of any level, in both versions."""
    pixels = RNG.integers(0, 65536, (2, 3, 60, 70), np.uint16)
    path = write(tmp_path / "a.ome.zarr", pixels, "czyx", version, (1, 2, 16, 32), levels=2)
    source = open_image(path)
    assert (source.shape, source.axes, source.dtype) == ((2, 3, 60, 70), "CZYX", np.uint16)
    assert (source.levels, source.block, source.channels) == (((3, 60, 70), (3, 30, 35)), (16, 32), ("DAPI", "GFP"))
    assert (source.geometry.spacing, source.geometry.unit) == ((2.0, 0.5, 0.5), "um")
    assert source.read(level=1).geometry.spacing == (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(source.read().pixels, pixels)
    for level in (0, 1):
        whole = pixels[..., :: 2**level, :: 2**level]
        for _ in range(8):
            ends = [np.sort(RNG.choice(n + 1, 2, replace=False)) for n in whole.shape[1:]]
            window = Window(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))
            np.testing.assert_array_equal(source.read(window, level).pixels, whole[(slice(None), *window.slices)])
    assert open_image(path, level=1).geometry.spacing == (2.0, 1.0, 1.0)


def test_chunks_of_channels_and_shards_are_decoded_once(tmp_path):
    """Chunks that hold all channels, in shards: bands decode each chunk once, and nothing outside a window."""
    pixels = RNG.integers(0, 256, (3, 64, 64), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "cyx", chunks=(3, 16, 16), shards=(3, 32, 32))
    source, seen = open_image(path), Counter()
    source.on_decode = lambda key: seen.update([key])
    source.read(Window((0, 0), (5, 20)))
    assert seen == {(0, 0, 0, 0, 0): 1, (0, 0, 0, 0, 1): 1}
    for top in range(0, 64, 10):
        band = Window((top, 0), (min(64, top + 18), 64))
        np.testing.assert_array_equal(source.read(band).pixels, pixels[(slice(None), *band.slices)])
    assert len(seen) == 16 and set(seen.values()) == {1}


def test_units_and_time_points(tmp_path):
    """Nanometres become micrometres, no unit is no size; of several time points one must be named."""
    pixels = RNG.integers(0, 256, (4, 20, 30), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "tyx", unit="nanometer", scale=250.0)
    with pytest.raises(ImageError, match=r"4 time points.*--time 0 to 3"):
        open_image(path)
    source = open_image(path, time=2)
    assert source.geometry.spacing == (0.25, 0.25)
    np.testing.assert_array_equal(source.read().pixels[0], pixels[2])
    np.testing.assert_array_equal(open_image(path, pages="stack").read().pixels[0], pixels)
    np.testing.assert_array_equal(open_image(path, pages="channels").read().pixels, pixels)
    with pytest.raises(ImageError, match="time point 4, where there are 4"):
        open_image(path, time=4)
    assert open_image(write(tmp_path / "b.zarr", pixels[0], "yx", unit=None)).geometry.unit == "px"


def test_five_axes(tmp_path):
    """T, C, Z, Y, X: a time point is a volume with channels; frames as channels stand before the channels of each."""
    pixels = RNG.integers(0, 256, (2, 2, 3, 8, 9), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "tczyx", "0.4", (1, 1, 1, 8, 9))
    np.testing.assert_array_equal(open_image(path, time=1).read().pixels, pixels[1])
    np.testing.assert_array_equal(open_image(path, pages="channels").read().pixels, pixels.reshape(4, 3, 8, 9))
    with pytest.raises(ImageError, match="2 time points"):
        open_image(path, pages="stack")


def test_several_images_and_plates_need_a_name(tmp_path):
    """Numbered images in one folder, and the fields of a plate, are refused with their names, and taken by one."""
    pixels = RNG.integers(0, 256, (2, 8, 9), np.uint8)
    many = tmp_path / "many.zarr"
    zarr.open_group(many, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    plate = tmp_path / "plate.zarr"
    group = zarr.open_group(plate, mode="w", zarr_format=2)
    group.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    group.create_group("A/1").attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
    for number in (0, 1):
        write(many / str(number), pixels[number], "yx", "0.4")
        write(plate / "A" / "1" / str(number), pixels[number], "yx", "0.4")
    for path, name in ((many, "1"), (plate, "A/1/1"), (plate, "1")):
        np.testing.assert_array_equal(open_image(path, series=name).read().pixels[0], pixels[1])
        with pytest.raises(ImageError, match=r"2 images.*--series"):
            open_image(path)
        with pytest.raises(ImageError, match="one of"):
            open_image(path, series="7")


def chunk_files(path):
    return sorted(
        p for p in (path / "0").rglob("*") if p.is_file() and p.name not in {"zarr.json", ".zarray", ".zattrs"}
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_absent_chunks_are_background_and_noted(tmp_path, version):
    """A chunk that is not there holds the fill value, as the array says, and the source says how many."""
    pixels = RNG.integers(1, 256, (32, 32), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "yx", version, (16, 16), fill_value=7)
    assert open_image(path).missing == Missing(0, 4)
    chunk_files(path)[0].unlink()
    source = open_image(path)
    assert source.missing == Missing(1, 4, "1 of 4 chunks are not in the folder, read as its fill value 7")
    wanted = pixels.copy()
    wanted[:16, :16] = 7
    np.testing.assert_array_equal(source.read().pixels[0], wanted)


def test_a_missing_chunk_without_a_fill_value_is_refused(tmp_path):
    """Zarr v2 may leave the fill value undefined: then an absent chunk is a missing one, before or while reading."""
    pixels = RNG.integers(1, 256, (32, 32), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "yx", "0.4", (16, 16))
    about = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(about | {"fill_value": None}))
    source = open_image(path)
    np.testing.assert_array_equal(source.read().pixels[0], pixels)
    chunk_files(path)[2].unlink()
    with pytest.raises(ImageError, match="no fill value"):
        source.read()
    with pytest.raises(ImageError, match=r"1 chunks that are not there, first 1[./]0"):
        open_image(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", ["0", "1"])
def test_an_empty_chunk_is_refused_before_it_is_decoded(tmp_path, version, level):
    """0 bytes are no chunk, of no level: the header says so; a note that someone left beside the chunks is none."""
    pixels = RNG.integers(1, 256, (32, 32), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "yx", version, (8, 8), levels=2)
    (path / level / "notes.txt").touch()
    assert [missing.count for missing in open_image(path).absent] == [0, 0]
    names = {"0.4": ("1/0", "1/1"), "0.5": ("c/1/0", "c/1/1")}[version]
    files = [path / level / name for name in names]
    if version == "0.4" and not files[0].exists():
        files = [path / level / name.replace("/", ".") for name in names]
    for file in files:
        file.write_bytes(b"")
    first = files[0].relative_to(path / level).as_posix()
    with pytest.raises(ImageError, match=f"a.zarr/{level}: got 2 chunk files of 0 bytes, first {first}"):
        open_image(path)


def test_a_chunk_that_is_emptied_while_the_image_is_open_is_refused(tmp_path):
    """It was whole when the header was read."""
    path = write(tmp_path / "a.zarr", RNG.integers(1, 256, (32, 32), np.uint8), "yx", "0.5", (16, 16))
    source = open_image(path)
    (path / "0/c/1/1").write_bytes(b"")
    with pytest.raises(ImageError, match="1/1: got no bytes"):
        source.read()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_that_is_cut_short_is_refused(tmp_path, version):
    """A truncated chunk file is damage, never background; the chunks beside it are read."""
    pixels = RNG.integers(1, 256, (32, 32), np.uint8)
    path = write(tmp_path / "a.zarr", pixels, "yx", version, (16, 16))
    file = chunk_files(path)[3]
    file.write_bytes(file.read_bytes()[:10])
    source = open_image(path)
    np.testing.assert_array_equal(source.read(Window((0, 0), (16, 32))).pixels[0], pixels[:16])
    with pytest.raises(ImageError, match=file.name):
        source.read()


def test_what_is_no_image_is_refused(tmp_path):
    """Absurd sizes, impossible scales, odd axes, missing levels and broken JSON each say what came."""
    pixels = RNG.integers(1, 256, (32, 32), np.uint8)
    good = write(tmp_path / "good.zarr", pixels, "yx", "0.5", (16, 16))

    def changed(name, file, change):
        path = tmp_path / name
        shutil.copytree(good, path)
        about = json.loads((path / file).read_text())
        change(about)
        (path / file).write_text(json.dumps(about))
        return path

    def scale(value):
        return lambda a: a["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "scale": [value, 1.0]}]
        )

    bad = {
        "claims": changed("size.zarr", "0/zarr.json", lambda a: a.update(shape=[1_000_000, 1_000_000])),
        "a pixel size of": changed("zero.zarr", "zarr.json", scale(0.0)),
        "above 0": changed("nan.zarr", "zarr.json", scale(float("nan"))),
        "damaged metadata": changed("gone.zarr", "zarr.json", lambda a: a),
        "multiscales": changed("none.zarr", "zarr.json", lambda a: a["attributes"].clear()),
        "axes": changed(
            "axes.zarr", "zarr.json", lambda a: a["attributes"]["ome"]["multiscales"][0].update(axes=["y", "row"])
        ),
        "at least one": changed(
            "levels.zarr", "zarr.json", lambda a: a["attributes"]["ome"]["multiscales"][0].update(datasets=[])
        ),
        "a level of shape": changed(
            "flat.zarr",
            "zarr.json",
            lambda a: a["attributes"]["ome"]["multiscales"][0].update(axes=["z", "y", "x"], datasets=[{"path": "0"}]),
        ),
    }
    shutil.rmtree(bad["damaged metadata"] / "0")
    for came, path in bad.items():
        with pytest.raises(ImageError, match=came):
            open_image(path)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ImageError, match="without metadata"):
        open_image(tmp_path / "empty.zarr")
    (good / "zarr.json").write_text("{")
    with pytest.raises(ImageError, match="damaged metadata"):
        open_image(good)
