"""Labels on disk: the same labels come back, and the same labels give the same bytes."""

import gzip
import hashlib
import io
import json

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.data.geojson import write_geojson
from pipeline.data.labels import merge_geojson, read_geojson, read_labels, write_labels
from pipeline.data.nifti_labels import _Sink
from pipeline.errors import ImageError, MaskError, OutputError
from pipeline.types import Geometry

SMALL = np.array([[0, 1, 1], [0, 0, 2]], np.uint32)
MICRONS = Geometry((0.5, 0.25), "um")


def nifti(path, shape=(5, 4, 3), affine=None, dtype=np.int16):
    """A NIfTI image (x, y, z) with an oblique affine and both codes set."""
    if affine is None:
        affine = np.array([[1.5, 0.1, 0, -7], [-0.1, 2, 0, 3], [0, 0, 2.5, 11], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(np.zeros(shape, dtype), affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("spacing", "unit"), [((3.0, 2.0, 0.5), "mm"), ((4.0, 4.0, 4.0), "um")])
def test_an_affine_is_written_in_its_own_unit(tmp_path, spacing, unit):
    """The affine of a DICOM series is in mm, also where the spacing is one that was told, in um."""
    affine = np.array([[-0.5, 0, 0, 7], [0, -2.0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    write_labels(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.uint32), Geometry(spacing, unit, affine), tmp_path)
    read = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.affine, affine)
    assert (read.shape, read.header.get_xyzt_units()[0]) == ((6, 5, 4), "mm")
    assert read_labels(tmp_path / "a.nii.gz")[1].spacing == (3.0, 2.0, 0.5)


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz", "a.nii"])
@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
def test_labels_come_back(tmp_path, name, shape):
    """Write, then read: labels, spacing and unit, in 2-D and 3-D."""
    labels = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint32)
    geometry = Geometry((2.0, 0.5, 0.25)[-len(shape) :], "um")
    write_labels(tmp_path / name, labels, geometry)
    back, there = read_labels(tmp_path / name)
    assert back.dtype == np.uint32
    assert (back == labels).all()
    assert there == geometry


@pytest.mark.parametrize(("largest", "dtype"), [(1, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_labels_never_wrap(tmp_path, largest, dtype):
    """uint16 as long as it holds every label, uint32 beyond; 65,536 is not 0."""
    labels = np.full((4, 4), largest, np.uint32)
    write_labels(tmp_path / "a.tif", labels, Geometry.pixels())
    assert tifffile.imread(tmp_path / "a.tif").dtype == dtype
    assert read_labels(tmp_path / "a.tif")[0].max() == largest


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz"])
def test_the_same_labels_give_the_same_bytes(tmp_path, name):
    """Byte-identical under another name and at another time, and the digest is the file's."""
    digests = {write_labels(tmp_path / folder / name, SMALL, MICRONS) for folder in ("one", "two")}
    assert digests == {hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest()}


def test_a_label_tiff_says_nothing_about_when_and_by_what(tmp_path):
    """No date, no software; a description of ours with a format version, and the resolution for other programs."""
    write_labels(tmp_path / "a.tif", SMALL, MICRONS)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        tags = tiff.pages[0].tags
        assert "DateTime" not in tags
        assert "Software" not in tags
        assert json.loads(tags["ImageDescription"].value)["maskline"]["format_version"] == 1
        x = tags["XResolution"].value
        assert x[0] / x[1] == pytest.approx(40_000)  # pixels a cm at 0.25 um
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE


def test_a_nifti_label_has_the_affine_of_its_image(tmp_path):
    """Affine, codes, pixdim and unit to the bit; the dtype alone is the labels'. The gzip header holds no time."""
    source = nifti(tmp_path / "image.nii.gz")
    labels = np.arange(60, dtype=np.uint32).reshape(3, 4, 5)
    write_labels(tmp_path / "out.nii.gz", labels, Geometry((2.5, 2.0, 1.5), "mm"), source)
    one, other = nibabel.load(source), nibabel.load(tmp_path / "out.nii.gz")
    for field in ("sform_code", "qform_code", "quatern_b", "quatern_c", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        assert (one.header[field] == other.header[field]).all(), field
    assert one.header["pixdim"].tobytes() == other.header["pixdim"].tobytes()
    assert other.get_data_dtype() == np.uint16
    assert (np.asarray(other.dataobj) == labels.T).all()
    assert (tmp_path / "out.nii.gz").read_bytes()[4:8] == bytes(4)


def test_a_single_slice_keeps_its_third_axis(tmp_path):
    """An image of shape (5, 4, 1) is 2-D here, and its labels are (5, 4, 1) on disk again."""
    source = nifti(tmp_path / "image.nii.gz", (5, 4, 1))
    write_labels(tmp_path / "out.nii.gz", np.ones((4, 5), np.uint32), Geometry.pixels(), source)
    assert nibabel.load(tmp_path / "out.nii.gz").shape == (5, 4, 1)
    assert read_labels(tmp_path / "out.nii.gz")[0].shape == (4, 5)


def test_labels_of_another_image_are_refused(tmp_path):
    """A label image that does not have the shape of `like` is not written under its affine."""
    source = nifti(tmp_path / "image.nii.gz")
    with pytest.raises(OutputError, match="wanted those of image"):
        write_labels(tmp_path / "out.nii.gz", np.zeros((5, 4, 3), np.uint32), Geometry.pixels(3), source)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("a.png", SMALL, "suffix '.png'"),
        ("a.tif", SMALL.astype(float), "float64"),
        ("a.tif", SMALL[0], r"labels \(3,\)"),
        ("a.tif", SMALL.astype(np.int64) - 1, "renumber"),
        ("a.tif", SMALL.astype(np.int64) << 40, "renumber"),
    ],
)
def test_what_is_no_label_image_is_not_written(tmp_path, name, labels, message):
    """A wrong suffix, type, shape or range is an OutputError, and no file appears."""
    with pytest.raises(OutputError, match=message):
        write_labels(tmp_path / name, labels, Geometry.pixels())
    assert not list(tmp_path.iterdir())


def test_float_labels_that_are_whole_are_read(tmp_path):
    """Some published NIfTI labels are stored as float."""
    nibabel.save(nibabel.Nifti1Image(np.array([[0, 1.0], [2, 0]], np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_labels(tmp_path / "a.nii.gz")[0].tolist() == [[0, 2], [1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [([[0, 0.5]], "not whole"), ([[0, -1.0]], "from -1.0"), ([[0, 1e12]], "to 9.9"), ([[0, np.nan]], "nan")],
)
def test_what_is_no_label_is_refused(tmp_path, values, message):
    """Probabilities, negative, huge and missing numbers are no labels."""
    tifffile.imwrite(tmp_path / "a.tif", np.array(values, np.float32))
    with pytest.raises(MaskError, match=message):
        read_labels(tmp_path / "a.tif")


def test_a_coloured_label_image_is_refused(tmp_path):
    """Colours are not numbers."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    with pytest.raises(MaskError, match="3 channels"):
        read_labels(tmp_path / "a.tif")


def test_a_bilevel_label_image_holds_ones(tmp_path):
    """A 1-bit TIFF is read as 0 and 1, not as 0 and 255."""
    tifffile.imwrite(tmp_path / "a.tif", np.array([[True, False]]))
    assert read_labels(tmp_path / "a.tif")[0].tolist() == [[1, 0]]


@settings(max_examples=60)
@given(arrays(np.uint32, (9, 8), elements=st.sampled_from([0, 0, 1, 2, 5, 1000])))
def test_geojson_round_trip_is_exact(tmp_path_factory, labels):
    """Any label image, in pieces and with holes, comes back pixel for pixel with its own numbers."""
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    write_geojson(path, labels)
    assert (read_geojson(path, labels.shape) == labels).all()


def test_geojson_is_what_qupath_reads(tmp_path):
    """A FeatureCollection of named annotations in pixels; a hole is a second ring; a score is a measurement."""
    labels = np.zeros((6, 6), np.uint32)
    labels[1:4, 2:5] = 7
    labels[2, 3] = 0
    write_geojson(tmp_path / "a.geojson", labels, {7: 0.5})
    tree = json.loads((tmp_path / "a.geojson").read_text())
    assert tree["type"] == "FeatureCollection"
    assert tree["format_version"] == 1
    (feature,) = tree["features"]
    assert feature["type"] == "Feature"
    assert feature["properties"] == {"objectType": "annotation", "name": "7", "measurements": {"score": 0.5}}
    assert feature["geometry"]["type"] == "Polygon"
    outer, hole = feature["geometry"]["coordinates"]
    assert sorted(map(tuple, outer[:-1])) == [(2, 1), (2, 4), (5, 1), (5, 4)]
    assert sorted(map(tuple, hole[:-1])) == [(3, 2), (3, 3), (4, 2), (4, 3)]


def feature(coordinates, kind="Polygon", name=None):
    properties = {"objectType": "annotation"} if name is None else {"name": name}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def square(x, y, side):
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def merge(tmp_path, *features, bare=False):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(list(features) if bare else {"type": "FeatureCollection", "features": list(features)}))
    return merge_geojson(path, (10, 12), "case")


@pytest.mark.parametrize("bare", [True, False])
def test_qupath_exports_with_and_without_a_collection(tmp_path, bare):
    """A list of features is as good; objects without a name are numbered in order."""
    merged = merge(tmp_path, feature(square(0, 0, 2)), feature(square(5, 5, 3)), bare=bare)
    assert merged.objects == 2
    assert merged.labels[0, 0] == 1
    assert (merged.labels[5:8, 5:8] == 2).all()
    assert np.count_nonzero(merged.labels) == 4 + 9


def test_corrected_objects_keep_their_numbers(tmp_path):
    """Two named objects keep 9 and 4; a new one is numbered on."""
    merged = merge(
        tmp_path, feature(square(0, 0, 2), name="9"), feature(square(4, 0, 2)), feature(square(8, 0, 2), name="4")
    )
    assert merged.labels[0, [0, 4, 8]].tolist() == [9, 10, 4]


def test_overlapping_outlines_go_to_the_smaller(tmp_path):
    """The same rule as for mask files, with a finding that names both."""
    merged = merge(tmp_path, feature(square(0, 0, 6)), feature(square(4, 4, 3)))
    assert merged.labels[5, 5] == 2
    assert [(f.code, f.file) for f in merged.findings] == [("mask_overlap", "a.geojson#2")]


def test_an_object_that_is_covered_leaves_a_row(tmp_path):
    """The same outline twice: one object, one finding, numbers without a gap."""
    merged = merge(tmp_path, feature(square(0, 0, 2)), feature(square(0, 0, 2)), feature(square(6, 6, 2)))
    assert merged.objects == 2
    assert np.unique(merged.labels).tolist() == [0, 1, 2]
    assert [f.code for f in merged.findings] == ["mask_overlap", "mask_hidden"]


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (feature([3, 4], "Point"), "outline_no_area"),
        ({"type": "Feature", "geometry": None}, "outline_no_area"),
        (feature([[[0, 0], ["x", 1]]]), "outline_broken"),
        (feature(None, "MultiPolygon"), "outline_broken"),
        (feature(square(50, 50, 3)), "mask_empty"),
        (feature([[[0.6, 0.6], [0.9, 0.6], [0.9, 0.9]]]), "mask_empty"),
        (feature([], "MultiPolygon"), "mask_empty"),
    ],
)
def test_no_outline_vanishes_without_a_row(tmp_path, odd, code):
    """Points, broken rings, outlines beyond the image or between pixel centres each give a finding that names them."""
    merged = merge(tmp_path, feature(square(0, 0, 2)), odd)
    assert merged.objects == 1
    assert [(f.code, f.file, f.case) for f in merged.findings] == [(code, "a.geojson#2", "case")]


@pytest.mark.parametrize(
    "text", ["{", '{"features": 3}', '{"type": "FeatureCollection", "features": [3]}', "[1]", "{}"]
)
def test_other_json_is_refused(tmp_path, text):
    """What holds no features is a MaskError, not an image without objects."""
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(MaskError):
        read_geojson(tmp_path / "a.geojson", (10, 10))


def test_geojson_of_a_later_version_is_refused(tmp_path):
    """A format version that we do not know is named."""
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "format_version": 2, "features": []}')
    with pytest.raises(MaskError, match="format_version 2"):
        read_geojson(tmp_path / "a.geojson", (10, 10))


def test_a_missing_geojson_is_an_image_error(tmp_path):
    """As for every file that cannot be read."""
    with pytest.raises(ImageError, match="No such file"):
        read_geojson(tmp_path / "a.geojson", (10, 10))


def test_outlines_are_two_dimensional(tmp_path):
    """Volumes are neither written to GeoJSON nor read from it."""
    with pytest.raises(OutputError, match="3 dimensions"):
        write_geojson(tmp_path / "a.geojson", np.zeros((2, 3, 4), np.uint32))
    write_geojson(tmp_path / "a.geojson", SMALL)
    with pytest.raises(MaskError, match="2-D"):
        read_geojson(tmp_path / "a.geojson", (2, 3, 4))


def test_a_damaged_label_nifti_is_an_image_error(tmp_path):
    """A gzip stream that ends early is no label image."""
    write_labels(tmp_path / "a.nii.gz", np.arange(6000, dtype=np.uint32).reshape(20, 300), Geometry.pixels())
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises((EOFError, ImageError)):
        gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    with pytest.raises(ImageError):
        read_labels(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_does_not_change_labels(tmp_path, dtype):
    """How a label image wants to be shown does not change its numbers."""
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 3]], dtype), photometric="miniswhite")
    assert read_labels(tmp_path / "a.tif")[0].tolist() == [[0, 3]]


def test_a_bilevel_mask_file_is_taken_as_stored(tmp_path):
    """tifffile writes bool as white-is-zero: the object stays the object when it is one mask among others."""
    from pipeline.data.masks import merge_masks

    mask = np.zeros((6, 7), bool)
    mask[2:4, 3:5] = True
    tifffile.imwrite(tmp_path / "a.tif", mask)
    assert (merge_masks([tmp_path / "a.tif"], (6, 7), "case").labels == mask).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_labels_written_slice_by_slice_are_nibabels(tmp_path, name, dtype):
    """The bytes are those of the whole volume, cast, written and gzipped at once."""
    labels = np.random.default_rng(0).integers(0, 3, (40, 30, 70)).astype(dtype)
    sha256 = write_labels(tmp_path / name, labels, Geometry((2.0, 1.0, 1.0), "mm"))
    image = nibabel.Nifti1Image(labels.astype(np.uint16).T, np.diag((1.0, 1.0, 2.0, 1.0)))
    image.header.set_xyzt_units("mm")
    wanted = image.to_bytes() if name == "a.nii" else gzip.compress(image.to_bytes(), 6, mtime=0)
    assert (tmp_path / name).read_bytes() == wanted and hashlib.sha256(wanted).hexdigest() == sha256


def test_a_label_file_is_written_in_order():
    """A gap becomes zeros; going back is refused."""
    sink = _Sink(io.BytesIO(), packed=False)
    assert sink.write(b"ab") == 2 and sink.seek(4) == 4 and sink.tell() == 4
    with pytest.raises(io.UnsupportedOperation, match="in order"):
        sink.seek(3)
