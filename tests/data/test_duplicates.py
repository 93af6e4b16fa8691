from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.data.duplicates import Match, features, find_duplicates, group
from pipeline.data.manifest import data_folder
from pipeline.data.simulate import simulate_image
from pipeline.types import Geometry, Image


def image(pixels: np.ndarray) -> Image:
    """(Y, X) or (Y, X, C) to an Image."""
    return Image(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)), Geometry.pixels())


def jpeg(pixels: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_UNCHANGED)


def brighter(factor: float):
    return lambda pixels: np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


COPIES = {
    "the same": lambda p: p.copy(),
    "flip y": lambda p: p[::-1],
    "flip x": lambda p: p[:, ::-1],
    "rot90": np.rot90,
    "rot180": lambda p: np.rot90(p, 2),
    "rot270": lambda p: np.rot90(p, 3),
    "transpose": lambda p: p.swapaxes(0, 1),
    "+10 %": brighter(1.1),
    "-10 %": brighter(0.9),
    "jpeg 80": jpeg,
    "jpeg 80 turned": lambda p: np.rot90(jpeg(p)),
    "half the size": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
}


def left_right(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two crops of two thirds of the width: half of each is in the other."""
    wide = 2 * p.shape[1] // 3
    return p[:, :wide], p[:, -wide:]


def corners(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two opposite corners of .773 of either side, whose overlap is half of each (2 - 1 / .773 = .707)."""
    high, wide = (round(n / 1.2929) for n in p.shape[:2])
    return p[:high, :wide], p[-high:, -wide:]


CROPS = {
    "left and right": left_right,
    "upper and lower": lambda p: tuple(q.swapaxes(0, 1) for q in left_right(p.swapaxes(0, 1))),
    "corners": corners,
    "flipped": lambda p: (left_right(p)[0], left_right(p)[1][:, ::-1]),
    "turned": lambda p: (corners(p)[0], np.rot90(corners(p)[1])),
    "a crop and its whole": lambda p: (p, p[:, : p.shape[1] // 2]),
}


@pytest.fixture(scope="module")
def made() -> list[np.ndarray]:
    """Twelve made images, four of tissue, in three shapes."""
    rng = np.random.default_rng(11)
    shapes = [(256, 256), (256, 320), (360, 360)]
    return [simulate_image(rng, "tissue" if k % 3 == 0 else "fluorescence", shapes[k % 3])[0] for k in range(12)]


def recall(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, list[Match]]:
    """Part of the pairs that are found, and the matches between what does not belong together."""
    n = len(pairs)
    seen = [features(str(k), image(p)) for side in zip(*pairs, strict=True) for k, p in enumerate(side)]
    _, matches = group(seen)
    found = {m.first for m in matches if m.second == m.first + n}
    return len(found) / n, [m for m in matches if m.first % n != m.second % n]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_a_frame_are_found(made, kind):
    """Every one, and nothing else."""
    share, wrong = recall([(p, COPIES[kind](p)) for p in made])
    assert share == 1 and wrong == []


@pytest.mark.parametrize("kind", CROPS)
def test_overlapping_crops_are_found(made, kind):
    """Every one, and nothing else."""
    share, wrong = recall([CROPS[kind](p) for p in made])
    assert share == 1 and wrong == []


def test_different_images_are_left_alone(made):
    """No group among images that share nothing; flat and tiny ones match nothing either."""
    odd = [
        np.zeros((64, 64), np.uint8),
        np.full((64, 64), 7, np.uint8),
        np.eye(3, dtype=np.uint8),
        np.ones((1, 1), np.uint8),
    ]
    assert find_duplicates((str(k), image(p)) for k, p in enumerate([*made, *odd])) == ([], [])
    assert group([]) == ([], [])


def test_evidence_says_how_they_match(made):
    """Exact, frame, crop; the first that holds, for the earlier and the later image."""
    p, q = made[1], made[2]
    first, second = corners(q)
    seen = [features(str(k), image(x)) for k, x in enumerate([p, p.copy(), p[::-1], first, second])]
    groups, matches = group(seen)
    assert groups == [{0, 1, 2}, {3, 4}]
    kinds = {(m.first, m.second): m.kind for m in matches}
    assert kinds == {(0, 1): "exact", (0, 2): "frame", (1, 2): "frame", (3, 4): "crop"}
    crop = next(m for m in matches if m.kind == "crop")
    assert crop.votes >= 5 and 0.25 <= crop.score <= 1


def test_names_come_back(made):
    """find_duplicates speaks in names and takes a generator."""
    named = (("x", made[0]), ("y", made[1]), ("z", made[0][:, ::-1]))
    groups, _ = find_duplicates((name, image(p)) for name, p in named)
    assert groups == [{"x", "z"}]


@pytest.mark.parametrize("scale", [1, 257, 1 / 255])
def test_the_dtype_does_not_matter(made, scale):
    """uint8, 16 bit and float in 0..1 of the same pixels are found in crops of each other's kind."""
    dtype = {1: np.uint8, 257: np.uint16}.get(scale, np.float32)
    share, wrong = recall(
        [tuple((side.astype(np.float64) * scale).astype(dtype) for side in left_right(p)) for p in made]
    )
    assert share == 1 and wrong == []


def test_values_that_are_not_finite_do_no_harm(made):
    """NaN and infinities are read as 0."""
    pixels = made[1].astype(np.float32)
    pixels[3, 4], pixels[5, 6] = np.nan, np.inf
    groups, _ = find_duplicates([("a", image(pixels)), ("b", image(pixels[::-1]))])
    assert groups == [{"a", "b"}]


def test_volumes_are_seen_by_their_middle():
    """(C, Z, Y, X): the slice Z // 2 decides."""
    flat = simulate_image(np.random.default_rng(0), "fluorescence", (96, 96))[0]
    volume = np.stack([np.zeros_like(flat), flat, np.zeros_like(flat)])[None]
    one, two = Image(volume, Geometry.pixels(3)), Image(volume[..., ::-1].copy(), Geometry.pixels(3))
    assert find_duplicates([("a", one), ("b", two)])[0] == [{"a", "b"}]


def test_features_are_small_and_repeatable(made):
    """Some ten kB an image, whatever its size; the same twice."""
    one, two = (features("a", image(made[2])) for _ in range(2))
    assert one.pixels_sha256 == two.pixels_sha256 and (one.bits == two.bits).all() and (one.points == two.points).all()
    assert len(one.points) > 20
    assert one.thumbnail.nbytes + one.points.nbytes + one.bits.nbytes + one.turns.nbytes < 20_000


def test_the_name_is_no_feature(made):
    """Two files of one content are exact duplicates."""
    one = features("a", image(made[0]))
    assert group([one, replace(one, name="b")])[1] == [Match(0, 1, "exact", 1.0)]


@pytest.mark.data
@pytest.mark.slow
def test_real_pairs_are_found():
    """Of every kind at least 95 % on real images (every sixth), and hardly anything else."""
    import imagecodecs

    root = data_folder() / "dsb2018" / "stage1_train"
    if not root.is_dir():
        pytest.skip("no real images: set MASKLINE_DATA")
    real = [imagecodecs.imread(next((f / "images").iterdir()))[..., :3].copy() for f in sorted(root.iterdir())[::6]]
    known = {(m.first, m.second) for m in group([features("", image(p)) for p in real])[1]}
    pairs = {name: [(p, copy(p)) for p in real] for name, copy in COPIES.items()}
    pairs |= {name: [crop(p) for p in real] for name, crop in CROPS.items()}
    for name, these in pairs.items():
        share, wrong = recall(these)
        n = len(real)
        unknown = [m for m in wrong if tuple(sorted((m.first % n, m.second % n))) not in known]
        assert share >= 0.95 and len(unknown) <= 3, (name, share, unknown)
