"""Augmentation draws from its own state, moves image and labels together, and keeps targets in range."""

import cv2
import numpy as np
import pytest

from pipeline.config import NoAugmentation, NucleiAugmentation, PrepareConfig, SeparatedTarget
from pipeline.model.prepare import fit
from pipeline.training.augment import (
    ChannelsFirst,
    Normalised,
    RandColourd,
    RandIntensityd,
    RandNoised,
    RandTouchd,
    RandWarpCropd,
    build_augmentation,
    seed_sample,
)


def sample(side: int = 96) -> dict[object, object]:
    """A grey image whose pixels are its labels, so that both must move alike."""
    labels = np.zeros((side, side), np.uint16)
    labels[20:40, 30:60] = 1
    labels[40:60, 30:60] = 2
    labels[5:9, 70:90] = 1  # off every axis of symmetry
    pixels = (labels * 100).astype(np.uint8)[:, :, None]
    preparation = fit(np.repeat(pixels[None, :, :, 0], 3, axis=0), PrepareConfig(), stride=16)
    return {"image": pixels, "label": labels, "preparation": preparation}


def test_without_augmentation_a_crop_is_a_turned_piece_of_the_image() -> None:
    """Scale 1 and quarter turns: nothing is resampled, so the crop's values are the image's values."""
    warp = RandWarpCropd(32, rotate=False, scale=(1.0, 1.0))
    for seed in range(12):
        warp.set_random_state(seed=seed)
        crop = warp(sample())
        assert crop["image"].shape == (32, 32, 1) and crop["label"].shape == (32, 32)
        np.testing.assert_array_equal(crop["image"][:, :, 0], crop["label"] * 100)


def test_a_crop_of_the_whole_image_is_one_of_eight() -> None:
    """With a crop as large as the image, the result is one of the square's eight symmetries, and all eight come up."""
    data = sample()
    label = np.asarray(data["label"])
    eight = [np.rot90(m, k) for m in (label, label[:, ::-1]) for k in range(4)]
    warp, seen = RandWarpCropd(96, rotate=False, scale=(1.0, 1.0)), set()
    for seed in range(80):
        warp.set_random_state(seed=seed)
        crop = warp(data)["label"]
        found = [i for i, one in enumerate(eight) if np.array_equal(one, crop)]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(range(8))


def test_scale_changes_areas_by_its_square() -> None:
    """Magnified by 2: an object of 20 x 30 px covers about 40 x 60."""
    warp = RandWarpCropd(192, rotate=False, scale=(2.0, 2.0)).set_random_state(seed=0)
    assert (warp(sample())["label"] == 2).sum() == pytest.approx(4 * 600, rel=0.05)


def test_small_images_are_mirrored_not_padded_with_black() -> None:
    """A crop larger than the image shows the image again, mirrored: no edge of zeros that looks like background."""
    data = {**sample(), "image": np.full((20, 20, 3), 9, np.uint8), "label": np.ones((20, 20), np.uint16)}
    crop = RandWarpCropd(64, rotate=True, scale=(0.8, 1.2)).set_random_state(seed=3)(data)
    assert (crop["image"] == 9).all() and (crop["label"] == 1).all()


@pytest.mark.parametrize("config", [NucleiAugmentation(), NoAugmentation()])
def test_the_seed_decides_the_sample(config: NucleiAugmentation | NoAugmentation) -> None:
    """The same seed gives the same bytes, another seed another sample, whatever numpy's global state is."""
    transform = build_augmentation(config, 48, 3, SeparatedTarget())
    drawn = []
    for seed in (5, 6, 5):
        np.random.seed(seed * 7 + len(drawn))  # noqa: NPY002 - it is the global state that must not matter
        seed_sample(transform, seed)
        drawn.append(transform(sample()))
    np.testing.assert_array_equal(np.asarray(drawn[0]["image"]), np.asarray(drawn[2]["image"]))
    np.testing.assert_array_equal(drawn[0]["target"], drawn[2]["target"])
    assert not np.array_equal(np.asarray(drawn[0]["image"]), np.asarray(drawn[1]["image"]))
    target = drawn[0]["target"]
    assert drawn[0]["image"].shape == (3, 48, 48) and drawn[0]["image"].dtype == np.float32
    assert target.shape == (3, 48, 48) and target.min() >= 0 and target.max() <= 1


def colour_image() -> dict[object, object]:
    """A colour image `(8, 8, 3)`: one pixel differs between channels."""
    pixels = np.full((8, 8, 3), 0.5, np.float32)
    pixels[0, 0, 0] = 0.1
    return {"image": pixels}


def grey_image(value: float = 0.5) -> dict[object, object]:
    return {"image": np.full((4, 4, 1), value, np.float32)}


def test_grey_stays_grey_and_colour_is_stained() -> None:
    """Stain mixes channels only where there are three."""
    change = RandColourd(0.3, grey=0.0, tint=0.0).set_random_state(seed=1)
    np.testing.assert_array_equal(change(grey_image())["image"], grey_image()["image"])
    stained = change(colour_image())["image"]
    assert stained.shape == (8, 8, 3) and not np.allclose(stained[4, 4, 0], stained[4, 4, 1])


def test_colour_can_become_grey() -> None:
    """With probability 1: one channel, the luminance of the colours."""
    image = RandColourd(0.3, grey=1.0, tint=0.0).set_random_state(seed=1)(colour_image())["image"]
    assert image.shape == (8, 8, 1)
    assert image[0, 0, 0] == pytest.approx(0.1 * 0.299 + 0.5 * 0.701)


