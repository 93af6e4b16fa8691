"""A folder with every kind of bad slide and volume: each has its row and its reason, the good ones go on."""

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from squares import fingerprint, rows_of

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
        (folder / name).unlink()
    run(folder=folder, out="alone")
    labels = {n: d for n, d in fingerprint(tmp_path / "out").items() if n.startswith("labels/")}
    assert labels == {n: d for n, d in fingerprint(tmp_path / "alone").items() if n.startswith("labels/")}
    assert len(labels) == 2
