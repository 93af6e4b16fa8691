"""A folder with every kind of bad slide and volume: each has its row and its reason, the good ones go on."""

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from squares import fingerprint, make_model, rows_of

from pipeline.config import SegmentConfig
from pipeline.data.files import remove
from pipeline.data.images import open_image
from pipeline.errors import ImageError
from pipeline.runs.plan_segmentation import LARGE_FILE, plan_segmentation

SIDE = 64  # px
FIELD = np.zeros((SIDE, SIDE), np.uint8)
FIELD[10:20, 10:30] = 200


def tiles(path: Path, **options) -> Path:
    tifffile.imwrite(path, FIELD, tile=(32, 32), compression="zlib", metadata=None, **options)
    return path


def cut_slide(path: Path) -> None:
    tiles(path, description="Aperio Image Library v11.2.1\r\n64x64 (32x32) Q=30|AppMag = 20|MPP = 0.5")
    path.write_bytes(path.read_bytes()[:-60])


def wrong_magic(path: Path) -> None:
    path.write_bytes(b"II*?" + b"\1" * 500)


def missing_tile(path: Path) -> None:
    """The second tile has no bytes."""
    tiles(path)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        place, kind = tag.valueoffset, {3: "<H", 4: "<I"}[int(tag.dtype)]
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, place + struct.calcsize(kind), 0)
    path.write_bytes(data)


def absurd_size(path: Path) -> None:
    """10^5 x 10^5 pixels are claimed where four tiles lie."""
    wide = np.zeros((64, 70_000), np.uint8)  # so that the tags are 32 bits wide
    tifffile.imwrite(path, wide, tile=(16, 16), compression="zlib", metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            place = tiff.pages[0].tags[tag].offset
            struct.pack_into("<HHII", data, place, tifffile.TIFF.TAGS[tag], 4, 1, 100_000)
    path.write_bytes(data)


def volume(path: Path, place: int, value: bytes) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4), np.uint8), np.diag([2, 2, 2, 1])), path)
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)


def nan_affine(path: Path) -> None:
    volume(path, 280, np.array([np.nan], "<f4").tobytes())


def zero_spacing(path: Path) -> None:
    volume(path, 80, np.array([0], "<f4").tobytes())


def singular_affine(path: Path) -> None:
    """An sform of which two rows are zeros; its code is 1."""
    volume(
        path, 252, np.array([0, 1], "<i2").tobytes() + bytes(24) + np.eye(3, 4, dtype="<f4")[:1].tobytes() + bytes(32)
    )


def empty_chunk(path: Path) -> None:
    stated(lambda about: None)(path)
    (path / "0/c/0/0").write_bytes(b"")


def five_axes(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 2, 2), np.uint8), np.eye(4)), path)


def five_axes_of_pages(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((2, 3, 2, 16, 16), np.uint16), imagej=True, metadata={"axes": "TZCYX"})


