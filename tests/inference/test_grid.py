"""Windows of an image on the network's grid are parts of what the whole image is, whatever rows were held before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stream import Memory

from pipeline.inference.grid import ModelGrid
from pipeline.model.prepare import Preparation
from pipeline.types import Window

FILE = (90, 70)


def how(shape: tuple[int, int]) -> Preparation:
    """Values as they are, on a grid of this shape and a stride of 16."""
    return Preparation((0.0,) * 3, (1.0,) * 3, shape, FILE, 16)


def whole(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image on the grid at once, as a window that is all of it."""
    grid = ModelGrid(Memory(pixels), 3, None, how(shape))
    return grid.alone(Window((0, 0), grid.shape))


@pytest.mark.parametrize("shape", [FILE, (200, 150), (90, 150), (40, 30), (45, 70), (120, 60)])
@given(data=st.data())
@settings(max_examples=15)
def test_windows_are_parts_of_the_whole(shape: tuple[int, int], data: st.DataObject) -> None:
    """As it is, magnified, reduced, and magnified along one axis alone; bands of any height that go down the image."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, *FILE), np.uint8)
    expected = whole(pixels, shape)
    grid = ModelGrid(Memory(pixels), 3, None, how(shape))
    assert expected.shape[1:] == grid.shape
    top = 0
    while top < shape[0]:
        bottom = min(grid.shape[0], top + 16 * data.draw(st.integers(2, 5)))
        grid.hold(top, bottom)
        left = 16 * data.draw(st.integers(0, (shape[1] - 1) // 16))
        window = Window((top, left), (bottom, min(grid.shape[1], left + 16 * data.draw(st.integers(1, 4)))))
        np.testing.assert_array_equal(grid.window(window), expected[(slice(None), *window.slices)])
        if bottom == grid.shape[0]:
            break
        top = bottom - 16
    assert expected.dtype == (np.uint8 if shape == FILE else np.float32)


def test_what_is_magnified_is_held_as_the_file_has_it() -> None:
    """By four, in uint8: a sixty-fourth of the float32 rows of the grid; each row of the file is read once."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, *FILE), np.uint8)
    read: list[tuple[int, int]] = []

    class Counted(Memory):
        def read(self, window: Window | None = None, level: int = 0):
            assert window is not None
            read.append((window.start[0], window.stop[0]))
            return super().read(window, level)

    grid = ModelGrid(Counted(pixels), 3, None, how((360, 280)))
    for top in range(0, 360, 64):
        grid.hold(max(0, top - 16), min(360, top + 80))
        assert grid._rows._held.dtype == np.uint8 and grid._rows._held.nbytes <= 3 * 70 * (96 / 4 + 2)
    assert [a for a, _ in read] == [0, *(b for _, b in read[:-1])] and read[-1][1] == 90
