"""TIFF: pages only as told, channels as declared, pixel sizes as stated, and no file that ends early."""

import os
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.data.images import open_image
from pipeline.data.sources import Missing
from pipeline.errors import ImageError
from pipeline.types import Window

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
    with pytest.raises(ImageError, match="--pages stack"):
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


def test_series_are_named_and_taken(tmp_path):
    """Two images in one OME-TIFF: refused with their names, taken by number or name, each with its own pixel size."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels, size in (("left", GREY, 0.5), ("right", PAGES[1][:9], 2.0)):
            writer.write(pixels, metadata={"Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size})
    with pytest.raises(ImageError, match=r"2 images: 0 'left' \(20 x 23\), 1 'right' \(9 x 23\).*--series"):
        open_image(path)
    for series, pixels, size in (("left", GREY, 0.5), ("1", PAGES[1][:9], 2.0)):
        source = open_image(path, series=series)
        np.testing.assert_array_equal(source.read().pixels[0], pixels)
        assert source.geometry.spacing == (size, size)
    for series in ("2", "middle"):
        with pytest.raises(ImageError, match="one of: 0 'left'"):
            open_image(path, series=series)


def test_time_points_are_taken_by_number(tmp_path, paged):
    """A T axis needs --time, or a word that makes it a stack or channels; so do pages that say nothing."""
    tifffile.imwrite(tmp_path / "a.ome.tif", PAGES, metadata={"axes": "TYX"})
    with pytest.raises(ImageError, match=r"3 time points \(axis T\).*--time 0 to 2"):
        open_image(tmp_path / "a.ome.tif")
    for path in (tmp_path / "a.ome.tif", paged):
        np.testing.assert_array_equal(open_image(path, time=2).read().pixels[0], PAGES[2])
        with pytest.raises(ImageError, match="time point 3, where there are 3"):
            open_image(path, time=3)
    both = np.stack([PAGES, PAGES + np.uint16(1)])
    tifffile.imwrite(tmp_path / "b.ome.tif", both, metadata={"axes": "TZYX"})
    np.testing.assert_array_equal(open_image(tmp_path / "b.ome.tif", time=1).read().pixels[0], both[1])
    np.testing.assert_array_equal(open_image(tmp_path / "b.ome.tif", pages="channels").read().pixels, both)
    with pytest.raises(ImageError, match="at most one axis beside channels"):
        tifffile.imwrite(tmp_path / "c.tif", np.stack([both, both]), metadata={"axes": "QTZYX"})
        open_image(tmp_path / "c.tif", pages="stack")
    with pytest.raises(ImageError, match="time point 1, where there is 1"):
        tifffile.imwrite(tmp_path / "d.tif", GREY)
        open_image(tmp_path / "d.tif", time=1)


def test_slices_and_channels_that_the_file_declares_need_no_word(tmp_path):
    """OME's Z is a stack, its C channels with their names; --pages channels makes channels of slices."""
    both = np.stack([PAGES, PAGES + np.uint16(1)])
    about = {
        "axes": "CZYX",
        "Channel": {"Name": ["DAPI", "GFP"]},
        "PhysicalSizeZ": 3,
        "PhysicalSizeY": 1,
        "PhysicalSizeX": 1,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", both, metadata=about)
    source = open_image(tmp_path / "a.ome.tif")
    assert (source.shape, source.channels, source.geometry.spacing) == ((2, 3, 20, 23), ("DAPI", "GFP"), (3, 1, 1))
    np.testing.assert_array_equal(source.read().pixels, both)
    window = Window((1, 2, 3), (3, 9, 20))
    np.testing.assert_array_equal(source.read(window).pixels, both[(slice(None), *window.slices)])
    channels = open_image(tmp_path / "a.ome.tif", pages="channels")
    np.testing.assert_array_equal(channels.read().pixels, both.swapaxes(0, 1).reshape(6, 20, 23))


SVS = "Aperio Image Library v11.2.1\r\n46000x32914 (256x256) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990|Left = 25.69"


def slide(path, description=SVS):
    """A slide as Aperio lays it out: tiles, thumbnail, a level four times smaller."""
    colour = np.moveaxis(RNG.integers(0, 256, (3, 512, 768), np.uint8), 0, -1)
    with tifffile.TiffWriter(path) as writer:
        tiles = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "compression": "zlib"}
        writer.write(colour, description=description, **tiles)
        writer.write(colour[::8, ::8], photometric="rgb", metadata=None, description=description)
        writer.write(colour[::4, ::4], description=description, **tiles)
    return colour


