"""Every raster format in every flavour: what was saved is what is read, and nothing half-read is handed on."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pil

from pipeline.data.images import IMAGE_SUFFIXES, is_image_name, open_image, split_suffix
from pipeline.data.sources import check_size, kept_dtype
from pipeline.errors import ImageError
from pipeline.types import Window

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 23), np.uint8)
RGB = RNG.integers(0, 256, (20, 23, 3), np.uint8)
RGBA = RNG.integers(0, 256, (20, 23, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (20, 23), np.uint16)
PAGES = RNG.integers(0, 65536, (3, 20, 23), np.uint16)


def pil(path, pixels, **options):
    Pil.fromarray(pixels).save(path, **options)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, raw):
    """A PNG by hand: `raw` holds the filter byte and the packed samples of every row."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def first(pixels):
    """(Y, X) or (Y, X, S) with the channels in front."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


@pytest.mark.parametrize(
    ("name", "pixels", "wanted", "alpha"),
    [
        ("a.png", GREY, GREY, False),
        ("a.png", RGB, RGB, False),
        ("a.png", RGBA, RGBA[..., :3], True),
        ("a.png", DEEP, DEEP, False),
        ("a.bmp", GREY, GREY, False),
        ("a.bmp", RGB, RGB, False),
        ("a.tif", GREY, GREY, False),
        ("a.tiff", RGB, RGB, False),
        ("a.tif", RGBA, RGBA[..., :3], True),
        ("a.tif", DEEP, DEEP, False),
    ],
)
def test_lossless_files_give_back_what_was_saved(tmp_path, name, pixels, wanted, alpha):
    """8 and 16 bit, grey and colour come back to the last bit, channels first and without alpha."""
    source = open_image(pil(tmp_path / name, pixels))
    read = source.read().pixels
    assert (source.shape, source.dtype, source.axes, source.alpha) == (read.shape, read.dtype, "CYX", alpha)
    assert read.dtype == wanted.dtype
    np.testing.assert_array_equal(read, first(wanted))


def test_grey_with_alpha_is_grey(tmp_path):
    """The second channel of a grey PNG or TIFF with alpha is not an image channel."""
    pair = np.stack([GREY, GREY.T.reshape(20, 23)], axis=-1)
    Pil.fromarray(pair, "LA").save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pair, photometric="minisblack", planarconfig="contig", extrasamples=[2])
    for name in ("a.png", "a.tif"):
        source = open_image(tmp_path / name)
        assert source.alpha
        np.testing.assert_array_equal(source.read().pixels, GREY[None])


def test_palettes_are_expanded(tmp_path):
    """The indices 0, 1, 2 of a palette red, green, blue are colours, not grey levels."""
    picture = Pil.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name in ("a.png", "a.bmp", "a.tif"):
        picture.save(tmp_path / name)
        source = open_image(tmp_path / name)
        assert (source.mode, source.channels) == ("palette", ("red", "green", "blue"))
        np.testing.assert_array_equal(source.read().pixels[:, 0], 255 * np.eye(3, dtype=np.uint8))


def test_a_transparent_palette_stays_three_channels(tmp_path):
    """Transparency in a palette is alpha like any other."""
    Pil.fromarray(GREY % 4, "P").save(tmp_path / "a.png", transparency=1)
    assert open_image(tmp_path / "a.png").read().pixels.shape == (3, 20, 23)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_one_bit_is_0_and_255(tmp_path, name):
    """Black and white are 0 and 255 in uint8, whatever the format."""
    picture = Pil.fromarray(GREY > 127)
    picture.save(tmp_path / name)
    read = open_image(tmp_path / name).read().pixels
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[0], np.where(GREY > 127, 255, 0))


def test_low_bit_greys_fill_the_range(tmp_path):
    """2-bit grey 0, 1, 2, 3 is 0, 85, 170, 255 (PNG specification, sample depth scaling)."""
    (tmp_path / "a.png").write_bytes(png(4, 1, 2, 0, b"\0\x1b"))
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").read().pixels[0], [[0, 85, 170, 255]])


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_agree_with_pil(tmp_path, progressive):
    """Grey and colour JPEGs, plain and progressive, are what PIL's decoder says up to its rounding."""
    for pixels in (GREY, RGB):
        path = pil(tmp_path / "a.jpg", pixels, progressive=progressive)
        read = open_image(path).read().pixels
        assert read.dtype == np.uint8
        oracle = first(np.asarray(Pil.open(path)))
        assert np.abs(read.astype(int) - oracle).max() <= 1


