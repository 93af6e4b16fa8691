"""Pictures show what is there: any kind of image, its objects outlined, small enough for a page."""

import doctest

import cv2
import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.results import pictures
from pipeline.results.pictures import (
    ON_BRIGHT,
    ON_DARK,
    contact_sheet,
    is_picture,
    jpeg,
    outlines,
    overlay,
    png,
    preview,
    show_preview,
    split_preview,
    thumbnail,
    training_sample,
)
from pipeline.types import Geometry, Image


def make_image(pixels: np.ndarray) -> Image:
    return Image(pixels, Geometry.pixels(pixels.ndim - 1))


def ramp(dtype: type, channels: int = 1, shape: tuple[int, int] = (20, 30)) -> Image:
    """From black on the left to the type's brightest on the right."""
    top = 1.0 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    row = np.linspace(0, top, shape[1]).astype(dtype)
    return make_image(np.broadcast_to(row, (channels, *shape)).copy())


def brute_force_outlines(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels > 0):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1] and labels[v, u] != labels[y, x]:
                edge[y, x] = True
    return edge


def test_doctests_hold():
    """The examples in the module are true."""
    assert doctest.testmod(pictures).failed == 0 and doctest.testmod(pictures).attempted > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_image_becomes_rgb(dtype, channels):
    """Whatever the type and the number of channels, left is black and right is bright."""
    picture = thumbnail(ramp(dtype, channels))
    assert picture.shape == (20, 30, 3) and picture.dtype == np.uint8
    assert picture[:, 0].max() == 0 and picture[:, -1].max() == 255


def test_dim_images_are_stretched():
    """A 16-bit image that uses a few grey values only is seen all the same; its hot pixels do not hide the rest."""
    pixels = np.full((1, 50, 50), 100, np.uint16)
    pixels[0, 10:30, 10:30] = 140
    pixels[0, 0, 0] = 60_000
    picture = thumbnail(make_image(pixels))
    assert picture[20, 20, 0] == 255 and picture[40, 40, 0] == 0


def test_colours_of_rgb_stay():
    """8-bit RGB is stretched together: red stays red, and is not made white."""
    pixels = np.zeros((3, 10, 10), np.uint8)
    pixels[0, :, 5:] = 200
    assert thumbnail(make_image(pixels))[0, 9].tolist() == [255, 0, 0]


@pytest.mark.parametrize("value", [0, 7, 255])
def test_flat_images_are_black(value):
    """An image of one value divides by nothing and shows black."""
    assert thumbnail(make_image(np.full((1, 8, 8), value, np.uint8))).max() == 0


def test_nothing_finite_is_needed():
    """NaN and infinite pixels of float images are black, not a crash."""
    pixels = ramp(np.float32).pixels.copy()
    pixels[0, :, 3], pixels[0, :, 4] = np.nan, np.inf
    picture = thumbnail(make_image(pixels))
    assert picture[0, 3, 0] == 0 and picture[0, 4, 0] == 0 and picture[0, -1, 0] == 255


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (900, 700), (9000, 40)])
def test_large_images_are_shrunk(shape):
    """No side is above the limit, the proportions stay, and nothing becomes smaller than a pixel."""
    picture = thumbnail(make_image(np.zeros((1, *shape), np.uint8)), side=512)
    assert max(picture.shape[:2]) <= 512 and min(picture.shape[:2]) >= 1
    if min(shape) > 100:
        assert picture.shape[0] / picture.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.01)


def test_stacks_show_their_middle_plane():
    """Of (C, Z, Y, X) the middle plane is shown, with the outlines of that plane."""
    pixels = np.zeros((1, 3, 6, 6), np.uint8)
    pixels[0, 1, :, 5:] = 50
    labels = np.zeros((3, 6, 6), np.uint32)
    labels[1, 2:4, 2:4] = 1
    assert thumbnail(make_image(pixels))[0, 5, 0] == 255
    assert (overlay(make_image(pixels), labels)[2:4, 2:4] == ON_DARK).all()


def test_outlines_are_what_brute_force_finds():
    """Random labels, also touching ones: the same pixels as looking at each one's four neighbours."""
    labels = np.random.default_rng(0).integers(0, 4, (40, 50)).astype(np.uint32)
    labels[5:20, 5:20] = 9
    assert np.array_equal(outlines(labels, labels.shape), brute_force_outlines(labels))
    assert not outlines(labels, labels.shape)[7:18, 7:18].any()


