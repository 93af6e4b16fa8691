"""NIfTI: (x, y, z) becomes (Z, Y, X), the affine stays, and impossible headers are refused."""

import gzip

import nibabel
import numpy as np
import pytest

from pipeline.data.images import open_image
from pipeline.errors import ImageError
from pipeline.types import Window

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # x, y, z
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.75, 0.1, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])


def save(path, voxels=VOXELS, affine=AFFINE, kind=nibabel.Nifti1Image, **header):
    image = kind(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patched(path, offset, data):
    """The file with some bytes of its header replaced: nibabel would not write these."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_three_dimensions(tmp_path, name, kind):
    """Axes are reversed, the spacing with them, and the affine is kept to the last bit."""
    nibabel.save(kind(VOXELS, AFFINE), tmp_path / name.lower())
    source = open_image((tmp_path / name.lower()).rename(tmp_path / name))
    assert (source.shape, source.axes, source.dtype) == ((1, 4, 3, 2), "CZYX", np.float32)
    image = source.read()
    np.testing.assert_array_equal(image.pixels[0], VOXELS.transpose(2, 1, 0))
    assert image.pixels[0, 3, 2, 1] == VOXELS[1, 2, 3] == 23
    np.testing.assert_allclose(image.geometry.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1], rtol=1e-6)
    np.testing.assert_allclose(image.geometry.affine, AFFINE, rtol=1e-6)
    assert image.geometry.affine.dtype == np.float64


@pytest.mark.parametrize("voxels", [VOXELS[..., 0], VOXELS[..., :1]], ids=["two axes", "one slice"])
def test_two_dimensions_have_no_z(tmp_path, voxels):
    """A plane is (C, Y, X), also where the file gives it a Z of length 1."""
    source = open_image(save(tmp_path / "a.nii", voxels))
    assert (source.shape, source.axes, len(source.geometry.spacing)) == ((1, 3, 2), "CYX", 2)
    np.testing.assert_array_equal(source.read().pixels[0], VOXELS[..., 0].T)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_small_integers_stay_in_either_byte_order(tmp_path, dtype, order):
    """uint8 and uint16 stay what they are, and big-endian files read alike."""
    image = nibabel.Nifti1Image(VOXELS.astype(dtype), AFFINE, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    nibabel.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == (348).to_bytes(4, "little" if order == "<" else "big")
    pixels = open_image(tmp_path / "a.nii").read().pixels
    assert pixels.dtype == dtype and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels[0], VOXELS.T)


def test_scaling_is_applied(tmp_path):
    """Values are slope * stored + intercept, in float32 even where uint8 is stored."""
    image = nibabel.Nifti1Image(VOXELS.astype(np.uint8), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    stored = patched(tmp_path / "a.nii", 112, np.array([0.5, -3], "<f4").tobytes())
    raw = np.frombuffer(stored.read_bytes()[352:], np.uint8).reshape(4, 3, 2)
    source = open_image(stored)
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source.read().pixels[0], raw * np.float32(0.5) - 3)


@pytest.mark.parametrize(("slope", "inter"), [(np.inf, 0), (-np.inf, 0), (1, np.inf), (1, np.nan)])
def test_infinite_scaling_is_refused(tmp_path, slope, inter):
    """An infinite slope makes every voxel infinite or NaN."""
    path = patched(save(tmp_path / "a.nii"), 112, np.array([slope, inter], "<f4").tobytes())
    with pytest.raises(ImageError):
        open_image(path)


def test_a_nan_affine_is_refused(tmp_path):
    """nibabel accepts it; every position and spacing that follows would be NaN."""
    path = patched(save(tmp_path / "a.nii"), 280, np.array([np.nan], "<f4").tobytes())
    assert not np.isfinite(nibabel.load(path).affine).all()
    with pytest.raises(ImageError, match="affine with NaN"):
        open_image(path)


@pytest.mark.parametrize(
    ("rows", "came"),
    [
        ([[1, 0, 0, 5], [0, 0, 0, 0], [0, 0, 0, 0]], "does not move along y and z"),
        ([[2, 0, 0, 5], [0, 2, 0, 5], [0, 0, 0, 5]], "does not move along z"),
        ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0]], "determinant is 0"),
    ],
)
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, rows, came):
    """An sform with rows of zeros, or two axes in one direction, beside a pixdim of 1: nibabel loads it."""
    path = patched(save(tmp_path / "a.nii", affine=np.eye(4)), 280, np.array(rows, "<f4").tobytes())
    patched(path, 252, np.array([0, 1], "<i2").tobytes())
    assert (
        np.linalg.det(nibabel.load(path).affine) == 0 and nibabel.load(path).header["pixdim"][1:4].tolist() == [1] * 3
    )
    with pytest.raises(ImageError, match=rf"a\.nii.*{came}"):
        open_image(path)


def test_an_affine_may_be_flat_along_an_axis_of_one_voxel(tmp_path):
    """A plane has no third direction to be wrong; sheared and tiny voxels are well."""
    rows = np.array([[1e-4, 0, 0, 5], [5e-5, 1e-4, 0, 5], [0, 0, 0, 5]], "<f4")
    path = patched(save(tmp_path / "a.nii", VOXELS[..., :1], np.eye(4)), 280, rows.tobytes())
    patched(path, 252, np.array([0, 1], "<i2").tobytes())
    assert open_image(path).shape == (1, 3, 2)


def test_a_fourth_axis_needs_a_word(tmp_path):
    """A series is refused unless its axis is said to be channels."""
    series = np.stack([VOXELS, VOXELS + 100], axis=-1)
    path = save(tmp_path / "a.nii", series)
    for pages in ("refuse", "stack"):
        with pytest.raises(ImageError, match="--pages channels"):
            open_image(path, pages=pages)
    source = open_image(path, pages="channels")
    assert source.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(source.read().pixels, series.T)


def test_colour_voxels_are_refused(tmp_path):
    """An RGB NIfTI holds records, not numbers."""
    voxels = np.zeros((2, 3, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(ImageError, match="one number a voxel"):
        open_image(save(tmp_path / "a.nii", voxels))


@pytest.mark.parametrize(("code", "unit", "factor"), [(0, "mm", 1), (1, "mm", 1000), (2, "mm", 1), (3, "um", 1)])
def test_units(tmp_path, code, unit, factor):
    """Metres become millimetres, micrometres stay, and nothing said means millimetres."""
    geometry = open_image(save(tmp_path / "a.nii", affine=np.diag([1, 2, 4, 1]), xyzt_units=code)).geometry
    assert (geometry.spacing, geometry.unit) == ((4 * factor, 2 * factor, factor), unit)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    """Cut at any byte before the gzip trailer, there is an error and no image."""
    data = save(tmp_path / name, np.random.default_rng(0).integers(0, 999, (5, 6, 7)).astype(np.int16)).read_bytes()
    part = tmp_path / f"cut-{name}"
    for length in (*range(0, len(data) - 12, 11), len(data) - 13):
        part.write_bytes(data[:length])
        with pytest.raises(ImageError):
            open_image(part).read()


def test_text_and_gzipped_text_are_refused(tmp_path):
    """A name is no proof."""
    (tmp_path / "a.nii").write_text("not an image")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not an image either" * 99))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(ImageError):
            open_image(tmp_path / name)


def test_an_absurd_size_is_refused_from_the_header(tmp_path):
    """32,767 voxels along each axis in a file of 400 bytes are answered from the header."""
    path = patched(save(tmp_path / "a.nii"), 42, np.array([32767] * 3, "<i2").tobytes())
    with pytest.raises(ImageError, match="max_megapixels"):
        open_image(path)


def test_windows_are_slices(tmp_path):
    """A box of a volume equals that slice of the whole."""
    pixels = open_image(save(tmp_path / "a.nii.gz")).read(Window((1, 0, 1), (3, 2, 2))).pixels
    np.testing.assert_array_equal(pixels[0], VOXELS.T[1:3, 0:2, 1:2])


def test_time_points_are_taken_by_number(tmp_path):
    """The 4th axis is time: one point is the volume at it, plain or gzipped; there are no others."""
    series = np.stack([VOXELS, VOXELS + 100, VOXELS + 200], axis=-1)
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, series)
        with pytest.raises(ImageError, match=r"3 time points \(axis T\).*--time 0 to 2"):
            open_image(path)
        source = open_image(path, time=2)
        np.testing.assert_array_equal(source.read().pixels[0], VOXELS.T + 200)
        np.testing.assert_array_equal(source.read(Window((1, 0, 1), (3, 2, 2))).pixels[0], VOXELS.T[1:3, :2, 1:] + 200)
        both = open_image(path, pages="channels").read(Window((1, 0, 0), (2, 2, 2))).pixels
        np.testing.assert_array_equal(both, series.T[:, 1:2, :2, :2])
        with pytest.raises(ImageError, match="time point 3"):
            open_image(path, time=3)
        with pytest.raises(ImageError, match="--series 1"):
            open_image(path, series="1")


def test_plain_files_are_read_slice_by_slice(tmp_path):
    """A window of an uncompressed volume reads the slices that it touches; a 2-D file is read by rows."""
    source, seen = open_image(save(tmp_path / "a.nii")), []
    source.on_decode = seen.append
    np.testing.assert_array_equal(source.read(Window((1, 0, 1), (3, 2, 2))).pixels[0], VOXELS.T[1:3, 0:2, 1:2])
    assert [key[2] for key in seen] == [1, 2]
    flat = open_image(save(tmp_path / "b.nii", VOXELS[..., 0]))
    np.testing.assert_array_equal(flat.read(Window((1, 0), (3, 1))).pixels[0], VOXELS[..., 0].T[1:3, :1])
    single = open_image(save(tmp_path / "c.nii", VOXELS[..., :1, None].astype(np.uint8)))
    np.testing.assert_array_equal(single.read().pixels[0], VOXELS[..., 0].T)


def test_what_no_image_can_be_is_refused(tmp_path):
    """Five axes, a spacing of zero, and headers that claim more voxels than the file holds."""
    with pytest.raises(ImageError, match=r"shape \(2, 3, 4, 1, 2\)"):
        open_image(save(tmp_path / "a.nii", np.zeros((2, 3, 4, 1, 2), np.uint8)))
    path = save(tmp_path / "a.nii")
    patched(path, 80, np.array([0.0], "<f4").tobytes())
    with pytest.raises(ImageError, match=r"a\.nii.*above 0"):
        open_image(path)
    path = patched(save(tmp_path / "b.nii"), 42, np.array([300, 300, 300], "<i2").tobytes())
    with pytest.raises(ImageError, match="ends early"):
        open_image(path)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ImageError, match="claims"):
        open_image(tmp_path / "b.nii.gz")