def test_cmyk_is_refused(tmp_path):
    """Print colours are not turned into anything silently."""
    for name in ("a.jpg", "a.tif"):
        Pil.fromarray(RGBA, "CMYK").save(tmp_path / name)
        with pytest.raises(ImageError, match="convert it to RGB"):
            open_image(tmp_path / name)


def test_dtypes_become_three():
    """uint8, uint16, float32 stay, other reals become float32, complex numbers are refused."""
    assert kept_dtype(np.dtype(">u2"), "a") == np.uint16
    assert {kept_dtype(np.dtype(t), "a") for t in ("i2", "u4", "f8", "f2")} == {np.dtype(np.float32)}
    with pytest.raises(ImageError, match="complex64"):
        kept_dtype(np.dtype(np.complex64), "a")


def test_nan_pixels_are_refused(tmp_path):
    """A NaN would spread through every convolution, so it stops at the door."""
    tifffile.imwrite(tmp_path / "a.tif", np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(ImageError, match="1 values that are NaN"):
        open_image(tmp_path / "a.tif").read()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name, pixels):
    """Cut at every 7th byte, no format hands on an image; the last bytes may be checksum or padding."""
    data = pil(tmp_path / name, pixels).read_bytes()
    part = tmp_path / f"cut-{name}"
    for length in (*range(0, len(data) - 12, 7), len(data) - 13):
        part.write_bytes(data[:length])
        with pytest.raises(ImageError):
            open_image(part).read()


def test_a_png_whose_stream_ends_early_is_refused(tmp_path):
    """Well-formed chunks with half of the rows inside: PIL shows black below, we say so."""
    whole = png(23, 20, 8, 0, b"".join(b"\0" + row.tobytes() for row in GREY))
    assert np.array_equal(np.asarray(Pil.open(io.BytesIO(whole))), GREY)
    (tmp_path / "a.png").write_bytes(png(23, 20, 8, 0, b"".join(b"\0" + row.tobytes() for row in GREY[:10])))
    with pytest.raises(ImageError, match="damaged pixels"):
        open_image(tmp_path / "a.png").read()


def test_a_flipped_bit_in_a_png_is_refused(tmp_path):
    """The checksums of the pixels are verified."""
    data = bytearray(imagecodecs.png_encode(GREY))
    data[len(data) // 2] ^= 16
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError):
        open_image(tmp_path / "a.png").read()