def test_grey_can_be_tinted() -> None:
    """With probability 1 one or two channels stay as they are, the others are black; all six ways come up."""
    change = RandColourd(0.0, grey=0.0, tint=1.0).set_random_state(seed=1)
    ways = set()
    for _ in range(60):
        image = change(grey_image())["image"]
        assert image.shape == (4, 4, 3) and set(np.unique(image)) == {0.0, 0.5}
        ways.add(tuple((image[0, 0] > 0).tolist()))
    assert len(ways) == 6


def test_inversion_can_be_asked_for() -> None:
    """With probability 1 dark becomes bright; colours stay as they are, since what is bright in tissue is a gap."""
    change = RandIntensityd(0.0, (1.0, 1.0), 1.0).set_random_state(seed=1)
    np.testing.assert_allclose(change(grey_image(0.2))["image"], 0.8, atol=1e-6)
    colours = np.full((4, 4, 3), 0.2, np.float32)
    np.testing.assert_allclose(change({"image": colours})["image"], 0.2, atol=1e-6)


def test_gamma_gain_and_offset_are_what_numpy_says() -> None:
    """gain * value ** exponent + offset, with what was drawn; within the ranges asked for."""
    change = RandIntensityd(0.2, (0.7, 1.4), 0.0).set_random_state(seed=4)
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4, 1)
    found = change({"image": values})["image"]
    assert found.shape == (4, 4, 1)
    np.testing.assert_allclose(found, change.gain * values**change.exponent + change.offset, rtol=1e-5)
    assert 0.8 <= change.gain <= 1.2 and abs(change.offset) <= 0.1 and 0.7 <= change.exponent <= 1.4


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_normalised_like_its_image(dtype: type, channels: int) -> None:
    """Looked up or computed: what `Preparation.normalise` says of the same values."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, channels)).astype(dtype)
    whole = np.broadcast_to(np.moveaxis(pixels, 2, 0), (3, 9, 7))
    preparation = fit(whole, PrepareConfig(), stride=16)
    found = Normalised()({"image": pixels, "preparation": preparation})["image"]
    np.testing.assert_allclose(found, np.moveaxis(preparation.normalise(whole), 0, 2)[:, :, :channels], atol=1e-6)


def test_a_crop_of_one_colour_is_normalised_like_its_image() -> None:
    """Blue alone: all three channels are the blue one's."""
    pixels = np.zeros((9, 7, 3), np.uint8)
    pixels[:, :, 2] = np.random.default_rng(0).integers(0, 255, (9, 7))
    preparation = fit(np.moveaxis(pixels, 2, 0), PrepareConfig(), stride=16)
    found = Normalised()({"image": pixels, "preparation": preparation})["image"]
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])
    assert found[:, :, 2].std() > 0.1


def test_noise_has_the_deviation_that_was_drawn() -> None:
    """Three samples of ten are changed, by noise of mean 0."""
    change, deviations = RandNoised(0.1).set_random_state(seed=0), []
    for _ in range(100):
        noise = change({"image": np.zeros((64, 64, 1), np.float32)})["image"]
        assert noise.dtype == np.float32 and noise.std() == pytest.approx(change.std, rel=0.05)
        deviations.append(noise.std())
    assert 20 <= np.count_nonzero(deviations) <= 40 and max(deviations) <= 0.105


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_any_number_of_channels_comes_out_first(channels: int) -> None:
    """Also more than OpenCV warps at once; a grey image fills those the network takes."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, channels)).astype(np.uint8)
    data = {"image": pixels, "label": np.zeros((40, 40), np.uint16)}
    crop = RandWarpCropd(40, rotate=False, scale=(1.0, 1.0)).set_random_state(seed=0)(data)["image"]
    assert crop.shape == (40, 40, channels) and sorted(crop[..., -1].ravel()) == sorted(pixels[..., -1].ravel())
    first = ChannelsFirst(max(3, channels))({"image": crop.astype(np.float32)})["image"]
    assert first.shape == (max(3, channels), 40, 40) and first.flags.c_contiguous
    np.testing.assert_array_equal(first[-1], crop[..., -1])


def test_copies_touch_their_neighbours_and_cover_nothing() -> None:
    """Two discs: every copy has a new id, an area like its source's, lies on background alone and touches an object."""
    y, x = np.mgrid[:96, :96]
    label = np.zeros((96, 96), np.uint16)
    label[(y - 40) ** 2 + (x - 30) ** 2 <= 100] = 1
    label[(y - 60) ** 2 + (x - 66) ** 2 <= 49] = 2
    image = (label * 50 + 20).astype(np.uint8)[:, :, None]
    change, copies = RandTouchd(1.0).set_random_state(seed=0), 0
    for _ in range(30):
        found = change({"image": image, "label": label})
        np.testing.assert_array_equal(found["label"][label > 0], label[label > 0])
        for new in range(3, int(found["label"].max()) + 1):
            inside = found["label"] == new
            assert 0.8 * 149 < inside.sum() <= 317 and set(np.unique(found["image"][inside])) <= {70, 120}
            grown = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            assert (found["label"][grown & ~inside] > 0).any()
            copies += 1
    assert copies > 30 and label.max() == 2 and image.max() == 120  # the data set's own arrays stay as they are
