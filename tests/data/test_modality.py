import numpy as np
import pytest

from pipeline.data.manifest import data_folder, read_manifest
from pipeline.data.modality import classify_modality
from pipeline.data.simulate import simulate_image
from pipeline.types import Geometry, Image


def image(pixels) -> Image:
    return Image(np.asarray(pixels), Geometry.pixels())


def blobs(shape=(64, 64)) -> np.ndarray:
    """Mostly 0 with a few bright squares, about a tenth of the area."""
    pixels = np.zeros(shape, np.float32)
    for y in range(4, shape[0] - 8, 20):
        for x in range(4, shape[1] - 8, 20):
            pixels[y : y + 6, x : x + 6] = 1
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("offset", [0, 0.02, 0.3])
def test_light_on_dark_is_fluorescence_in_every_dtype(dtype, offset):
    """Also above a camera's offset, and in images that use little of their range."""
    scale = 1.0 if dtype == np.float32 else np.iinfo(dtype).max * 0.5
    noise = np.random.default_rng(0).uniform(0, 0.02, (64, 64))
    pixels = ((blobs() * 0.6 + offset + noise) * scale).astype(dtype)[None]
    assert classify_modality(image(pixels)) == "fluorescence"
    assert classify_modality(image(np.repeat(pixels, 3, axis=0))) == "fluorescence"


def test_one_dye_in_colour_is_still_fluorescence():
    """Blue on black is coloured, but not stained."""
    pixels = np.zeros((3, 64, 64), np.uint8)
    pixels[2] = blobs() * 220 + 3
    assert classify_modality(image(pixels)) == "fluorescence"


def test_the_bright_kinds_differ_by_colour():
    """Dark on white is grey_bright, purple on white stained."""
    grey = (230 - 130 * blobs()).astype(np.uint8)
    assert classify_modality(image(grey[None])) == "grey_bright"
    assert classify_modality(image(np.stack([grey] * 3))) == "grey_bright"
    assert classify_modality(image(np.stack([grey, grey - 40, grey]))) == "stained"


def test_what_cannot_be_told_is_unknown():
    """Flat, empty, volumes, and many bright channels."""
    assert classify_modality(image(np.full((1, 8, 8), 7, np.uint8))) == "unknown"
    assert classify_modality(image(np.zeros((1, 0, 8), np.uint8))) == "unknown"
    assert classify_modality(image(np.ones((1, 4, 8, 8), np.uint8))) == "unknown"
    assert classify_modality(image(np.stack([(230 - 130 * blobs())] * 5))) == "unknown"
    assert classify_modality(image(np.full((1, 8, 8), np.nan, np.float32))) == "unknown"


def test_orientation_and_size_do_not_matter():
    """Flips, turns and a large image, of which only a sample is looked at."""
    rng = np.random.default_rng(1)
    for kind, expected in (("fluorescence", "fluorescence"), ("tissue", "stained")):
        pixels, _ = simulate_image(rng, kind, (160, 200))
        pixels = np.atleast_3d(pixels).transpose(2, 0, 1)
        for turned in (pixels, pixels[:, ::-1], np.rot90(pixels, axes=(1, 2)), np.tile(pixels, (1, 5, 5))):
            assert classify_modality(image(turned)) == expected


@pytest.mark.data
def test_the_bowl_has_its_known_shares():
    """459 fluorescence, 91 stained, 14 grey bright; checked on a sample against the colours themselves."""
    import imagecodecs

    root = data_folder() / "dsb2018" / "stage1_train"
    if not root.is_dir():
        pytest.skip("no real images: set MASKLINE_DATA")
    for folder in sorted(root.iterdir())[::12]:
        pixels = imagecodecs.imread(next((folder / "images").iterdir()))[..., :3]
        grey = bool((np.ptp(pixels, axis=2) == 0).all())
        expected = ("fluorescence" if np.median(pixels) < 127 else "grey_bright") if grey else "stained"
        assert classify_modality(image(pixels.transpose(2, 0, 1))) == expected, folder.name


def test_the_manifest_of_the_bowl_agrees():
    """What the manifest says adds up to the known shares."""
    from collections import Counter
    from pathlib import Path

    path = Path(__file__).parents[2] / "data_manifests" / "dsb2018.csv"
    shares = Counter(case.modality for case in read_manifest(path, check_files=False).cases)
    assert shares == {"fluorescence": 459, "stained": 91, "grey_bright": 14}
