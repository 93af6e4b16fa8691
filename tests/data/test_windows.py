"""Windows: any box of any level is that slice of the whole, and each block of the file is decoded once."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.blocks import BlockCache, FileBytes, Grid, capacity
from pipeline.data.images import open_image
from pipeline.errors import ImageError
from pipeline.types import Window

RNG = np.random.default_rng(2)
SMOOTH = np.add.outer(np.arange(203), np.arange(181)).astype(np.uint8)  # lossy codecs keep it close
RGB = np.stack([SMOOTH, SMOOTH[::-1], np.roll(SMOOTH, 40)], axis=-1)
DEEP = RNG.integers(0, 65536, (203, 181), np.uint16)

LAYOUTS = {
    "deflate tiles": (DEEP, {"tile": (32, 48), "compression": "zlib", "predictor": True}),
    "zstd tiles": (RGB, {"tile": (64, 64), "compression": "zstd", "photometric": "rgb"}),
    "lzw strips": (DEEP, {"rowsperstrip": 7, "compression": "lzw"}),
    "bigtiff planes": (
        np.moveaxis(RGB, -1, 0),
        {"tile": (32, 32), "compression": "zlib", "bigtiff": True, "planarconfig": "separate", "photometric": "rgb"},
    ),
    "jpeg tiles": (RGB, {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb"}),
    "jpeg2000 tiles": (RGB, {"tile": (64, 64), "compression": "jpeg2000", "photometric": "rgb"}),
    "raw strip": (RGB, {"photometric": "rgb"}),
    "raw tiles, other byte order": (DEEP, {"tile": (16, 16), "byteorder": ">"}),
    "raw strips, other byte order": (DEEP, {"rowsperstrip": 5, "byteorder": ">"}),
    "bits": (DEEP > 30_000, {"tile": (32, 32), "compression": "packbits", "photometric": "minisblack"}),
    "floats": (DEEP.astype(np.float32) / 7, {"tile": (64, 32), "compression": "zlib"}),
    "white is zero": (DEEP, {"tile": (64, 32), "compression": "zlib", "photometric": "miniswhite"}),
    "palette": (
        SMOOTH,
        {"tile": (64, 32), "photometric": "palette", "colormap": RNG.integers(0, 65536, (3, 256), "H")},
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    opened = {}
    for name, (pixels, options) in LAYOUTS.items():
        path = folder / f"{name}.tif"
        tifffile.imwrite(path, pixels, metadata=None, **options)
        opened[name] = open_image(path)
    return opened


def oracle(path, pixels, options):
    """The pixels `(C, Y, X)` that tifffile decodes whole, as maskline hands them out."""
    stored = tifffile.imread(path)
    if options.get("photometric") == "palette":
        return (options["colormap"][:, stored] >> 8).astype(np.uint8)
    if options.get("photometric") == "miniswhite":
        return 65535 - stored[None]
    planes = stored[None] if stored.ndim == 2 else stored if stored.shape[0] == 3 else np.moveaxis(stored, -1, 0)
    return planes.astype(np.uint8) * 255 if planes.dtype == bool else planes


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_window_is_that_slice_of_the_whole(sources, name):
    """However a TIFF is compressed and cut, twelve random windows equal tifffile's whole image there."""
    source, (pixels, options) = sources[name], LAYOUTS[name]
    whole = oracle(source.path, pixels, options)
    assert (source.shape, source.dtype) == (whole.shape, whole.dtype.newbyteorder("="))
    np.testing.assert_array_equal(source.read().pixels, whole)
    for _ in range(12):
        (top, bottom), (left, right) = (np.sort(RNG.choice(n + 1, 2, replace=False)) for n in whole.shape[1:])
        read = source.read(Window((int(top), int(left)), (int(bottom), int(right)))).pixels
        assert read.dtype == source.dtype
        np.testing.assert_array_equal(read, whole[:, top:bottom, left:right])


@pytest.mark.parametrize(
    ("name", "block"), [("deflate tiles", (32, 48)), ("lzw strips", (7, 181)), ("bigtiff planes", (32, 32))]
)
def test_the_block_is_the_files_own(sources, name, block):
    """Tiles and strips are told as the file has them, and the one level that there is."""
    assert sources[name].block == block
    assert sources[name].levels == ((203, 181),)


@given(data=st.data())
def test_bands_that_overlap_decode_every_block_once(sources, data):
    """Full-width bands of any height, sharing up to 64 rows: each block is decoded once, and none is left out."""
    source = sources[data.draw(st.sampled_from(["deflate tiles", "lzw strips", "bigtiff planes"]))].at_level(0)
    source = type(source)(source.path, source.axes, source.grids, source.geometries)  # a cache of its own
    source.keep(64)
    seen = Counter()
    source.on_decode = lambda key: seen.update([key])
    overlap = data.draw(st.integers(0, 64))
    height = overlap + data.draw(st.integers(1, 90))
    for top in range(0, 203, height - overlap):
        source.read(Window((top, 0), (min(203, top + height), 181)))
    grid = source.grids[0]
    assert set(seen) == {(0, *index) for index in grid.touched((0, 0, 0, 0), grid.shape)}
    assert set(seen.values()) == {1}


