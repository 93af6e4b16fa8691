"""DICOM: slices by their place, real distances, rescaled values; gaps and mixed series refused by name."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from pipeline.data.images import open_image
from pipeline.data.layouts import discover
from pipeline.errors import ImageError
from pipeline.types import Window

RNG = np.random.default_rng(4)
VOLUME = RNG.integers(0, 4096, (5, 12, 10), np.uint16)
SERIES = generate_uid()


def write(path, pixels, z=0.0, series=SERIES, **fields):
    """One slice 2 mm x 0.5 mm, at `z` mm along the patient; `fields` change or (None) remove what it says."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality, data.SeriesNumber = series, "CT", 1
    data.Rows, data.Columns, data.SamplesPerPixel = *pixels.shape[:2], 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelSpacing, data.ImageOrientationPatient = [2, 0.5], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [10, 20, z]
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path):
    """Five slices, 3 mm apart, their names in no order."""
    folder = tmp_path / "scan"
    for number, name in enumerate("dbeac"):
        write(folder / f"{name}.dcm", VOLUME[number], 3.0 * number)
    return folder


def test_slices_are_sorted_by_their_place(series):
    """Whatever the files are called, Z is the place along the normal; its spacing is the slices' real distance."""
    source = open_image(series)
    assert (source.shape, source.axes, source.dtype, source.block) == ((1, 5, 12, 10), "CZYX", np.uint16, (12, 10))
    assert (source.geometry.spacing, source.geometry.unit) == ((3.0, 2.0, 0.5), "mm")
    np.testing.assert_array_equal(source.read().pixels[0], VOLUME)
    seen = []
    source.on_decode = seen.append
    np.testing.assert_array_equal(source.read(Window((1, 2, 3), (3, 9, 8))).pixels[0], VOLUME[1:3, 2:9, 3:8])
    assert [key[2] for key in seen] == [1, 2]
    affine = source.geometry.affine
    np.testing.assert_allclose(affine @ [1, 1, 2, 1], [-10.5, -22.0, 6.0, 1.0])  # right and anterior are -x and -y


