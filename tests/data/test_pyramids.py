"""Label images larger than memory as one tiled, pyramidal OME-TIFF."""

import numpy as np
import pytest
import tifffile

from pipeline.data.files import sha256_file
from pipeline.data.images import open_image
from pipeline.data.labels import read_labels
from pipeline.data.pyramids import TILE, LabelPyramid, ome_xml, pyramid_shapes
from pipeline.errors import OutputError
from pipeline.types import Geometry

GEOMETRY = Geometry((0.25, 0.5), "um")


def write(scratch, path, labels, side, order=1, geometry=GEOMETRY):
    scratch.mkdir()
    with LabelPyramid(scratch, labels.shape, geometry) as pyramid:
        corners = [(y, x) for y in range(0, labels.shape[0], side) for x in range(0, labels.shape[1], side)]
        for y, x in corners[::order]:
            pyramid.put(y, x, labels[y : y + side, x : x + side])
        return pyramid.write(path)


@pytest.fixture
def labels():
    generator = np.random.default_rng(1)
    return generator.integers(0, 100_000, (2300, 1500)).astype(np.uint32)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "order"), [(512, 1), (700, 1), (512, -1), (333, 1)])
def test_every_level_holds_every_second_pixel_of_the_one_before(tmp_path, labels, side, order):
    """Whatever the blocks and their order, level n is the label image at every 2^n-th pixel."""
    write(tmp_path / "s", tmp_path / "a.tif", labels, side, order)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        levels = tiff.series[0].levels
        assert (
            [level.shape for level in levels] == pyramid_shapes(labels.shape) == [(2300, 1500), (1150, 750), (575, 375)]
        )
        for number, level in enumerate(levels):
            assert np.array_equal(level.asarray(), labels[:: 2**number, :: 2**number])
            assert level.keyframe.tile == (TILE, TILE)


def test_the_bytes_do_not_depend_on_the_blocks(tmp_path, labels):
    """Two ways of cutting the image give the same file, whose digest is told."""
    first = write(tmp_path / "s", tmp_path / "a.tif", labels, 512)
    second = write(tmp_path / "t", tmp_path / "b" / "a.tif", labels, 444, -1)
    assert first == second == sha256_file(tmp_path / "a.tif") == sha256_file(tmp_path / "b" / "a.tif")


def test_it_is_read_back_with_its_pixel_size(tmp_path, labels):
    """read_labels gives the numbers and the micrometres again; tifffile takes it for OME."""
    write(tmp_path / "s", tmp_path / "a.tif", labels, 512)
    again, geometry = read_labels(tmp_path / "a.tif")
    assert np.array_equal(again, labels)
    assert geometry == GEOMETRY
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_ome
        assert tiff.is_bigtiff


def test_an_image_without_a_pixel_size_claims_none(tmp_path):
    """Nothing is made up about the size of a pixel."""
    write(tmp_path / "s", tmp_path / "a.tif", np.ones((600, 40), np.uint32), 512, geometry=Geometry.pixels())
    assert open_image(tmp_path / "a.tif").geometry.unit == "px"
    assert b"PhysicalSize" not in ome_xml((2, 2), Geometry.pixels(), "a<b>.tif")


def test_a_pixel_that_was_never_written_is_an_error(tmp_path):
    """A hole is not background."""
    (tmp_path / "s").mkdir()
    with LabelPyramid(tmp_path / "s", (600, 600), GEOMETRY) as pyramid:
        pyramid.put(0, 0, np.ones((600, 599), np.uint32))
        with pytest.raises(OutputError, match="never filled"):
            pyramid.write(tmp_path / "a.tif")
    assert not (tmp_path / "a.tif").exists()