def test_slides_have_levels_and_a_size(tmp_path):
    """An Aperio slide is its baseline with its pyramid, micrometres from MPP; the thumbnail comes by name only."""
    colour = slide(tmp_path / "a.svs")
    source = open_image(tmp_path / "a.svs")
    assert (source.levels, source.block) == (((512, 768), (128, 192)), (128, 128))
    assert (source.geometry.spacing, source.geometry.unit) == ((0.499, 0.499), "um")
    np.testing.assert_array_equal(source.read(level=1).pixels, np.moveaxis(colour[::4, ::4], -1, 0))
    assert open_image(tmp_path / "a.svs", level=1).geometry.spacing == (0.499 * 4, 0.499 * 4)
    assert open_image(tmp_path / "a.svs", series="Thumbnail").shape == (3, 64, 96)
    slide(tmp_path / "b.svs", SVS.replace("0.4990", "0"))
    with pytest.raises(ImageError, match="above 0"):
        open_image(tmp_path / "b.svs")
    slide(tmp_path / "c.svs", SVS.replace("MPP", "mpp?"))
    assert open_image(tmp_path / "c.svs").geometry.unit == "px"


def test_resolution_tags_of_a_microscope_are_a_size(tmp_path):
    """20,000 pixels a centimetre are half a micrometre each; a size of zero or no number is refused."""
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    assert open_image(tmp_path / "a.tif").geometry.spacing == (0.25, 0.5)
    for size in ("0", "-1", "nan"):
        tifffile.imwrite(tmp_path / "a.ome.tif", GREY, metadata={"PhysicalSizeX": 1, "PhysicalSizeY": 125})
        data = (tmp_path / "a.ome.tif").read_bytes()
        assert b'PhysicalSizeY="125"' in data
        (tmp_path / "a.ome.tif").write_bytes(data.replace(b'Y="125"', b'Y="%b"' % size.rjust(3).encode()))
        with pytest.raises(ImageError, match="above 0"):
            open_image(tmp_path / "a.ome.tif")


