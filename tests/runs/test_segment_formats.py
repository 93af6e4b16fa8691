"""Whatever an image is kept in, `segment` takes it or says in its row why not; labels come back in kind."""

import shutil
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from squares import fingerprint, rows_of

from pipeline.data.labels import read_geojson, read_labels, write_labels
from pipeline.results import names
from pipeline.runs import case_products
from pipeline.runs.score_labels import score_folder
from pipeline.runs.verify_folder import verify_folder
from pipeline.types import Geometry

GREY = np.zeros((40, 50), np.uint8)
GREY[4:10, 5:15], GREY[20:30, 20:40] = 200, 150
EXPECTED = np.zeros((40, 50), np.uint32)
EXPECTED[4:10, 5:15], EXPECTED[20:30, 20:40] = 1, 2
RGB = np.repeat(GREY[..., None], 3, axis=2)
RGBA = np.concatenate([RGB, np.full((40, 50, 1), 255, np.uint8)], axis=2)


def encode(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for suffix in ("png", "jpg", "jpeg", "bmp"):
        encode(folder / f"grey_{suffix}.{suffix}", GREY)
        encode(folder / f"rgb_{suffix}.{suffix}", RGB)
    encode(folder / "rgba_png.png", RGBA)
    encode(folder / "deep_png.png", GREY.astype(np.uint16) * 100)
    for name, pixels in {"grey": GREY, "deep": GREY.astype(np.uint16) * 100, "rgb": RGB, "rgba": RGBA}.items():
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(folder / f"{name}_tif.tif", pixels, photometric=kind)
    return folder


def test_every_format_and_depth_gives_the_same_objects(run, images, tmp_path):
    """PNG, JPEG, BMP, TIFF; 8 and 16 bit; grey, RGB, RGBA: two objects each; 16-bit intensities are the file's own."""
    summary = run()
    assert (summary.done, summary.failed) == (14, 0)
    rows = rows_of(tmp_path / "out")
    for row in rows.values():
        labels, _ = read_labels(tmp_path / "out" / row["labels"])
        lossy = row["path"].endswith(("jpg", "jpeg"))
        np.testing.assert_array_equal(labels > 0, EXPECTED > 0) if not lossy else None
        assert row["objects"] == "2"
    assert rows["rgba_png.png"]["channels"] == "3"
    assert rows["deep_tif.tif"]["dtype"] == "uint16"
    assert float(rows["deep_tif.tif"]["intensity"]) == pytest.approx((200 + 150) / 2 * 100)


def test_pages_are_not_guessed(run, images, tmp_path):
    """A multi-page TIFF fails with a hint until it is said what its pages are."""
    for path in images.iterdir():
        path.unlink()
    tifffile.imwrite(images / "pages.tif", np.stack([GREY, GREY]), photometric="minisblack", metadata=None)
    assert run().exit_code == 4
    row = rows_of(tmp_path / "out")["pages.tif"]
    assert row["status"] == "failed"
    assert "pages" in row["error"] + row["hint"]
    assert run(pages="channels").failed == 0
    assert rows_of(tmp_path / "out")["pages.tif"]["channels"] == "2"


def test_nifti_comes_back_as_nifti(run, images, tmp_path):
    """a.nii.gz in, a.nii.gz out, affine untouched, the same bytes when done again."""
    for path in images.iterdir():
        path.unlink()
    affine = np.array([[-0.5, 0, 0, 7], [0, 0.5, 0, -3], [0, 0, 2.0, 1], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(GREY.T.copy(), affine), images / "a.nii.gz")
    assert run().failed == 0
    path = tmp_path / "out/labels/a.nii.gz"
    read = nibabel.load(path)
    np.testing.assert_array_equal(read.affine, affine)
    np.testing.assert_array_equal(np.squeeze(np.asarray(read.dataobj)).T > 0, EXPECTED > 0)
    before = path.read_bytes()
    assert run(force=True).done == 1
    assert path.read_bytes() == before


def dicom_series(folder: Path) -> np.ndarray:
    """Three slices of the grey picture, tilted in the scanner; answers their affine as NIfTI has it, by hand."""
    across, down = np.array([0.0, 1, 0]), np.array([0.6, 0, -0.8])
    step, first = 3 * np.cross(across, down), np.array([10.0, 20, 30])
    series = generate_uid()
    folder.mkdir()
    for number in range(3):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(number), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.Rows, data.Columns, data.SamplesPerPixel = series, *GREY.shape, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelSpacing, data.ImageOrientationPatient = [2, 0.5], [*across, *down]
        data.ImagePositionPatient = [float(x) for x in first + number * step]
        data.PixelData = GREY.tobytes()
        data.save_as(folder / f"{9 - number}.dcm", enforce_file_format=True)
    affine = np.eye(4)
    affine[:3] = np.stack([0.5 * across, 2 * down, step, first], axis=1)
    return np.diag([-1.0, -1, 1, 1]) @ affine


def test_labels_of_a_dicom_series_are_nifti_with_its_affine(run, images, tmp_path):
    """Every voxel's label lies where the scanner had it; told another size, it still does."""
    for path in images.iterdir():
        path.unlink()
    affine = dicom_series(images / "1.2.840")
    for out, told in (("out", None), ("told", 4.0)):
        assert run(out, pixel_size=told).failed == 0
        read = nibabel.load(tmp_path / out / "labels/1.2.840.nii.gz")
        np.testing.assert_allclose(read.affine, affine, atol=1e-6)
        assert read.header.get_xyzt_units()[0] == "mm"
        labels = np.asarray(read.dataobj)
        assert labels.shape == (50, 40, 3) and ((labels > 0) == (EXPECTED.T[..., None] > 0)).all()
    assert rows_of(tmp_path / "out")["1.2.840"]["labels"] == "labels/1.2.840.nii.gz"
    assert (run().skipped, verify_folder(tmp_path / "out").findings) == (1, ())
    scores = score_folder(tmp_path / "out", tmp_path / "told")
    assert (scores["images"], scores["map"], scores["unexpected"]) == (1, 1, 0)


def test_series_that_have_tiff_labels_are_done_again(run, images, tmp_path, monkeypatch):
    """Results of before have `scan.tif`: the next run writes NIfTI and takes that TIFF away, and no other image's."""
    dicom_series(images / "scan")
    dicom_series(images / "grey_png")
    with monkeypatch.context() as before:
        before.setattr(names, "label_suffix", lambda *_: ".tif")
        before.setattr(case_products, "label_suffix", lambda *_: ".tif")
        assert run().done == 16
    assert (tmp_path / "out/labels/scan.tif").is_file()
    summary = run()
    assert (summary.done, summary.skipped) == (2, 14)
    found = {path.name for path in (tmp_path / "out/labels").iterdir()}
    assert {"scan.nii.gz", "grey_png.nii.gz"} <= found and len(found) == 16 and "scan.tif" not in found
    assert verify_folder(tmp_path / "out").findings == ()


def test_objects_of_volumes_are_measured_in_voxels(run, images, tmp_path):
    """A 3-D image that a segmenter can take gives labels of its shape, and volumes instead of areas."""
    for path in images.iterdir():
        path.unlink()
    nibabel.save(nibabel.Nifti1Image(np.stack([GREY.T] * 3, axis=2), np.eye(4)), images / "volume.nii.gz")
    run()
    row = rows_of(tmp_path / "out")["volume.nii.gz"]
    assert (row["status"], row["planes"], row["objects"]) == ("done", "3", "2")
    table = pd.read_parquet(tmp_path / "out/objects.parquet")
    assert (table["volume_px3"] == table["volume_mm3"]).all() and table["volume_px3"].sum() == 3 * (EXPECTED > 0).sum()


def test_outlines_for_qupath(run, tmp_path):
    """--geojson: outlines that give the labels back."""
    run(geojson=True)
    labels, _ = read_labels(tmp_path / "out/labels/grey_png.tif")
    np.testing.assert_array_equal(read_geojson(tmp_path / "out/geojson/grey_png.geojson", labels.shape), labels)


def test_images_that_are_too_large_are_refused_by_their_header(run, images, tmp_path):
    """The limit is checked before anything is read."""
    assert run(max_megapixels=0.001).failed == 14
    row = rows_of(tmp_path / "out")["grey_png.png"]
    assert row["stage"] == "open"
    assert row["hint"]


def test_bowl_layout_segments_images_only(run, tmp_path):
    """ID/images/ID.png beside ID/masks: labels/ID.tif, and no mask is taken for an image."""
    data = tmp_path / "bowl"
    for name in ("one", "two"):
        for kind, pixels in (("images", RGB), ("masks", GREY)):
            (data / "stage1_train" / name / kind).mkdir(parents=True)
            encode(data / "stage1_train" / name / kind / f"{name if kind == 'images' else 'm1'}.png", pixels)
    assert run(folder=data).done == 2
    assert sorted(path.name for path in (tmp_path / "out/labels").rglob("*.*")) == ["one.tif", "two.tif"]


def test_folders_that_are_images_are_segmented_and_skipped_when_done(run, images, tmp_path):
    """An OME-Zarr is one row with its labels; done again it is skipped, until one of its chunks changes."""
    for path in images.iterdir():
        path.unlink()
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(images / "a.ome.zarr", mode="w")
    group.create_array("0", data=GREY, chunks=(16, 16))
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    assert run().done == 1
    labels, geometry = read_labels(tmp_path / "out/labels/a.ome.zarr")
    np.testing.assert_array_equal(labels > 0, EXPECTED > 0)
    assert geometry.spacing == (0.5, 0.5)
    assert rows_of(tmp_path / "out")["a.ome.zarr"]["labels"] == "labels/a.ome.zarr"
    assert (run().skipped, verify_folder(tmp_path / "out").exit_code) == (1, 0)
    before = fingerprint(tmp_path / "out")
    assert run(force=True).done == 1
    assert fingerprint(tmp_path / "out") == before
    zarr.open_array(images / "a.ome.zarr/0", mode="r+")[:] = 0
    assert (run().done, rows_of(tmp_path / "out")["a.ome.zarr"]["objects"]) == (1, "0")


def zarr_images(folder, count=2):
    """The grey picture as OME-Zarr, in a folder of nothing else."""
    for path in folder.iterdir():
        path.unlink()
    for number in range(count):
        write_labels(folder / f"{number}.ome.zarr", GREY.astype(np.uint32), Geometry((0.5, 0.5), "um"))
    return folder


def test_labels_in_a_folder_are_verified_withdrawn_and_done_again(run, images, tmp_path):
    """A chunk of an OME-Zarr label image that changed or is gone, and a file that was put in, are found out."""
    zarr_images(images)
    assert run().done == 2
    label = tmp_path / "out/labels/0.ome.zarr"
    chunk = label / "0/c/0/0"
    for harm in (lambda: chunk.write_bytes(b"x"), chunk.unlink, lambda: (label / "mine.txt").write_text("hello")):
        harm()
        found = verify_folder(tmp_path / "out").findings
        assert [(f.file, f.code) for f in found] == [("labels/0.ome.zarr", "output_changed")]
        assert (run().done, verify_folder(tmp_path / "out").exit_code) == (1, 0)
    shutil.copytree(label, tmp_path / "out/labels/mine.zarr")
    assert [(f.file, f.code) for f in verify_folder(tmp_path / "out").findings] == [
        ("labels/mine.zarr", "not_on_record")
    ]


def test_labels_in_a_folder_are_taken_away_with_their_image(run, images, tmp_path):
    """An OME-Zarr that no longer opens leaves no labels of what it once was, and no leftovers of a killed run."""
    zarr_images(images)
    run()
    (tmp_path / "out/labels/.0.ome.zarr.1-2.partial/0").mkdir(parents=True)
    (tmp_path / "out/.maskline/holder.json").write_text("{}")
    (images / "0.ome.zarr/zarr.json").write_text("{")
    assert run().failed == 1
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["1.ome.zarr"]


def test_labels_of_omezarr_score_against_each_other(run, images, tmp_path):
    """`maskline score` reads what `segment` wrote, as prediction and as truth."""
    zarr_images(images)
    run()
    run("other")
    scores = score_folder(tmp_path / "out", tmp_path / "other")
    assert (scores["images"], scores["objects_true"], scores["map"], scores["unexpected"]) == (2, 4, 1, 0)


def test_options_that_choose_the_image_decide_what_is_done(run, images, tmp_path):
    """A pyramid's level and a time point give labels of their own; another choice does the image again."""
    for path in images.iterdir():
        path.unlink()
    with tifffile.TiffWriter(images / "a.ome.tif") as writer:
        writer.write(np.stack([GREY * 0, GREY]), metadata={"axes": "TYX"}, subifds=1)
        writer.write(np.stack([GREY * 0, GREY])[:, ::2, ::2], subfiletype=1)
    assert run().failed == 1
    assert "--time 0 to 1" in rows_of(tmp_path / "out")["a.ome.tif"]["hint"]
    assert (run(time=1).done, rows_of(tmp_path / "out")["a.ome.tif"]["objects"]) == (1, "2")
    assert run(time=1).skipped == 1
    assert (run(time=1, level=1).done, rows_of(tmp_path / "out")["a.ome.tif"]["height"]) == (1, "20")
    assert (run(time=0).done, rows_of(tmp_path / "out")["a.ome.tif"]["objects"]) == (1, "0")
