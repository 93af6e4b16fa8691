"""The classical peer: Otsu's threshold and a watershed on distances."""

import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.scoring.classical import otsu_watershed
from pipeline.scoring.metrics import match
from pipeline.types import Geometry, Image

CENTRES = ((20, 20), (20, 60), (60, 25), (60, 43), (100, 100), (2, 100))  # two touch, one is cut by the border


def discs(shape=(128, 128), radius=10):
    labels = np.zeros(shape, np.uint32)
    y, x = np.indices(shape)
    distance = [np.hypot(y - cy, x - cx) for cy, cx in CENTRES]
    nearest = np.argmin(distance, axis=0)
    return np.where(np.min(distance, axis=0) <= radius, nearest + 1, 0).astype(labels.dtype)


def drawn(labels, back, fore, noise=4.0):
    """`(C, Y, X)` uint8 with noise; `back` and `fore` are one value a channel."""
    rng = np.random.default_rng(0)
    plane = np.where(labels[None] > 0, np.reshape(fore, (-1, 1, 1)), np.reshape(back, (-1, 1, 1)))
    return Image(np.clip(plane + rng.normal(0, noise, plane.shape), 0, 255).astype(np.uint8), Geometry.pixels())


KINDS = {
    "fluorescence": ((10,), (120,)),
    "fluorescence in three channels": ((10, 10, 10), (120, 120, 120)),
    "grey on bright": ((220,), (70,)),
    "stained": ((235, 220, 240), (110, 70, 160)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_discs_are_found_and_split_on_every_kind_of_picture(kind):
    """Bright on dark, dark on bright and stained: the polarity is found, the touching pair is two."""
    truth = discs()
    scores = match(truth, otsu_watershed(drawn(truth, *KINDS[kind])))
    assert (scores.true, scores.predicted, scores.tp[0]) == (6, 6, 6)
    assert scores.dice > 0.95


def test_nuclei_in_grey_cytoplasm_are_the_darkest_of_three_classes():
    """White ground, grey cells, dark nuclei: nuclei are asked for, not cells."""
    y, x = np.indices((128, 128))
    cells = np.hypot(y - 60, x - 60) < 50
    nuclei = np.hypot(y - 60, x - 60) < 14
    plane = np.where(nuclei, 60, np.where(cells, 160, 240)) + np.random.default_rng(0).normal(0, 4, cells.shape)
    found = otsu_watershed(Image(plane.clip(0, 255).astype(np.uint8)[None], Geometry.pixels()))
    scores = match(nuclei, found)
    assert (scores.predicted, scores.tp[0]) == (1, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0, 200])
def test_a_flat_image_has_no_objects(dtype, value):
    """Black and blank fields are usual; they give an empty label image of their own shape."""
    labels = otsu_watershed(Image(np.full((1, 32, 40), value, dtype), Geometry.pixels()))
    assert labels.shape == (32, 40)
    assert labels.dtype == np.uint32
    assert not labels.any()


def test_specks_are_dropped():
    """Noise of a few pixels is no nucleus."""
    truth = discs()
    speckled = truth.copy()
    speckled[::16, 5::32] = 99
    assert match(truth, otsu_watershed(drawn(speckled, (10,), (120,)))).predicted == 6


def test_numbers_that_are_none_do_not_spread():
    """NaN pixels of a float image are taken as dark."""
    truth = discs()
    image = drawn(truth, (10,), (120,))
    pixels = image.pixels.astype(np.float32)
    pixels[0, 90:95, 10:15] = np.nan
    assert match(truth, otsu_watershed(Image(pixels, image.geometry))).tp[0] == 6


def test_volumes_are_refused():
    """It is a method for pictures."""
    with pytest.raises(ImageError, match="3-D"):
        otsu_watershed(Image(np.zeros((1, 4, 8, 8), np.uint8), Geometry.pixels()))