def test_overlay_touches_only_outlines():
    """Away from the outlines the overlay is the thumbnail; without objects all of it is."""
    image = ramp(np.uint8)
    labels = np.zeros((20, 30), np.uint32)
    assert np.array_equal(overlay(image, labels), thumbnail(image))
    labels[5:10, 5:10] = 70_000
    edge = outlines(labels, labels.shape)
    drawn = overlay(image, labels)
    assert edge.sum() == 16 and np.array_equal(drawn[~edge], thumbnail(image)[~edge])


def test_outlines_show_on_dark_and_on_bright():
    """Fluorescence and bright field get different colours."""
    labels = np.zeros((20, 30), np.uint32)
    labels[5:10, 5:10] = 1
    dark = np.zeros((1, 20, 30), np.uint8)
    dark[0, 0, :] = 255
    assert tuple(overlay(make_image(dark), labels)[5, 5]) == ON_DARK
    assert tuple(overlay(make_image(255 - dark), labels)[5, 5]) == ON_BRIGHT


@pytest.mark.parametrize(("side", "width"), [(1000, 512), (400, 400), (100, 500)])
def test_preview_is_a_plain_picture_and_outlines(side, width):
    """Any viewer shows the JPEG; the outlines are a transparent PNG over it, drawn finer where the image is small."""
    labels = np.zeros((side, side), np.uint32)
    labels[side // 4 : side // 2, side // 4 : side // 2] = 3
    data = preview(make_image(np.zeros((1, side, side), np.uint8)), labels)
    plain, lines = split_preview(data)
    assert plain.startswith(b"\xff\xd8") and lines.startswith(b"\x89PNG") and plain + lines == data
    assert max(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape) == min(side, 512)
    art = cv2.imdecode(np.frombuffer(lines, np.uint8), cv2.IMREAD_UNCHANGED)
    assert art.shape == (width, width, 4) and set(np.unique(art[..., 3])) == {0, 255}
    shown = show_preview(data)
    assert tuple(shown[width // 4 + 1, width // 3]) == ON_DARK and shown[width // 3, width // 3].max() < 10


def test_pictures_without_outlines_are_previews_too():
    """A PNG or JPEG from elsewhere is shown as it is."""
    picture = thumbnail(ramp(np.uint8))
    assert split_preview(png(picture)) == (png(picture), b"")
    assert np.array_equal(show_preview(png(picture)), picture)
    assert np.abs(show_preview(jpeg(picture)).astype(int) - picture).max() < 12


def test_encoders_keep_red_red():
    """RGB goes in, RGB comes out."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 0] = 255
    assert show_preview(png(picture))[0, 0].tolist() == [255, 0, 0]
    assert show_preview(jpeg(picture))[0, 0, 0] > 240


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff\xd8\xff"])
def test_damaged_pictures_are_refused(data):
    """Bytes that are no picture are told apart from pictures."""
    assert not is_picture(data)
    with pytest.raises(ImageError, match="no picture"):
        show_preview(data)


def test_training_sample_shows_three():
    """Image, truth and prediction stand side by side; the first has no outlines."""
    image = make_image(np.zeros((1, 40, 40), np.uint8))
    truth, predicted = np.zeros((40, 40), np.uint32), np.zeros((40, 40), np.uint32)
    truth[10:20, 10:20], predicted[5:35, 5:35] = 1, 1
    sample = training_sample(image, truth, predicted)
    coloured = [(panel == ON_DARK).all(axis=-1).sum() for panel in np.split(sample[24:, :128], [44, 88], axis=1)]
    assert sample.shape == (64, 128, 3) and coloured == [0, 36, 116]


@pytest.mark.parametrize("many", [1, 4, 5])
def test_contact_sheet_holds_all(many):
    """As many tiles as pictures, four a row, whatever their shapes."""
    data = [
        preview(make_image(np.full((1, 30, 20 + 30 * i), 9, np.uint8)), np.zeros((30, 20 + 30 * i), np.uint32))
        for i in range(many)
    ]
    sheet = contact_sheet([(f"bild {i} 細胞", d) for i, d in enumerate(data)], tile=64)
    assert sheet.shape == (96 * (1 + (many > 4)), 72 * min(many, 4), 3)