def test_values_are_rescaled_and_turned_round(tmp_path):
    """Slope and intercept of each slice, signed numbers, white-is-zero, colour, and RLE."""
    signed = RNG.integers(-1000, 1000, (12, 10)).astype(np.int16)
    path = write(tmp_path / "a.dcm", signed, RescaleSlope=2, RescaleIntercept=-1024)
    source = open_image(path)
    assert (source.shape, source.dtype, source.geometry.spacing) == ((1, 12, 10), np.float32, (2.0, 0.5))
    np.testing.assert_array_equal(source.read().pixels[0], signed.astype(np.float32) * 2 - 1024)
    path = write(tmp_path / "b.dcm", VOLUME[0], PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(open_image(path).read().pixels[0], 65535 - VOLUME[0])
    colour = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    path = write(tmp_path / "c.dcm", colour, PixelSpacing=None)
    source = open_image(path)
    assert (source.mode, source.geometry.unit) == ("RGB", "px")
    np.testing.assert_array_equal(source.read().pixels, np.moveaxis(colour, -1, 0))
    data = pydicom.dcmread(write(tmp_path / "d.dcm", VOLUME[1]))
    data.compress(RLELossless)
    data.save_as(tmp_path / "d.dcm")
    np.testing.assert_array_equal(open_image(tmp_path / "d.dcm").read().pixels[0], VOLUME[1])


@pytest.mark.parametrize(
    ("number", "fields", "came"),
    [
        (2, {"z": 6.5}, r"3\.500 mm between b\.dcm and e\.dcm"),
        (2, {"z": 3.0}, r"two slices in one place \(b\.dcm and e\.dcm\)"),
        (2, {"ImagePositionPatient": None}, r"1 slices that do not say where they lie \(e\.dcm\)"),
        (2, {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "not parallel"),
        (2, {"NumberOfFrames": 3}, "3 frames"),
        (2, {"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        (2, {"BitsStored": 12}, "BitsStored 12, where a.dcm has 16"),
        (2, {"RescaleSlope": "nan"}, "rescale slope"),
        (2, {"series": generate_uid(), "SeriesNumber": 2}, r"2 images: 0 '1' \(4 x 12 x 10\), 1 '2'.*--series"),
    ],
)
def test_series_that_do_not_fit_are_refused_by_name(series, number, fields, came):
    """A gap, two slices in one place, another plane, another series: the files at fault are named."""
    write(series / f"{'dbeac'[number]}.dcm", VOLUME[number], **{"z": 3.0 * number, **fields})
    with pytest.raises(ImageError, match=came):
        open_image(series)


def test_positions_that_are_no_numbers_are_refused(series):
    """NaN as a place cannot be sorted."""
    write(series / "e.dcm", VOLUME[2], ImagePositionPatient=[10, 20, "nan"])
    with pytest.raises(ImageError, match="no numbers"):
        open_image(series)


def test_one_of_several_series_is_taken_by_number_or_name(series):
    """Two series in one folder: each is read whole when it is named."""
    other = generate_uid()
    for number in range(2):
        write(series / f"x{number}.dcm", VOLUME[number], 5.0 * number, other, SeriesNumber=2, SeriesDescription="T1")
    assert open_image(series, series="0").shape == (1, 5, 12, 10)
    assert open_image(series, series="T1").geometry.spacing[0] == 5.0
    with pytest.raises(ImageError, match="time point 2, where there is 1"):
        open_image(series, series="0", time=2)


def test_damage_is_found_before_anything_is_allocated(series, tmp_path):
    """Cut in the pixels, cut in the header, zero spacing, an absurd size, no image, no DICOM at all."""
    whole = (series / "a.dcm").read_bytes()
    (series / "a.dcm").write_bytes(whole[:-50])
    with pytest.raises(ImageError, match=r"a\.dcm.*damaged pixels"):
        open_image(series).read()
    (series / "a.dcm").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"a\.dcm.*damaged DICOM"):
        open_image(series)
    path = tmp_path / "one.dcm"
    with pytest.raises(ImageError, match="above 0"):
        open_image(write(path, VOLUME[0], PixelSpacing=[0, 1]))
    with pytest.raises(ImageError, match="claims"):
        open_image(write(path, VOLUME[0], Rows=60_000, Columns=60_000), max_megapixels=1e6)
    with pytest.raises(ImageError, match="without an image"):
        open_image(write(path, VOLUME[0], Rows=None))
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match="holds no DICOM"):
        open_image(tmp_path / "none")


def test_pixels_of_another_shape_are_refused(tmp_path, monkeypatch):
    """A file that changed its size after it was opened is not taken for the image that was."""
    path = write(tmp_path / "a.dcm", VOLUME[0])
    source = open_image(path)
    write(path, VOLUME[0][:6])
    with pytest.raises(ImageError, match="those of its header"):
        source.read()


def test_a_folder_of_slices_is_one_image(series, tmp_path):
    """Slices of one series are one case, X-rays each of their own are one each; the folder itself may be given."""
    for number in range(3):
        write(tmp_path / "xrays" / f"{number}.dcm", VOLUME[number], series=generate_uid())
    (series / "notes.txt").write_text("not an image")
    found = discover(tmp_path)
    assert [case.relative for case in found.cases] == ["scan", "xrays/0.dcm", "xrays/1.dcm", "xrays/2.dcm"]
    assert [case.id for case in found.cases] == ["scan", "xrays/0", "xrays/1", "xrays/2"]
    assert not found.orphans
    alone = discover(series)
    assert [(case.image, case.relative) for case in alone.cases] == [(series, "scan")]
    (series / "a.dcm").write_bytes(b"text")
    assert discover(tmp_path).cases[0].relative == "scan"


@pytest.mark.data
def test_a_real_series():
    """The 17 slices in $MASKLINE_DATA: 2 mm apart, as pydicom reads each."""
    folder = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "nifti_misc" / "torchio_dicom"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    source = open_image(folder)
    assert (source.shape, source.geometry.spacing) == ((1, 17, 128, 88), (2.0, 2.0, 2.0))
    files = sorted(folder.glob("*.dcm"), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
    data = pydicom.dcmread(files[3])
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    np.testing.assert_allclose(source.read().pixels[0, 3], data.pixel_array * slope + intercept)
