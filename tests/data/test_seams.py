import numpy as np
import pytest

from pipeline.data.duplicates import features, group
from pipeline.data.seams import edges_of, find_seams
from pipeline.data.simulate import simulate_image
from pipeline.types import Geometry, Image


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Six dense made pictures of 400 x 400, every other one tissue; noise hides a seam of the others at times."""
    rng = np.random.default_rng(2)
    return [simulate_image(rng, kind, (400, 400), density=0.4)[0] for kind in ("fluorescence", "tissue") * 3]


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.atleast_3d(pixels).astype(np.float32).mean(axis=2)


def quarters(pixels: np.ndarray) -> list[np.ndarray]:
    """Upper left, upper right, lower left, lower right."""
    return [pixels[y : y + 200, x : x + 200] for y in (0, 200) for x in (0, 200)]


def test_tiles_of_one_picture_are_joined_and_no_others(pictures):
    """Of four quarters the four inner seams, in reading order; never one between two pictures."""
    tiles = [q for p in pictures for q in quarters(grey(p))]
    found = {(a, b) for a, b, _ in find_seams([edges_of(tile) for tile in tiles])}
    true = {(4 * n + a, 4 * n + b) for n in range(len(pictures)) for a, b in ((0, 1), (2, 3), (0, 2), (1, 3))}
    assert found <= true and len(found) >= 0.8 * len(true)


def test_mirrored_tiles_do_not_continue_each_other(pictures):
    """Right tiles upside down and lower ones left to right: the same edges, none of which meets its partner."""
    tiles = [q for p in pictures for q in quarters(grey(p))]
    turned = [tile[:: -1 if k % 2 else 1, :: -1 if k % 4 > 1 else 1] for k, tile in enumerate(tiles)]
    assert not list(find_seams([edges_of(np.ascontiguousarray(tile)) for tile in turned]))


def test_an_edge_continued_twice_is_not_decided(pictures):
    """Two candidates for one place: neither is taken, however well they fit."""
    left, right, *_ = quarters(grey(pictures[1]))
    assert [(a, b) for a, b, _ in find_seams([edges_of(t) for t in (left, right)])] == [(0, 1)]
    assert not [pair for pair in find_seams([edges_of(t) for t in (left, right, right + 0.01)]) if pair[0] == 0]


def test_a_tile_does_not_continue_itself():
    """Periodic pictures join at their own edges; that says nothing."""
    wave = np.tile(np.sin(np.arange(64) / 64 * 8 * np.pi) * 50 + 100, (64, 1)).astype(np.float32)
    assert not list(find_seams([edges_of(wave + wave.T)]))


def test_other_light_is_another_picture(pictures):
    """A tile at half the brightness is not the neighbour, whatever its profile."""
    left, right, *_ = quarters(grey(pictures[1]))
    assert not list(find_seams([edges_of(left), edges_of(right / 2)]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2), (30, 40)])
def test_flat_and_tiny_images_have_flat_edges(shape):
    """No error, no variation, no seam."""
    edges = edges_of(np.full(shape, 9, np.float32))
    assert [len(e.profile) for e in edges] == [shape[0], shape[0], shape[1], shape[1]]
    assert all(e.strength == 0 and not e.profile.any() for e in edges)
    assert not list(find_seams([edges, edges]))


def test_many_edges_are_compared_in_blocks(pictures, monkeypatch):
    """Blocks of 3 give what one block gives."""
    edges = [edges_of(q) for p in pictures for q in quarters(grey(p))]
    whole = list(find_seams(edges))
    monkeypatch.setattr("pipeline.data.seams.BLOCK", 3)
    blocked = list(find_seams(edges))
    assert [w[:2] for w in whole] == [b[:2] for b in blocked] and len(whole) > 15
    assert np.allclose([w[2] for w in whole], [b[2] for b in blocked], atol=1e-5)


def test_tiles_become_a_group(pictures):
    """`group` puts the quarters of each picture together, with the evidence `neighbour`."""
    tiles = [np.ascontiguousarray(np.atleast_3d(q).transpose(2, 0, 1)) for p in pictures[1:4:2] for q in quarters(p)]
    groups, matches = group([features("", Image(tile, Geometry.pixels())) for tile in tiles])
    assert groups == [{0, 1, 2, 3}, {4, 5, 6, 7}] and {m.kind for m in matches} == {"neighbour"}
