"""Outlines run along pixel edges, and filling them gives the pixels back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import grid_points_in_poly, label

from pipeline.data.outlines import fill, trace, trace_all


def draw(rows: str) -> np.ndarray:
    """'##./...' -> bool array."""
    return np.array([[c == "#" for c in row] for row in rows.split("/")])


def filled(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, bool)
    for polygon in polygons:
        top, left, crop = fill([np.array(ring) for ring in polygon], shape)
        out[top : top + crop.shape[0], left : left + crop.shape[1]] |= crop
    return out


def test_a_square_has_four_corners():
    """The outline of 2 x 2 pixels at (1, 1) is the square from (1, 1) to (3, 3), clockwise on the screen, closed."""
    polygons = trace(draw("..../.##./.##./...."))
    assert len(polygons) == 1
    assert len(polygons[0]) == 1
    ring = polygons[0][0]
    assert ring[0] == ring[-1]
    assert set(ring) == {(1, 1), (3, 1), (3, 3), (1, 3)}
    assert len(ring) == 5


def test_a_hole_is_a_second_ring():
    """A ring of pixels has an outer ring and one hole of one pixel."""
    polygons = trace(draw("###/#.#/###"))
    assert [len(polygon) for polygon in polygons] == [2]
    assert set(polygons[0][1]) == {(1, 1), (2, 1), (2, 2), (1, 2)}


@pytest.mark.parametrize(
    ("rows", "rings"),
    [
        ("#./.#", [1, 1]),  # corner to corner: two pieces
        (".##/#.#/###", [2]),  # the background passes between two pixels of one piece: a hole that touches the outside
        ("####/#.##/##.#/####", [3]),  # two holes that touch
    ],
)
def test_rings_never_touch_themselves(rows, rings):
    """Where pixels meet at a corner only, the rings are cut apart there, as GeoJSON's polygons must be."""
    inside = draw(rows)
    polygons = trace(inside)
    assert [len(polygon) for polygon in polygons] == rings
    for ring in (r for polygon in polygons for r in polygon):
        assert len(set(ring[:-1])) == len(ring) - 1
    assert (filled(polygons, inside.shape) == inside).all()


@settings(max_examples=150)
@given(arrays(bool, (7, 8)))
def test_filling_an_outline_gives_the_pixels_back(inside):
    """Trace, then fill: the same pixels, one polygon for every 4-connected piece, no ring that touches itself."""
    polygons = trace(inside)
    assert (filled(polygons, inside.shape) == inside).all()
    assert len(polygons) == label(inside, connectivity=1).max()
    for ring in (r for polygon in polygons for r in polygon):
        assert len(set(ring[:-1])) == len(ring) - 1


def turned(polygons) -> list:
    """Rings from their least corner on, so that they can be compared."""
    out = []
    for polygon in polygons:
        rings = [[tuple(int(v) for v in corner) for corner in ring][:-1] for ring in polygon]
        starts = [ring.index(min(ring)) for ring in rings]
        out.append([ring[at:] + ring[:at] for at, ring in zip(starts, rings, strict=True)])
    return out


@settings(max_examples=100)
@given(st.lists(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6)), max_size=6))
def test_many_are_traced_as_one_by_one(crops):
    """Crops of any sizes, empty ones too, in one go: the same rings in the same direction."""
    assert [turned(polygons) for polygons in trace_all(crops)] == [turned(trace(crop)) for crop in crops]


def test_round_objects_are_traced_as_one_by_one():
    """Ellipses, of one ring each, in boxes of their own."""
    y, x = np.mgrid[-12:13, -15:16]
    crops = [(y / (a + 0.3)) ** 2 + (x / (14.6 - a)) ** 2 <= 1 for a in range(2, 12)]
    assert [turned(polygons) for polygons in trace_all(crops)] == [turned(trace(crop)) for crop in crops]
    assert all(len(polygons) == len(polygons[0]) == 1 for polygons in trace_all(crops))


def test_fill_takes_the_pixels_whose_centres_are_inside():
    """On random triangles, the same pixels as skimage's test of every pixel centre."""
    random = np.random.default_rng(0)
    for _ in range(50):
        triangle = random.uniform(-4, 24, (3, 2))  # (x, y), partly outside the image
        top, left, crop = fill([triangle], (20, 21))
        whole = np.zeros((20, 21), bool)
        whole[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        expected = grid_points_in_poly((20, 21), triangle[:, ::-1] - 0.5)
        assert (whole == expected).all()


def test_a_polygon_outside_the_image_holds_nothing():
    """The crop of what lies beyond the frame is empty."""
    assert fill([np.array([[30, 30], [40, 30], [40, 40]])], (20, 20))[2].size == 0