def test_a_window_decodes_only_what_it_touches(sources):
    """A box of 10 x 10 pixels across the corner of four 32 x 48 tiles decodes these four."""
    source = sources["deflate tiles"]
    source = type(source)(source.path, source.axes, source.grids, source.geometries)
    seen = []
    source.on_decode = seen.append
    source.read(Window((27, 43), (37, 53)))
    assert sorted(seen) == [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (0, 0, 0, 1, 0), (0, 0, 0, 1, 1)]


def test_threads_decode_a_block_once(sources):
    """Eight threads that read overlapping windows get the right pixels, and no block is decoded twice."""
    source = sources["deflate tiles"]
    source = type(source)(source.path, source.axes, source.grids, source.geometries)
    seen = Counter()
    source.on_decode = lambda key: seen.update([key])
    windows = [Window((top, 0), (min(203, top + 40), 181)) for top in range(0, 203, 20)] * 3
    with ThreadPoolExecutor(8) as pool:
        for window, image in zip(windows, pool.map(source.read, windows), strict=True):
            np.testing.assert_array_equal(image.pixels[0], DEEP[window.slices])
    assert set(seen.values()) == {1}


def test_the_cache_is_bounded_and_forgets_errors():
    """Above its bytes the block used longest ago goes; an error reaches whoever waits, and the next one tries again."""
    cache = BlockCache(200)
    blocks = {key: np.full(100, key, np.uint8) for key in range(3)}
    assert [int(cache.get((k,), lambda k=k: blocks[k], True)[0]) for k in (0, 1, 0, 2)] == [0, 1, 0, 2]
    fresh = np.zeros(100, np.uint8)
    assert cache.get((0,), lambda: fresh, True) is blocks[0]
    assert cache.get((1,), lambda: fresh, False) is fresh
    started, wait = threading.Event(), threading.Event()

    def broken():
        started.set()
        wait.wait(5)
        raise ImageError("a", "damage", "pixels", "copy it")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, (9,), broken, True)
        started.wait(5)
        second = pool.submit(cache.get, (9,), lambda: fresh, True)
        wait.set()
        assert isinstance(first.exception(), ImageError)
    assert second.exception() is None or second.exception() is first.exception()
    assert cache.get((9,), lambda: fresh, True) is fresh


def test_what_is_kept_grows_with_the_rows_not_with_the_image():
    """Twice the height keeps as much; a block of everything keeps just that."""

    def kept(height, block):
        return capacity(Grid((3, 1, height, 1024), block, np.dtype(np.uint8), np.zeros), 100)

    assert kept(10_000, (3, 1, 64, 64)) == kept(20_000, (3, 1, 64, 64)) == 3 * 1024 * 3 * 64
    assert kept(10_000, (3, 1, 10_000, 1024)) == 30_720_000


@pytest.mark.parametrize("kind", ["subifd", "reduced", "ome"])
def test_levels_of_a_pyramid(tmp_path, kind):
    """Levels in SubIFDs or as reduced pages are read; their pixels are larger; --level makes one the image."""
    levels = [DEEP[:200, :160], DEEP[:100, :80], DEEP[:50, :40]]
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    sub = kind != "reduced"
    about = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25} if kind == "ome" else None
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            kept = {"subifds": 2} if sub and not number else {}
            writer.write(
                level, tile=(32, 32), subfiletype=1 if number else 0, metadata=about if not number else None, **kept
            )
    source = open_image(path)
    assert source.levels == ((200, 160), (100, 80), (50, 40))
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(source.read(level=number).pixels[0], level)
        window = Window((3, 5), (41, 38))
        np.testing.assert_array_equal(source.read(window, number).pixels[0], level[window.slices])
    small = open_image(path, level=2)
    assert (small.shape, small.levels) == ((1, 50, 40), ((50, 40),))
    np.testing.assert_array_equal(small.read().pixels[0], levels[2])
    assert small.geometry.spacing == ((1.0, 2.0) if kind == "ome" else (4.0, 4.0))
    with pytest.raises(ImageError, match=r"--level 3.*0: 200 x 160, 1: 100 x 80"):
        open_image(path, level=3)


def test_large_images_are_read_by_windows_only(tmp_path):
    """Tiles may make any size: opening is fine, a window is read, and only the whole is above the limit."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP, tile=(32, 32), compression="zlib")
    source = open_image(path, max_megapixels=0.01)
    np.testing.assert_array_equal(source.read(Window((0, 0), (50, 60))).pixels[0], DEEP[:50, :60])
    with pytest.raises(ImageError, match="max_megapixels"):
        source.read()
    with pytest.raises(ImageError, match=r"must be decoded at once.*tiled OME-TIFF"):
        open_image(path, max_megapixels=0.0001)


def test_bytes_that_are_not_there_are_missed(tmp_path):
    """A file that shrinks or goes away after it was opened is an error, not zeros."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    file = FileBytes(path)
    assert file.read(1, 3) == b"234"
    with pytest.raises(ImageError, match="ends early"):
        file.read(3, 3)
    with pytest.raises(ImageError, match="No such file"):
        FileBytes(tmp_path / "none").read(0, 1)
