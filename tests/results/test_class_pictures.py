"""Pictures of class maps: the classes in their colours, the fullest slice, small images enlarged."""

import numpy as np

from pipeline.config import ClassesTarget
from pipeline.results.class_pictures import class_preview, class_sample, colours_of, fullest_plane
from pipeline.results.pictures import show_preview, split_preview
from pipeline.types import Geometry, Image

TARGET = ClassesTarget(names=("none", "a", "b"), palette=((0, 0, 0), (250, 0, 0), (0, 0, 250)))


def made():
    truth = np.zeros((5, 8, 10), np.uint32)
    truth[3, 2:6, 2:5], truth[3, 2:6, 5:8], truth[1, 0, 0], truth[:, 7, 9] = 1, 2, 1, 255
    return Image(np.full((1, 5, 8, 10), 50, np.uint8), Geometry.pixels(3)), truth


def test_the_slice_with_the_most_foreground_is_shown():
    """Ignored pixels are no foreground; without any the middle slice is."""
    _, truth = made()
    assert fullest_plane(truth) == 3 and fullest_plane(truth * 0) == 2


def test_classes_have_their_colours_and_the_background_is_the_image():
    """Three panels of 10 x 8, enlarged four times: red, blue, ignored grey, and black where the flat image is."""
    image, truth = made()
    picture = class_sample(image, truth, np.zeros_like(truth), TARGET, side=40)
    assert picture.shape == (32, 3 * 40 + 8, 3)
    panel = picture[::4, 44:84:4]
    assert panel[3, 3, 0] > 100 and not panel[3, 3, 1:].any()
    assert panel[3, 6, 2] > 100 and not panel[3, 6, :2].any()
    assert len(set(panel[7, 9].tolist())) == 1 and panel[7, 9, 0] > 0
    assert not picture[:, :40].any() and not picture[:, 88:].any()


def test_a_target_without_a_palette_gets_different_hues():
    """As many colours as classes, no two alike; an image of its own is shown as it is."""
    target = ClassesTarget(names=tuple("abcdef"))
    assert len(set(colours_of(target))) == 6 and colours_of(TARGET) == TARGET.palette
    image, truth = made()
    flat = Image(image.pixels[:, 3], Geometry.pixels())
    assert class_sample(flat, truth[3], truth[3], target, side=40).shape == (32, 128, 3)


def test_a_preview_lays_the_classes_over_the_picture():
    """On a grey image red and blue are mixed in; a black background is not, a grey one (a sky) is."""
    labels = np.zeros((40, 60), np.uint32)
    labels[:, 20:40], labels[:, 40:] = 1, 2
    ramp = np.tile(np.arange(60, dtype=np.uint8) * 4, (3, 40, 1))
    image = Image(ramp, Geometry.pixels())
    plain, tints = split_preview(class_preview(image, labels, TARGET.palette, side=60))
    bare, shown = show_preview(plain).astype(int), show_preview(plain + tints).astype(int)
    assert shown.shape == (40, 60, 3)
    assert np.abs(shown - bare)[:, :20].max() == 0
    assert (shown[:, 21:40, 0] > bare[:, 21:40, 0]).all() and (shown[:, 21:40, 2] < bare[:, 21:40, 2] + 1).all()
    np.testing.assert_allclose(shown[20, 50], 0.45 * bare[20, 50] + 0.55 * np.array([0, 0, 250]), atol=2)
    sky = ((128, 128, 128), *TARGET.palette[1:])
    assert np.abs(show_preview(class_preview(image, labels, sky, side=60)).astype(int) - bare)[:, :20].max() > 20