def tag_places(path, name):
    """Where the numbers of a tag of the first page lie, and how they are packed."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[name]
        return tag.valueoffset, {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]


def set_entries(path, name, values):
    """Overwrite entries of a tag, {number: value}."""
    data = bytearray(path.read_bytes())
    at, layout = tag_places(path, name)
    for number, value in values.items():
        struct.pack_into(layout, data, at + number * struct.calcsize(layout), value)
    path.write_bytes(data)


def tiles_of(path, **options):
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 1
    tifffile.imwrite(path, pixels, tile=(16, 16), metadata=None, compression="zlib", **options)
    return pixels


def test_sparse_tiles_are_background_where_the_file_says_so(tmp_path):
    """Offset 0 and no bytes is how GDAL and OME leave out a tile: it reads as 0, and the source says which."""
    pixels = tiles_of(tmp_path / "a.tif")
    for name in ("TileOffsets", "TileByteCounts"):
        set_entries(tmp_path / "a.tif", name, {1: 0, 6: 0})
    source = open_image(tmp_path / "a.tif")
    note = "2 of 16 tiles are not in the file, read as background 0: tile 1, 6"
    assert source.missing == Missing(2, 16, note)
    pixels[:16, 16:32] = pixels[16:32, 32:48] = 0
    np.testing.assert_array_equal(source.read().pixels[0], pixels)


def test_what_is_left_out_is_told_of_the_level_that_is_taken(tmp_path):
    """Two tiles of the full level, none of the reduced one."""
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 1
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        options = {"tile": (16, 16), "metadata": None, "compression": "zlib"}
        writer.write(pixels, subifds=1, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)
    for name in ("TileOffsets", "TileByteCounts"):
        set_entries(tmp_path / "a.tif", name, {1: 0, 6: 0})
    missing = [open_image(tmp_path / "a.tif", level=level).missing for level in (0, 1)]
    assert [(m.count, m.total, bool(m.note)) for m in missing] == [(2, 16, True), (0, 4, False)]


@pytest.mark.parametrize(("tag", "value"), [("TileByteCounts", 0), ("TileOffsets", 0)])
def test_tiles_without_bytes_are_refused(tmp_path, tag, value):
    """A place without bytes, or bytes without a place, is a tile that was lost: it is named."""
    tiles_of(tmp_path / "a.tif")
    set_entries(tmp_path / "a.tif", tag, {6: value})
    with pytest.raises(ImageError, match="tile 6 of page 0"):
        open_image(tmp_path / "a.tif")


def test_damaged_tiles_are_refused_and_the_others_read(tmp_path):
    """Bytes that do not unpack name their tile; windows beside it are read. A JPEG tile must have its end."""
    pixels = tiles_of(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        at = tiff.pages[0].dataoffsets[5]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "a.tif").write_bytes(data)
    source = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(Window((32, 0), (64, 64))).pixels[0], pixels[32:])
    for _ in range(2):
        with pytest.raises(ImageError, match="damaged tile 5"):
            source.read(Window((16, 0), (32, 64)))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((64, 64), np.uint8), tile=(32, 32), compression="jpeg", metadata=None)
    data = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data.replace(b"\xff\xd9", b"\0\0"))
    with pytest.raises(ImageError, match=r"damaged tile 0 \(its JPEG stream ends early"):
        open_image(tmp_path / "b.tif").read()


def test_a_cut_slide_is_refused_before_it_is_read(tmp_path):
    """A slide that ends early, wherever, is refused when it is opened."""
    slide(tmp_path / "a.svs")
    data = (tmp_path / "a.svs").read_bytes()
    for part in (0.01, 0.3, 0.6, 0.9, 0.999):
        (tmp_path / "a.svs").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageError):
            open_image(tmp_path / "a.svs")


def test_absurd_sizes_are_refused_by_what_the_file_holds(tmp_path):
    """10^6 x 10^6 in a small file: tiles without a place, one giant strip, one giant tile; nothing is allocated."""
    for name, options, sizes in (
        ("tiles", {"tile": (16, 16)}, {}),
        ("strip", {}, {"RowsPerStrip": 1_000_000}),
    ):
        path = tmp_path / f"{name}.tif"
        wide = np.zeros((64, 70_000 if name == "strip" else 64), np.uint8)  # so that the tags are 32 bits wide
        tifffile.imwrite(path, wide, compression="zlib", metadata=None, **options)
        for tag, value in {"ImageWidth": 1_000_000, "ImageLength": 1_000_000, **sizes}.items():
            data = bytearray(path.read_bytes())
            with tifffile.TiffFile(path) as tiff:
                entry = tiff.pages[0].tags[tag].offset
            struct.pack_into("<HHII", data, entry, tifffile.TIFF.TAGS[tag], 4, 1, value)
            path.write_bytes(data)
        with pytest.raises(ImageError, match=r"a place for each|claims|Mpx"):
            open_image(path, max_megapixels=10**9)


def test_three_dimensional_tiles_and_foreign_pages_are_refused(tmp_path):
    """Tiles that reach through slices, and an OME image whose pages lie in other files."""
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((4, 64, 64), np.uint8),
        tile=(2, 16, 16),
        volumetric=True,
        photometric="minisblack",
        metadata=None,
    )
    with pytest.raises(ImageError, match="3-D tiles"):
        open_image(tmp_path / "a.tif", pages="stack")
    tifffile.imwrite(tmp_path / "a.ome.tif", PAGES, metadata={"axes": "ZYX"})
    data = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.ome.tif").write_bytes(data.replace(b'SizeZ="3"', b'SizeZ="4"'))
    with pytest.raises(ImageError, match=r"page that is missing|ends early"):
        open_image(tmp_path / "a.ome.tif").read()


@pytest.mark.data
def test_a_real_slide(tmp_path):
    """The Aperio slide of $MASKLINE_DATA: bands of it are tifffile's, each tile decoded once; half of it is refused."""
    folder = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "wsi"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    path = folder / "cmu-1-small-region.svs"
    source, seen = open_image(path), Counter()
    assert (source.block, source.geometry.spacing) == ((240, 240), (0.499, 0.499))
    source.on_decode = lambda key: seen.update([key])
    whole = np.moveaxis(tifffile.imread(path), -1, 0)
    for top in range(0, 2967, 400):
        band = Window((top, 0), (min(2967, top + 600), 2220))
        np.testing.assert_array_equal(source.read(band).pixels, whole[(slice(None), *band.slices)])
    assert len(seen) == 13 * 10 and set(seen.values()) == {1}
    (tmp_path / "cut.svs").write_bytes(path.read_bytes()[:900_000])
    for bad in (tmp_path / "cut.svs", folder / "broken.svs"):
        with pytest.raises(ImageError):
            open_image(bad)