def test_what_is_no_image_is_refused(tmp_path):
    """Missing, a folder, empty, and text named .png each say what came."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, came in (
        ("none.png", "No such file"),
        (".", "directory"),
        ("empty.png", "empty"),
        ("text.png", "not an"),
    ):
        with pytest.raises(ImageError, match=came):
            open_image(tmp_path / name)


def test_the_first_bytes_decide_not_the_name(tmp_path):
    """A JPEG named .png is read as a JPEG."""
    pil(tmp_path / "a.jpg", GREY).rename(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").read().pixels.shape == (1, 20, 23)


def test_an_absurd_size_is_refused_from_the_header(tmp_path):
    """60,000 x 60,000 in a header of 60 bytes is answered before anything of that size is allocated."""
    (tmp_path / "a.png").write_bytes(png(60_000, 60_000, 8, 0, b"\0"))
    bitmap = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(bitmap)
    jpeg = bytearray(pil(tmp_path / "a.jpg", GREY).read_bytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "a.jpg").write_bytes(jpeg)
    for name in ("a.png", "a.bmp", "a.jpg"):
        with pytest.raises(ImageError):
            open_image(tmp_path / name)


def test_the_size_limit_is_the_callers(tmp_path):
    """460 pixels pass a limit of 460 and fail one of 459; no pixels at all always fail."""
    path = pil(tmp_path / "a.png", GREY)
    assert open_image(path, max_megapixels=460e-6).shape == (1, 20, 23)
    with pytest.raises(ImageError, match="max_megapixels"):
        open_image(path, max_megapixels=459e-6)
    with pytest.raises(ImageError, match="at least one pixel"):
        check_size("a", (0, 5), 1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_windows_are_slices(tmp_path, name):
    """Any window of a file equals that slice of the whole."""
    source = open_image(pil(tmp_path / name, RGB))
    whole = first(RGB)
    for y in range(0, 20, 6):
        for x in range(0, 23, 5):
            window = Window((y, x), (min(20, y + 7), 23))
            np.testing.assert_array_equal(source.read(window).pixels, whole[:, y : y + 7, x:])


@pytest.mark.parametrize(("start", "stop"), [((0, 0), (21, 23)), ((-1, 0), (5, 5)), ((3, 3), (3, 9)), ((0,), (5,))])
def test_windows_outside_are_refused(tmp_path, start, stop):
    """A window that leaves the image, is empty or has another number of axes is an error, not a smaller answer."""
    source = open_image(pil(tmp_path / "a.png", GREY))
    with pytest.raises(ImageError, match="clip the window"):
        source.read(Window(start, stop))


@pytest.mark.parametrize("stem", ["細胞核", "клетка", "خلية", "नाभिक", "ä ö (1) #%", "e\u0301", "🔬"])
def test_names_in_any_script(tmp_path, stem):
    """No reader cares what a file is called."""
    for suffix in (".png", ".bmp", ".tif"):
        assert open_image(pil(tmp_path / (stem + suffix), GREY)).read().pixels.shape == (1, 20, 23)
        assert split_suffix(stem + suffix) == (stem, suffix)


def test_suffixes_are_told_whole_and_in_any_case():
    """Double suffixes stay together; a hidden file without one has none."""
    assert all(is_image_name("a" + s) and is_image_name("A" + s.upper()) for s in IMAGE_SUFFIXES)
    assert split_suffix("a.ome.tiff") == ("a", ".ome.tiff")
    assert split_suffix(".nii.gz") == (".nii", ".gz")
    assert split_suffix("a.b/c") == ("a.b/c", "")
    assert not is_image_name("a.gz") and not is_image_name(".png") and not is_image_name("png")


def test_headers_that_claim_what_no_file_can_hold(tmp_path):
    """10,000 x 10,000 pixels in a PNG or a JPEG of some hundred bytes are answered from the header."""
    (tmp_path / "a.png").write_bytes(png(10_000, 10_000, 8, 2, b"\0"))
    jpeg = bytearray(pil(tmp_path / "a.jpg", GREY).read_bytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 19_000, 19_000)
    (tmp_path / "b.jpg").write_bytes(jpeg[: at + 40])
    for name in ("a.png", "b.jpg"):
        with pytest.raises(ImageError, match="claims"):
            open_image(tmp_path / name)


def test_choices_that_an_image_does_not_offer_are_refused(tmp_path):
    """A PNG has one image, one time point and one level: asking for another is no reason to give this one."""
    path = pil(tmp_path / "a.png", GREY)
    assert open_image(path, series="0", time=0, level=0).levels == ((20, 23),)
    for asked, came in (({"series": "1"}, "--series 1"), ({"time": 1}, "time point 1"), ({"level": 1}, "--level 1")):
        with pytest.raises(ImageError, match=came):
            open_image(path, **asked)
