"""TIFF: pages only as told, channels as declared, pixel sizes as stated, and no file that ends early."""

import struct

import numpy as np
import pytest
import tifffile

from pipeline.data.images import open_image
from pipeline.errors import ImageError

RNG = np.random.default_rng(1)
PAGES = RNG.integers(0, 65536, (3, 20, 23), np.uint16)
GREY = PAGES[0]


@pytest.fixture
def paged(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in PAGES:
            writer.write(page, contiguous=False, metadata=None)
    return path


def test_pages_are_not_guessed(paged):
    """Three pages may be slices or channels: without a word they are refused, with one they are that."""
    with pytest.raises(ImageError, match="pages: stack"):
        open_image(paged)
    stack, channels = open_image(paged, pages="stack"), open_image(paged, pages="channels")
    assert (stack.shape, stack.axes) == ((1, 3, 20, 23), "CZYX")
    assert (channels.shape, channels.axes) == ((3, 20, 23), "CYX")
    np.testing.assert_array_equal(stack.read().pixels[0], PAGES)
    np.testing.assert_array_equal(channels.read().pixels, PAGES)


@pytest.mark.parametrize("name", ["plain", "imagej", "ome", "zlib", "paged"])
def test_a_cut_tiff_never_loses_pages(tmp_path, paged, name):
    """Cut at every 37th byte, a file of three pages is never one of two: it is refused, or whole."""
    options = {"imagej": {"imagej": True}, "zlib": {"compression": "zlib"}}.get(name, {})
    path = paged
    if name != "paged":
        path = tmp_path / ("a.ome.tif" if name == "ome" else "a.tif")
        tifffile.imwrite(path, PAGES, photometric="minisblack", **options)
    data = path.read_bytes()
    part = tmp_path / ("cut.ome.tif" if name == "ome" else "cut.tif")
    refused = 0
    for length in range(1, len(data), 37):
        part.write_bytes(data[:length])
        try:
            read = open_image(part, pages="stack").read().pixels
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(read.reshape(PAGES.shape), PAGES)
    assert refused > len(data) // 37 // 2


def test_colour_pages(tmp_path):
    """RGB pages stack behind their channels, or multiply them page by page."""
    pixels = RNG.integers(0, 256, (2, 20, 23, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    stack = open_image(tmp_path / "a.tif", pages="stack").read().pixels
    np.testing.assert_array_equal(stack, np.moveaxis(pixels, -1, 0))
    channels = open_image(tmp_path / "a.tif", pages="channels").read().pixels
    np.testing.assert_array_equal(channels, np.concatenate([np.moveaxis(page, -1, 0) for page in pixels]))


@pytest.mark.parametrize("count", [2, 5])
def test_samples_that_are_not_alpha_are_channels(tmp_path, count):
    """Two or five grey samples a pixel, not declared alpha, are all kept."""
    pixels = RNG.integers(0, 256, (20, 23, count), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="minisblack", planarconfig="separate")
    for name in ("a.tif", "b.tif"):
        source = open_image(tmp_path / name)
        assert (source.alpha, len(source.channels)) == (False, count)
        np.testing.assert_array_equal(source.read().pixels, planes)


def test_declared_channels_need_no_word(tmp_path):
    """ImageJ and OME say what an axis is, also beside a stack."""
    tifffile.imwrite(tmp_path / "a.tif", PAGES, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "a.ome.tif", PAGES, metadata={"axes": "CYX"})
    for name in ("a.tif", "a.ome.tif"):
        np.testing.assert_array_equal(open_image(tmp_path / name).read().pixels, PAGES)
    both = np.stack([PAGES, PAGES + np.uint16(1)], axis=1)
    tifffile.imwrite(tmp_path / "b.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(open_image(tmp_path / "b.tif", pages="stack").read().pixels, both.swapaxes(0, 1))
    tifffile.imwrite(tmp_path / "c.tif", both[None], imagej=True, metadata={"axes": "TZCYX"})
    tifffile.imwrite(tmp_path / "d.tif", np.stack([both, both]), imagej=True, metadata={"axes": "TZCYX"})
    assert open_image(tmp_path / "c.tif", pages="stack").shape == (2, 3, 20, 23)
    with pytest.raises(ImageError, match=r"2 time points.*--time 0 to 1"):
        open_image(tmp_path / "d.tif", pages="stack")


@pytest.mark.parametrize("pixels", [GREY, GREY.astype(np.uint8), GREY > 30_000], ids=["uint16", "uint8", "bool"])
def test_white_is_zero_is_turned_round(tmp_path, pixels):
    """A stored 0 that means white reads as the maximum."""
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    wanted = np.where(pixels, 0, 255) if pixels.dtype == bool else np.iinfo(pixels.dtype).max - pixels
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read().pixels[0], wanted)


@pytest.mark.parametrize(
    "options", [{"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}, {"bigtiff": True}]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compression_tiles_and_byte_order(tmp_path, options, byteorder):
    """How the file is laid out changes nothing about its pixels."""
    tifffile.imwrite(tmp_path / "a.tif", GREY, byteorder=byteorder, **options)
    read = open_image(tmp_path / "a.tif").read().pixels
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read[0], GREY)


def test_other_numbers_become_float32(tmp_path):
    """Signed and double precision pixels keep their values as float32; complex ones are refused."""
    for dtype in (np.int16, np.float64, np.float32):
        tifffile.imwrite(tmp_path / "a.tif", (GREY // 4).astype(dtype) - dtype(7))
        read = open_image(tmp_path / "a.tif").read().pixels
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read[0], (GREY // 4).astype(np.float32) - 7)
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.complex64))
    with pytest.raises(ImageError, match="integers or real numbers"):
        open_image(tmp_path / "a.tif")


def test_images_of_different_sizes_are_refused(tmp_path):
    """A file with two unlike images says nothing about which is meant."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[:9], metadata=None)
    with pytest.raises(ImageError, match=r"2 images: 0 .*20 x 23.*--series"):
        open_image(tmp_path / "a.tif")


def test_an_absurd_size_is_refused_from_the_header(tmp_path):
    """A width and height of 60,000 are answered before tifffile would allocate them."""
    tifffile.imwrite(tmp_path / "a.tif", GREY, metadata=None, compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offsets = [tiff.pages[0].tags[tag].valueoffset for tag in ("ImageWidth", "ImageLength")]
    for offset in offsets:
        data[offset : offset + 2] = struct.pack("<H", 60_000)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"3,600.0 Mpx"):
        open_image(tmp_path / "a.tif")


def test_pixel_sizes_are_read_where_stated(tmp_path):
    """OME and ImageJ give micrometres; a print resolution is no pixel size."""
    tifffile.imwrite(
        tmp_path / "a.ome.tif", GREY, metadata={"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    )
    assert open_image(tmp_path / "a.ome.tif").geometry.spacing == (0.25, 0.5)
    tifffile.imwrite(
        tmp_path / "a.tif", PAGES, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", "spacing": 3, "unit": "um"}
    )
    geometry = open_image(tmp_path / "a.tif", pages="stack").geometry
    assert (geometry.spacing, geometry.unit) == ((3.0, 0.5, 0.25), "um")
    tifffile.imwrite(tmp_path / "b.tif", GREY, resolution=(300, 300), resolutionunit="INCH")
    assert open_image(tmp_path / "b.tif").geometry.unit == "px"
