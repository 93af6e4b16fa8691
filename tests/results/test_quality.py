"""Flags say what a person who looks at the picture would say, and nothing of pictures that are well."""

import doctest
import math

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.results import quality
from pipeline.results.quality import FLAGS, appearance, edge_width, flag_images, flags, usual
from pipeline.types import Geometry, Image


def nuclei(
    shape: tuple[int, int] = (200, 200), radius: int = 9, step: int = 40, level: int = 150
) -> tuple[Image, np.ndarray]:
    """Bright discs on a regular grid over a dim, noisy background."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    cell = (y // step) * (shape[1] // step + 1) + x // step + 1
    inside = (y % step - step // 2) ** 2 + (x % step - step // 2) ** 2 <= radius**2
    labels = np.where(inside, cell, 0).astype(np.uint32)
    noise = np.random.default_rng(0).normal(20, 4, shape)
    pixels = np.clip(cv2.GaussianBlur(noise + level * inside, (0, 0), 1.0), 0, 255).astype(np.uint8)
    return Image(pixels[None], Geometry.pixels()), labels


def judge(image: Image, labels: np.ndarray, confidence: float | None = None) -> list[str]:
    objects = len(np.unique(labels)) - 1
    return flags({"objects": objects, "confidence": confidence, **appearance(image, labels)})


def with_pixels(image: Image, pixels: np.ndarray) -> Image:
    return Image(pixels, image.geometry)


def folder(n: int = 12, **changed: float) -> pd.DataFrame:
    """A folder of much the same images, of which the last is changed."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(n)],
            "status": "done",
            "objects": 50.0,
            "density": rng.normal(800, 40, n),
            "median_area": rng.normal(250, 12, n),
            "edge_width": rng.normal(2.5, 0.1, n),
            "contrast": 9.0,
            "confidence": 0.9,
        }
    )
    for name, value in changed.items():
        table.loc[n - 1, name] = value
    return table


def test_doctests_hold():
    """The examples in the module are true."""
    assert doctest.testmod(quality).failed == 0 and doctest.testmod(quality).attempted > 1


def test_good_images_have_no_flag():
    """Sharp, bright, well inside the range: nothing to say."""
    image, labels = nuclei()
    assert judge(image, labels, 0.95) == []


def test_numbers_by_hand():
    """Four pixels, two objects: every number can be checked by eye."""
    pixels = np.array([[[10, 10, 200], [0, 0, 200], [0, 0, 0]]], np.uint8)
    labels = np.array([[1, 1, 2], [0, 0, 2], [0, 0, 0]], np.uint32)
    got = appearance(Image(pixels, Geometry.pixels()), labels)
    assert got["saturated"] == 0.5  # the two of 200, of four
    assert (got["touching"], got["median_area"]) == (1.0, 2.0)
    assert got["contrast"] > 1e6  # the background is without any spread


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.0])
def test_edge_width_is_the_blur(sigma):
    """A straight edge blurred by sigma is found to be about sigma wide, at any brightness."""
    step = np.zeros((120, 120), np.float32)
    step[:, 60:] = 1
    blurred = cv2.GaussianBlur(step, (0, 0), sigma)
    assert edge_width(blurred) == pytest.approx(sigma, rel=0.12)
    assert edge_width(1000 + 50 * blurred) == pytest.approx(edge_width(blurred), rel=1e-3)


def test_blurred_images_are_flagged():
    """The same picture out of focus."""
    image, labels = nuclei()
    soft = cv2.GaussianBlur(image.pixels[0], (0, 0), 6)[None]
    assert judge(with_pixels(image, soft), labels) == ["blurred"]


def test_saturated_objects_are_flagged():
    """The same picture overexposed. A white background is no saturation, nor are the soft rims of dark objects."""
    image, labels = nuclei()
    burnt = np.clip(image.pixels.astype(int) * 4, 0, 255).astype(np.uint8)
    assert "saturated" in judge(with_pixels(image, burnt), labels)
    bright_field = np.clip(2 * (255 - image.pixels.astype(int)), 0, 255).astype(np.uint8)
    assert bright_field[0][labels == 0].min() == 255
    assert "saturated" not in judge(with_pixels(image, bright_field), labels)


def test_faint_objects_are_flagged():
    """Objects at one standard deviation of the background."""
    noise = np.random.default_rng(0).normal(100, 10, (1, 200, 200)).astype(np.float32)
    _, labels = nuclei()
    assert "low_contrast" in judge(Image(noise + 10 * (labels > 0), Geometry.pixels()), labels)


