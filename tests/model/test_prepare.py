"""Preparing an image, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Divide, FixedSize, Percentile, PrepareConfig
from pipeline.errors import ImageError
from pipeline.model.prepare import fit, resize_planes, take_channels

RANDOM = np.random.default_rng(0)


def test_percentiles_become_zero_and_one() -> None:
    """0..100 evenly: the 10th percentile is 10, the 90th is 90, so 10 -> 0, 50 -> .5, 90 -> 1."""
    pixels = np.arange(101, dtype=np.uint8)[None, None, :]
    config = PrepareConfig(channels=1, normalise=Percentile(low=10, high=90))
    values = fit(pixels, config, stride=1).apply(pixels)
    np.testing.assert_allclose(values[0, 0, [10, 50, 90]], [0, 0.5, 1], atol=1e-6)


def test_inverse_range_and_offset_do_not_matter() -> None:
    """A 16-bit image that uses a sliver of its range prepares like its 8-bit original."""
    pixels = RANDOM.integers(0, 256, (1, 40, 40)).astype(np.uint8)
    sliver = (pixels.astype(np.uint16) * 10 + 30_000).astype(np.uint16)
    config = PrepareConfig(channels=1)
    a, b = (fit(p, config, stride=16).apply(p) for p in (pixels, sliver))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_constant_channel_becomes_zero() -> None:
    """No division by nothing: a blank image is 0 everywhere."""
    blank = np.full((1, 20, 20), 77, np.uint8)
    assert not fit(blank, PrepareConfig(channels=1), stride=16).apply(blank).any()


@pytest.mark.parametrize("trace", [0, 2, 40])
def test_fluorescence_in_one_colour_of_rgb_is_the_grey_image(trace: int) -> None:
    """Blue alone, with nothing or 0 to 2 of noise in red and green, is what the grey image is; 0 to 40 is a colour."""
    grey = RANDOM.integers(0, 256, (1, 40, 40)).astype(np.uint8)
    others = RANDOM.integers(0, trace + 1, (2, 40, 40)).astype(np.uint8)
    coloured = np.concatenate([others, grey])
    plain, found = (fit(p, PrepareConfig(), stride=8).apply(p) for p in (np.repeat(grey, 3, axis=0), coloured))
    assert np.array_equal(plain, found) == (trace < 40)
    deep = coloured.astype(np.uint16)  # channels of a microscope may differ by much
    assert np.array_equal(plain, fit(deep, PrepareConfig(), stride=8).apply(deep)) == (trace == 0)


@given(st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=25)
def test_undo_gives_the_file_s_size(height: int, width: int) -> None:
    """Padded to the stride, cut back: at the native size undo is exact for any size, one pixel included."""
    pixels = RANDOM.integers(0, 256, (3, height, width)).astype(np.uint8)
    preparation = fit(pixels, PrepareConfig(), stride=16)
    prepared = preparation.apply(pixels)
    assert prepared.dtype == np.float32 and not prepared.shape[1] % 16 and not prepared.shape[2] % 16
    np.testing.assert_array_equal(preparation.undo(prepared), prepared[:, :height, :width])


def test_fixed_size_goes_there_and_back() -> None:
    """The guide's 128 x 128, whatever came; a flat plane stays flat."""
    pixels = np.full((3, 50, 90), 51, np.uint8)
    preparation = fit(pixels, PrepareConfig(normalise=Divide(), size=FixedSize()), stride=16)
    prepared = preparation.apply(pixels)
    assert prepared.shape == (3, 128, 128)
    np.testing.assert_allclose(preparation.undo(prepared), np.full((3, 50, 90), 0.2), atol=1e-6)


def test_zoom_halves() -> None:
    """Nuclei twice the model's size: the image goes in at half its size."""
    pixels = RANDOM.integers(0, 256, (1, 64, 96)).astype(np.uint8)
    assert fit(pixels, PrepareConfig(channels=1), stride=16, zoom=0.5).shape == (32, 48)


def test_shrinking_averages_areas() -> None:
    """Two by two pixels become their mean."""
    plane = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_allclose(resize_planes(plane, (2, 2)), [[[2.5, 4.5], [10.5, 12.5]]])


def test_grey_fills_three_channels_and_surplus_is_refused() -> None:
    """Nothing is dropped in silence; --channel chooses, counting from 0."""
    grey = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    assert (take_channels(grey, 3) == grey).all() and take_channels(grey, 3).shape == (3, 2, 2)
    five = np.stack([np.full((2, 2), i, np.uint8) for i in range(5)])
    assert (take_channels(five, 3, chosen=4) == 4).all()
    with pytest.raises(ImageError, match="5 in the image"):
        take_channels(five, 3)
    with pytest.raises(ImageError, match="--channel"):
        take_channels(five, 3, chosen=5)


def test_colour_to_grey_is_luma() -> None:
    """Rec. 601: pure green is 0.587."""
    green = np.zeros((3, 1, 1), np.float32)
    green[1] = 1
    assert take_channels(green, 1)[0, 0, 0] == pytest.approx(0.587)


def test_nan_and_empty_images_are_refused() -> None:
    """With a reason, before the network sees them."""
    with pytest.raises(ImageError, match="NaN"):
        fit(np.full((1, 4, 4), np.nan, np.float32), PrepareConfig(channels=1), stride=16)
    with pytest.raises(ImageError, match="at least one pixel"):
        fit(np.zeros((1, 0, 4), np.uint8), PrepareConfig(channels=1), stride=16)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_colour_of_rgb_is_the_grey_image_it_was(channel: int) -> None:
    """Blue alone, black elsewhere: like the same values in all channels; two colours: their mean in the third."""
    grey = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    coloured = np.zeros((3, 40, 50), np.uint8)
    coloured[channel] = grey
    plain = np.repeat(grey[None], 3, axis=0)
    config = PrepareConfig()
    prepared = fit(coloured, config, stride=16).apply(coloured)
    np.testing.assert_array_equal(prepared, fit(plain, config, stride=16).apply(plain))
    coloured[(channel + 1) % 3] = 255 - grey
    prepared = fit(coloured, config, stride=16).apply(coloured)
    two = prepared[channel], prepared[(channel + 1) % 3]
    np.testing.assert_allclose(prepared[(channel + 2) % 3], np.mean(two, axis=0), atol=1e-6)


def test_empty_glass_is_not_stretched() -> None:
    """The noise of an empty part of a slide stays noise; inverted dim fluorescence, grey, is stretched as ever."""
    glass = RANDOM.integers(242, 248, (3, 60, 60)).astype(np.uint8)
    config = PrepareConfig()
    empty = fit(glass, config, stride=16).apply(glass)
    assert np.ptp(empty) < 0.15 and empty.min() > 0.85
    glass[:, 20:24, 20:24] = 90  # less than the percentile sees: still far darker than all else
    assert fit(glass, config, stride=16).apply(glass)[:, 20:24, 20:24].max() < -0.4
    glass[2] = 255  # a channel at its ceiling
    assert np.ptp(fit(glass, config, stride=16).apply(glass)[2]) == 0
    grey = np.repeat(255 - RANDOM.integers(0, 16, (1, 60, 60)).astype(np.uint8), 3, axis=0)
    assert np.ptp(fit(grey, config, stride=16).apply(grey)) >= 1
    pale = RANDOM.integers(190, 248, (3, 60, 60)).astype(np.uint8)
    assert np.ptp(fit(pale, config, stride=16).apply(pale)) >= 1