BAD = {
    "cut.svs": cut_slide,
    "magic.tif": wrong_magic,
    "missing.tif": missing_tile,
    "absurd.tif": absurd_size,
    "affine.nii": nan_affine,
    "spacing.nii": zero_spacing,
    "singular.nii": singular_affine,
    "chunk.zarr": empty_chunk,
    "axes.nii": five_axes,
    "axes.tif": five_axes_of_pages,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, make in BAD.items():
        make(folder / name)
    tiles(folder / "good.tif")
    tifffile.imwrite(folder / "other.tif", FIELD)
    return folder


def test_each_bad_file_says_what_is_wrong_and_the_good_are_done(run, folder, tmp_path):
    """Stage, error and what to do for each; the good ones are what they are in a folder of their own."""
    summary = run(folder=folder, max_failed_fraction=0.9)
    assert (summary.done, summary.failed, summary.exit_code) == (2, len(BAD), 3)
    rows = rows_of(tmp_path / "out")
    expected = {
        "cut.svs": "cut|end|short|beyond",
        "magic.tif": "not a TIFF|no TIFF|magic",
        "missing.tif": "tile",
        "absurd.tif": "place for each|claims|Mpx",
        "affine.nii": "affine",
        "spacing.nii": "spacing|voxel size|pixdim",
        "singular.nii": "affine that does not move along y and z",
        "chunk.zarr": "1 chunk file of 0 bytes, first c/0/0",
        "axes.nii": "5|axes|dimensions",
        "axes.tif": "time point|slices|pages",
    }
    for name, reason in expected.items():
        row = rows[name]
        assert row["status"] == "failed" and row["stage"] in ("open", "read"), row
        assert any(word in row["error"] for word in reason.split("|")), (name, row["error"])
        assert row["hint"], name
        assert not (tmp_path / "out/labels" / name).exists()
    for name in BAD:
        remove(folder / name)
    run(folder=folder, out="alone")
    labels = {n: d for n, d in fingerprint(tmp_path / "out").items() if n.startswith("labels/")}
    assert labels == {n: d for n, d in fingerprint(tmp_path / "alone").items() if n.startswith("labels/")}
    assert len(labels) == 2


def test_a_dry_run_says_no_to_each_bad_file(folder, tmp_path):
    """What is wrong with them is found in their headers: `no` in place of `do`, and nothing is written."""
    model = make_model(tmp_path / "model")
    plan = plan_segmentation(SegmentConfig(folder=folder, out=tmp_path / "out", model=str(model), track=False))
    refused = {planned.case.relative for planned in plan.todo if planned.refused}
    assert refused == set(BAD) and not (tmp_path / "out").exists()
    assert sum(line.startswith("no ") for line in plan.lines()) == len(BAD)


def tag_of_zero(name: str, **options):
    """A TIFF one of whose tags says 0."""

    def make(path: Path) -> None:
        tifffile.imwrite(path, FIELD, metadata=None, **options)
        with tifffile.TiffFile(path) as tiff:
            tag = tiff.pages[0].tags[name]
            place, kind = tag.valueoffset, {3: "<H", 4: "<I"}[int(tag.dtype)]
        data = bytearray(path.read_bytes())
        struct.pack_into(kind, data, place, 0)
        path.write_bytes(data)

    return make


def stated(change):
    """An OME-Zarr whose metadata `change` has turned into something else."""

    def make(path: Path) -> None:
        group = zarr.open_group(path, mode="w")
        group.create_array("0", shape=FIELD.shape, dtype=FIELD.dtype)[:] = FIELD
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        about = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
        change(about)
        group.attrs["ome"] = about

    return make


def a_plate_of(plate, **wells):
    """A plate, and what its wells say of themselves."""

    def make(path: Path) -> None:
        zarr.open_group(path, mode="w").attrs["ome"] = {"plate": plate}
        for name, well in wells.items():
            zarr.open_group(path / name, mode="w").attrs["ome"] = {"well": well}

    return make


DAMAGED = {
    "rows.tif": tag_of_zero("RowsPerStrip", compression="zlib"),
    "samples.tif": tag_of_zero("SamplesPerPixel"),
    "bits.tif": tag_of_zero("BitsPerSample"),
    "tilewidth.tif": tag_of_zero("TileWidth", tile=(32, 32), compression="zlib"),
    "tilelength.tif": tag_of_zero("TileLength", tile=(32, 32), compression="zlib"),
    "multiscales.zarr": stated(lambda about: about.update(multiscales=["x"])),
    "nothing.zarr": stated(lambda about: about.update(multiscales=[None])),
    "omero.zarr": stated(lambda about: about.update(omero=["x"])),
    "channels.zarr": stated(lambda about: about.update(omero={"channels": ["DAPI"]})),
    "unit.zarr": stated(lambda about: about["multiscales"][0]["axes"][0].update(unit=["um"])),
    "axes.zarr": stated(lambda about: about["multiscales"][0].update(axes=7)),
    "plate.zarr": a_plate_of([]),
    "wells.zarr": a_plate_of({"wells": [{"row": 0}]}),
    "fields.zarr": a_plate_of({"wells": [{"path": "A"}]}, A={"images": [{"acquisition": 0}]}),
    "well.zarr": a_plate_of({"wells": [{"path": "A"}]}, A=["x"]),
}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Each TIFF twice, once so large that its header is read to plan the run, and two good images."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name, make in DAMAGED.items():
        make(folder / name)
        if name.endswith(".tif"):
            (folder / f"padded-{name}").write_bytes((folder / name).read_bytes() + bytes(LARGE_FILE))
    tiles(folder / "good.tif")
    tifffile.imwrite(folder / "other.tif", FIELD)
    return folder


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_a_damaged_header_says_is_one_kind_of_error(tmp_path, name):
    """Opening raises ImageError that names the file, never what the reader stumbled over."""
    path = tmp_path / name
    DAMAGED[name](path)
    with pytest.raises(ImageError, match=r"damaged|wanted") as raised:
        open_image(path)
    assert name in raised.value.where


def test_a_damaged_header_stops_neither_plan_nor_run(run, damaged, tmp_path):
    """Every file has its line in the plan and its row in the results; the good ones are done."""
    count = len(list(damaged.iterdir()))
    model = make_model(tmp_path / "model")
    plan = plan_segmentation(SegmentConfig(folder=damaged, out=tmp_path / "plan", model=str(model), track=False))
    assert len(plan.todo) == count == len(DAMAGED) + 5 + 2
    summary = run(folder=damaged, max_failed_fraction=1.0)
    assert (summary.done, summary.failed, summary.exit_code) == (2, count - 2, 3)
    rows = rows_of(tmp_path / "out")
    for name in (path.name for path in damaged.iterdir() if path.stem not in ("good", "other")):
        row = rows[name]
        assert (row["status"], row["stage"]) == ("failed", "open"), row
        assert row["error"].startswith(name) and row["hint"] and "maskline.log" not in row["hint"], row