def test_unsure_models_are_flagged():
    """Below .7, or below what the model's record says."""
    image, labels = nuclei()
    assert judge(image, labels, 0.5) == ["low_confidence"]
    row = {"objects": 9, "confidence": 0.8}
    assert flags(row) == [] and flags(row, confidence=0.85) == ["low_confidence"]


def test_nothing_found_is_flagged():
    """No object is one flag and no more, whatever else may be said of the picture."""
    image, labels = nuclei()
    assert judge(image, np.zeros_like(labels)) == ["no_objects"]
    assert math.isnan(appearance(image, np.zeros_like(labels))["contrast"])


def test_cut_objects_are_flagged():
    """Most objects of a narrow strip touch its edge; three objects say nothing."""
    image, labels = nuclei()
    strip, narrow = with_pixels(image, image.pixels[:, 15:25]), labels[15:25]
    assert judge(strip, narrow) == ["edge_touching"]
    assert judge(with_pixels(image, strip.pixels[..., :120]), narrow[:, :120]) == []


def test_black_images_do_not_fail():
    """No divide by nothing, no warning."""
    black = Image(np.zeros((3, 20, 20), np.uint16), Geometry.pixels())
    assert math.isnan(appearance(black, np.zeros((20, 20), np.uint32))["edge_width"])
    labels = np.zeros((20, 20), np.uint32)
    labels[5:15, 5:15] = 1
    assert judge(black, labels) == ["low_contrast"]
    assert appearance(black, np.ones((20, 20), np.uint32))["saturated"] == 0


def test_stacks_are_judged_by_their_middle_plane():
    """(C, Z, Y, X) gives the numbers of its middle plane."""
    image, labels = nuclei()
    pixels = np.stack([np.zeros_like(image.pixels), image.pixels, np.zeros_like(image.pixels)], axis=1)
    stack = Image(pixels, Geometry.pixels(3))
    assert appearance(stack, np.stack([0 * labels, labels, 0 * labels])) == pytest.approx(
        appearance(image, labels), nan_ok=True
    )


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"density": 4000.0}, "dense"),
        ({"density": 100.0}, "sparse"),
        ({"median_area": 900.0}, "unusual_size"),
        ({"median_area": 110.0}, "unusual_size"),
        ({"edge_width": 6.0, "median_area": 250.0}, "blurred"),
    ],
)
def test_what_is_unlike_its_folder_is_flagged(changed, flag):
    """One image of twelve stands out; the eleven others are well."""
    assert flag_images(folder(**changed)) == [""] * 11 + [flag]


def test_folders_of_much_the_same_have_no_flags():
    """Small differences are no finding, however alike the rest is; nor is anything in a folder of seven."""
    assert flag_images(folder(density=1200.0, median_area=330.0)) == [""] * 12
    assert flag_images(folder(7, density=4000.0)) == [""] * 7
    assert usual(folder(7)).middle == {}


def test_failed_images_are_neither_flagged_nor_compared():
    """Rows without numbers change nothing."""
    table = folder(density=4000.0)
    failed = pd.DataFrame({"path": ["bad.png"] * 20, "status": "failed", "density": np.nan})
    assert flag_images(pd.concat([failed, table], ignore_index=True)) == [""] * 31 + ["dense"]


def test_objects_far_from_the_models_size_are_flagged():
    """A model trained on 18 px objects meets 60 px ones; within a factor of 2.5 it is at home."""
    row = {"objects": 20, "median_area": math.pi * 30**2}
    assert flags(row, diameter=18) == ["out_of_range"]
    assert flags(row, diameter=30) == flags(row, diameter=150) == flags(row) == []


def test_several_flags_come_in_one_order():
    """The gravest first, joined by semicolons, each with a title and an advice."""
    row = {"objects": 9, "touching": 0.9, "saturated": 0.5, "confidence": 0.1, "status": "done"}
    assert flag_images(pd.DataFrame([row])) == ["low_confidence;saturated;edge_touching"]
    assert all(title and advice for title, advice in FLAGS.values())


def test_missing_tiles_are_flagged_first_also_where_nothing_was_found():
    """What is not in the file makes every other number doubtful, and an empty image most of all."""
    rows = pd.DataFrame({"objects": [0, 9, 9], "missing_tiles": [10, 1, np.nan], "touching": 0.9, "status": "done"})
    assert flag_images(rows) == ["missing_tiles;no_objects", "missing_tiles;edge_touching", "edge_touching"]


def test_texts_of_a_csv_are_numbers_too():
    """Rows read back from images.csv may hold texts and gaps."""
    assert flags({"objects": "0"}) == ["no_objects"]
    assert flags({"objects": "9", "confidence": "", "touching": None, "contrast": "x"}) == []
