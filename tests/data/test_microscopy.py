"""Microscopes' files: .czi as pylibCZIrw writes them, .lif made by hand, .nd2 by a stand-in; refused without the extra.

The stand-in has the documented interface of nd2.ND2File (sizes, dtype, loop_indices, read_frame, voxel_size, metadata):
nothing writes .nd2, so that no real file is read here.
"""

import gc
import struct
import sys
from collections import namedtuple
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from pipeline.data.choices import Choice
from pipeline.data.images import open_image
from pipeline.data.microscopy import lif_planes, nd2_planes, source_of
from pipeline.errors import ImageError
from pipeline.types import Window

RNG = np.random.default_rng(5)
STACK = RNG.integers(0, 65536, (2, 3, 30, 40), np.uint16)  # C, Z, Y, X
Voxel = namedtuple("Voxel", "x y z")


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of two channels and three slices; the second lies elsewhere and holds the numbers plus one."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        for scene, place in ((0, (0, 0)), (1, (500, 70))):
            for c in range(2):
                for z in range(3):
                    pixels = STACK[c, z, :, :, None] + np.uint16(scene)
                    file.write(pixels, plane={"C": c, "Z": z}, location=place, scene=scene)
        file.write_metadata("a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=5e-7, scale_y=2.5e-7, scale_z=2e-6)
    return path


def test_czi_scenes(scenes):
    """Scenes are series; channels, slices, names and micrometres as written; windows are slices."""
    with pytest.raises(ImageError, match=r"2 images: 0 '0' \(30 x 40\).*--series"):
        open_image(scenes)
    for scene in (0, 1):
        source = open_image(scenes, series=str(scene))
        assert (source.shape, source.axes, source.channels) == ((2, 3, 30, 40), "CZYX", ("DAPI", "GFP"))
        np.testing.assert_allclose(source.geometry.spacing, (2.0, 0.25, 0.5))
        np.testing.assert_array_equal(source.read().pixels, STACK + np.uint16(scene))
    window = Window((1, 4, 5), (3, 20, 33))
    np.testing.assert_array_equal(source.read(window).pixels, (STACK + np.uint16(1))[(slice(None), *window.slices)])
    assert open_image(scenes, series="0", pages="channels").shape == (6, 30, 40)


def test_czi_colour_is_red_green_blue(tmp_path):
    """Zeiss keeps blue first; red comes out first. A size of 0 is none."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    colour = RNG.integers(0, 256, (20, 25, 3), np.uint8)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        file.write(np.ascontiguousarray(colour[..., ::-1]))
    source = open_image(tmp_path / "a.czi")
    np.testing.assert_array_equal(source.read().pixels, np.moveaxis(colour, -1, 0))
    assert source.geometry.unit == "px"


def test_a_damaged_czi_is_refused(scenes):
    """Cut within its header, and cut within its pixels."""
    data = scenes.read_bytes()
    for length in (300, len(data) // 2):
        scenes.write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"damaged \.czi"):
            open_image(scenes, series="0")


def lif(path, pixels, unit=1e-6):
    """A Leica file of one image (C, Z, Y, X): the XML header, then one block of memory."""
    channels, depth, height, width = pixels.shape
    plane = height * width * 2
    sizes = ((1, width, 2, 0.5), (2, height, 2 * width, 0.25), (3, depth, plane, 2.0))
    dimensions = "".join(
        f'<DimensionDescription DimID="{i}" NumberOfElements="{n}" Origin="0" Length="{(n - 1) * s * unit}" Unit="m" '
        f'BytesInc="{b}" BitInc="0"/>'
        for i, n, b, s in sizes
    )
    described = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" Max="1" '
        f'Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="{c * depth * plane}" BitInc="0"/>'
        for c in range(channels)
    )
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="project" UniqueID="1"><Children>'
        '<Element Name="field" UniqueID="2"><Data><Image><ImageDescription>'
        f"<Channels>{described}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{pixels.nbytes}" MemoryBlockID="MemBlock_1"/></Element>'
        '</Children><Memory Size="0" MemoryBlockID="MemBlock_0"/></Element></LMSDataContainerHeader>'
    )
    name = "MemBlock_1"
    header = struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml)) + xml.encode("utf-16-le")
    block = struct.pack("<IIBQBI", 0x70, 2 * len(name) + 14, 0x2A, pixels.nbytes, 0x2A, len(name))
    path.write_bytes(header + block + name.encode("utf-16-le") + pixels.tobytes())
    return path


def test_lif_images(tmp_path):
    """Channels and slices of a Leica image in their order, the sizes in micrometres, windows as slices."""
    pytest.importorskip("liffile")
    source = open_image(lif(tmp_path / "a.lif", STACK))
    assert (source.shape, source.dtype, source.axes) == ((2, 3, 30, 40), np.uint16, "CZYX")
    np.testing.assert_allclose(source.geometry.spacing, (2.0, 0.25, 0.5))
    np.testing.assert_array_equal(source.read().pixels, STACK)
    window = Window((0, 4, 5), (2, 20, 33))
    np.testing.assert_array_equal(source.read(window).pixels, STACK[(slice(None), *window.slices)])
    np.testing.assert_array_equal(open_image(tmp_path / "a.lif", series="field").read().pixels, STACK)


def test_a_damaged_lif_is_refused(tmp_path):
    """Cut within its XML, and within its pixels."""
    pytest.importorskip("liffile")
    data = lif(tmp_path / "a.lif", STACK).read_bytes()
    for length in (200, len(data) - 2000):
        (tmp_path / "a.lif").write_bytes(data[:length])
        with pytest.raises(ImageError):
            open_image(tmp_path / "a.lif").read()


def test_files_are_closed_with_the_last_that_needs_them(tmp_path, monkeypatch):
    """Open while the image is, closed when it goes or is refused."""
    liffile = pytest.importorskip("liffile")
    closed = []
    close = liffile.LifFile.close
    monkeypatch.setattr(liffile.LifFile, "close", lambda file: closed.append(1) or close(file))
    source = open_image(lif(tmp_path / "a.lif", STACK))
    source.read()
    assert not closed
    del source
    gc.collect()
    assert closed == [1]
    with pytest.raises(ImageError, match="--series 7"):
        open_image(tmp_path / "a.lif", series="7")
    assert closed == [1, 1]


def test_lif_axes_that_are_no_image_are_refused():
    """Channels in several dimensions have names that say nothing."""
    with pytest.raises(ImageError, match="axes C1"):
        lif_planes("a.lif", SimpleNamespace(sizes={"C1": 2, "Y": 3, "X": 4}))


class Nikon:
    """What nd2.ND2File tells of two time points, two positions, three slices and two channels."""

    sizes = MappingProxyType({"T": 2, "P": 2, "Z": 3, "C": 2, "Y": 30, "X": 40})
    dtype = np.dtype(np.uint16)
    loop_indices = tuple({"T": t, "P": p, "Z": z} for t in range(2) for p in range(2) for z in range(3))
    metadata = SimpleNamespace(channels=[SimpleNamespace(channel=SimpleNamespace(name=n)) for n in ("DAPI", "GFP")])

    def voxel_size(self):
        return Voxel(0.5, 0.25, 2.0)

    def read_frame(self, number):
        loops = self.loop_indices[number]
        return STACK[:, loops["Z"]] + np.uint16(1000 * loops["T"] + 100 * loops["P"])


def test_nd2_frames(tmp_path):
    """Positions are series, time must be chosen, a frame holds all channels (a stand-in, no real file)."""
    path = tmp_path / "a.nd2"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ImageError, match=r"2 images.*--series"):
        nd2_planes("a.nd2", Nikon(), Choice())
    choice = Choice(series="1", time=1)
    source = source_of(path, nd2_planes("a.nd2", Nikon(), choice), choice)
    assert (source.shape, source.channels, source.geometry.spacing) == (
        (2, 3, 30, 40),
        ("DAPI", "GFP"),
        (2.0, 0.25, 0.5),
    )
    np.testing.assert_array_equal(source.read().pixels, STACK + np.uint16(1100))
    with pytest.raises(ImageError, match="2 time points"):
        source_of(path, nd2_planes("a.nd2", Nikon(), choice), Choice(series="1"))
    frames = Nikon()
    frames.loop_indices = frames.loop_indices[:1]
    broken = source_of(path, nd2_planes("a.nd2", frames, choice), choice)
    with pytest.raises(ImageError, match=r"damaged pixels.*no frame"):
        broken.read()


MAGIC = {"czi": b"ZISRAWFILE", "nd2": b"\xda\xce\xbe\x0a", "lif": b"\x70\0\0\0"}


@pytest.mark.parametrize(("kind", "package"), [("czi", "pylibCZIrw"), ("nd2", "nd2"), ("lif", "liffile")])
def test_without_the_extra_the_way_out_is_named(tmp_path, monkeypatch, kind, package):
    """Without the package, the file is refused with both ways on."""
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(MAGIC[kind] + b"\0" * 200)
    with pytest.raises(ImageError, match=r"install the extra maskline\[microscopy\] or export as OME-TIFF"):
        open_image(path)


@pytest.mark.parametrize(("kind", "package"), [("czi", "pylibCZIrw.czi"), ("nd2", "nd2"), ("lif", "liffile")])
def test_what_only_begins_like_one_is_refused(tmp_path, kind, package):
    """The right first bytes and nothing after them."""
    pytest.importorskip(package)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(MAGIC[kind] + b"\0" * 200)
    with pytest.raises(ImageError, match=rf"damaged \.{kind}"):
        open_image(path)


def test_czi_pixels_of_unknown_kind_are_refused():
    """Channels of different types do not make one image."""
    from pipeline.data.microscopy import czi_planes

    box = SimpleNamespace(x=0, y=0, w=4, h=3)
    file = SimpleNamespace(
        scenes_bounding_rectangle_no_pyramid={},
        total_bounding_rectangle_no_pyramid=box,
        total_bounding_box_no_pyramid={"C": (0, 2)},
        pixel_types={0: "Gray8", 1: "Gray16"},
    )
    with pytest.raises(ImageError, match="Gray16, Gray8"):
        czi_planes("a.czi", file, Choice())
