"""Decoding: what belongs together, where it is cut, and that only a component's own pixels say so."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as label_components
from skimage.segmentation import watershed

from pipeline.config import MaskTarget, SeparatedTarget, Target, ThreeClassTarget
from pipeline.model.decode import FULL, HOLE, Components, Thresholds, decode, decode_components, scale_areas, to_bytes

MARGIN = 2
TARGETS: tuple[Target, ...] = (MaskTarget(), SeparatedTarget(), ThreeClassTarget())
RULES = (
    Thresholds(minimum_area=1, minimum_seed=1),
    Thresholds(foreground=0.45, seed=0.2, border=0.5, minimum_area=6, minimum_seed=2),
    Thresholds(foreground=0.55, seed=0.1, border=1.75, minimum_area=3, minimum_seed=1),
    Thresholds(foreground=0.45, seed=0.2, border=0.5, minimum_area=1, minimum_seed=2, peak=0.6),
)


def field(seed: int, shape: tuple[int, int], blur: float, steps: int) -> np.ndarray:
    """Smooth random probabilities `(3, Y, X)` uint8 of few different values, so that floods meet many ties."""
    noise = np.random.default_rng(seed).random((3, *shape)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in noise])
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (np.floor(smooth * steps) * (FULL / steps)).astype(np.uint8)


def objects_of(found: Components, component: int, top: int = 0, left: int = 0) -> set[tuple]:
    """The objects of one component as sets of pixels, told from `(top, left)`."""
    numbers = np.flatnonzero(found.component == component) + 1
    return {tuple(map(tuple, np.argwhere(found.labels == n) - (top, left))) for n in numbers}


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.8, 1.2, 1.8]),
    st.sampled_from([5, 20, 255]),
    st.sampled_from(TARGETS),
    st.sampled_from(RULES),
    st.integers(0, 5),
)
@settings(max_examples=60)
def test_a_component_is_decoded_from_its_own_pixels_alone(
    seed: int, blur: float, steps: int, target: Target, rules: Thresholds, shift: int
) -> None:
    """The crop around a component, in a frame of its own with other things beside it, holds the same objects."""
    planes = field(seed, (40, 44), blur, steps)
    whole = decode_components(planes, target, rules)
    rng = np.random.default_rng(seed)
    for component in np.unique(whole.component):
        boxes = whole.box[whole.component == component]
        inside = np.isin(whole.labels, np.flatnonzero(whole.component == component) + 1)
        if isinstance(target, MaskTarget) or (
            rules.minimum_area == 1 and not rules.peak
        ):  # else parts of it may have been dropped
            assert label_components(inside, connectivity=1).max() == 1
        reach = component_box(planes, target, rules, boxes)
        low = np.maximum(reach[:2] - MARGIN, 0)
        high = np.minimum(reach[2:] + MARGIN, inside.shape)
        crop = planes[:, low[0] : high[0], low[1] : high[1]]
        alone = decode_components(crop, target, rules)
        first = whole.first[whole.component == component][0] - low
        same = alone.component[alone.labels[tuple(first)] - 1]
        assert objects_of(alone, same) == objects_of(whole, component, *low)
        if (low == reach[:2] - MARGIN).all() and (high == reach[2:] + MARGIN).all():  # else the edge has a say
            other = (rng.random((3, crop.shape[1] + 9, crop.shape[2] + 7)) * 256).astype(np.uint8)
            other[0, shift : shift + crop.shape[1], 1 : 1 + crop.shape[2]] = 0
            other[0, shift] = 0  # to the image's edge, else what lies beside may close a gap around it
            view = other[:, shift : shift + crop.shape[1], 1 : 1 + crop.shape[2]]
            view[:, 1:-1, 1:-1] = crop[:, 1:-1, 1:-1]
            moved = decode_components(other, target, rules)
            same = moved.component[moved.labels[first[0] + shift, first[1] + 1] - 1]
            assert objects_of(moved, same, shift, 1) == objects_of(whole, component, *low)


def component_box(planes: np.ndarray, target: Target, rules: Thresholds, boxes: np.ndarray) -> np.ndarray:
    """The box of the whole component, pieces that are too small to be kept included."""
    free = Thresholds(rules.foreground, 1.0, rules.border, 1, 1)  # no seeds: components are objects
    whole = decode_components(planes, target, free)
    inner = whole.labels[boxes[0, 0] : boxes[0, 2], boxes[0, 1] : boxes[0, 3]]
    for number in np.unique(inner[inner > 0]) - 1:
        box = whole.box[number]
        if (box[:2] <= boxes[:, :2].min(axis=0)).all() and (box[2:] >= boxes[:, 2:].max(axis=0)).all():
            return box
    raise AssertionError


@given(st.integers(0, 10_000), st.sampled_from([5, 255]), st.sampled_from(TARGETS), st.sampled_from(RULES))
@settings(max_examples=40)
def test_what_is_said_of_objects_is_what_the_labels_show(
    seed: int, steps: int, target: Target, rules: Thresholds
) -> None:
    """Area, box, first pixel, order and pieces, each counted in the labels; and the largest value, where it matters."""
    planes = field(seed, (30, 41), 1.2, steps)
    inner = planes[2] if isinstance(target, SeparatedTarget) else planes[0]
    found = decode_components(planes if isinstance(target, SeparatedTarget) else planes[:2], target, rules)
    assert found.labels.dtype == np.uint32 and found.labels.max() == len(found.area)
    assert np.unique(found.labels).size - (found.labels == 0).any() == len(found.area)
    for number in range(1, len(found.area) + 1):
        at = np.argwhere(found.labels == number)
        assert found.area[number - 1] == len(at) >= rules.minimum_area
        assert found.box[number - 1].tolist() == [*at.min(axis=0), *(at.max(axis=0) + 1)]
        assert found.first[number - 1].tolist() == at[0].tolist()
        assert not rules.peak or inner[tuple(at.T)].max() > rules.peak * FULL
        assert label_components(found.labels == number, connectivity=1).max() == 1
    assert (np.diff(found.first[:, 0] * 41 + found.first[:, 1]) > 0).all()


@given(st.integers(0, 10_000), st.sampled_from(TARGETS), st.sampled_from(RULES))
@settings(max_examples=40)
def test_bytes_decode_as_the_probabilities_they_were_made_of(seed: int, target: Target, rules: Thresholds) -> None:
    """What a streaming prediction keeps as uint8 gives the same labels as float32."""
    planes = np.random.default_rng(seed).random((3, 20, 24)).astype(np.float32)
    np.testing.assert_array_equal(decode(planes, target, rules), decode(to_bytes(planes), target, rules))


def test_bytes_are_the_nearest() -> None:
    """All 256 of them come back, and nothing else is further than half a step."""
    steps = (np.arange(256) / FULL).astype(np.float32)[None, None]
    assert to_bytes(steps).ravel().tolist() == list(range(256))
    values = np.random.default_rng(0).random((2, 9, 31)).astype(np.float32)
    assert np.abs(to_bytes(values) / FULL - values).max() <= 0.5 / FULL + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_basins_are_scikit_image_s_watershed(seed: int) -> None:
    """Cutting all components on one canvas, without the seeds' insides, gives the watershed of the whole image."""
    planes = field(seed, (90, 120), 2.5, 40)
    planes[2] = field(seed + 100, (90, 120), 1.5, 40)[0]
    rules = Thresholds(foreground=0.52, seed=0.45, border=0.25, minimum_area=1, minimum_seed=1)
    found = decode_components(planes, SeparatedTarget(), rules)
    assert len(found.area) > len(np.unique(found.component)) > 3
    depth = planes[2] * 64.0 - planes[1] * 16.0
    mask = found.labels > 0
    seeds = label_components((depth > 0.45 * FULL * 64) & mask, connectivity=1)
    order = np.where(seeds > 0, np.arange(seeds.size).reshape(seeds.shape) / seeds.size, 1)
    components = label_components(mask, connectivity=1)
    unseeded = ~np.isin(components, components[seeds > 0])
    expected = watershed(order - depth * 2, seeds + (seeds.max() + components) * unseeded, mask=mask)
    pairs = np.unique(np.stack([expected.ravel(), found.labels.ravel()]), axis=1)
    assert pairs.shape[1] == len(found.area) + 1


def test_holes_of_several_shapes_by_eye() -> None:
    """A gap of 64 px is filled, one of 65 is not, nor one that reaches the edge; across a corner it is closed."""
    mask = np.ones((40, 60), bool)
    mask[2:10, 2:10] = False  # 64 px
    mask[2:15, 20:25] = False  # 65 px
    mask[0:3, 30:33] = False  # open to the top
    mask[20, 40] = mask[21, 41] = False  # two gaps of a pixel each that meet at a corner
    found = decode((mask * 1.0).astype(np.float32)[None].repeat(2, axis=0), ThreeClassTarget(), RULES[0])
    assert HOLE == 64
    assert (found[2:10, 2:10] > 0).all() and (found[2:15, 20:25] == 0).all()
    assert (found[0:3, 30:33] == 0).all() and found[20, 40] > 0


def test_seeds_decide_where_one_component_becomes_two() -> None:
    """Two bumps in one row: two objects that meet in the valley, of one component; with a higher bar, one object."""
    depth = np.array([[1, 3, 9, 3, 2, 1, 4, 8, 4, 1]], np.float32) / 10
    planes = np.stack([np.ones_like(depth), np.zeros_like(depth), depth])
    apart = decode_components(planes, SeparatedTarget(), Thresholds(seed=0.5, minimum_area=1, minimum_seed=1))
    assert apart.labels.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 2, 2]]
    assert apart.component.tolist() == [0, 0] and apart.box.tolist() == [[0, 0, 1, 5], [0, 5, 1, 10]]
    one = decode_components(planes, SeparatedTarget(), Thresholds(seed=0.85, minimum_area=1, minimum_seed=1))
    assert one.labels.tolist() == [[1] * 10]


def test_areas_scale_with_the_grid() -> None:
    """Four times the pixels, four times the areas; never less than one."""
    rules = scale_areas(Thresholds(minimum_area=10, minimum_seed=3), 4.0)
    assert (rules.minimum_area, rules.minimum_seed) == (40, 12)
    assert scale_areas(rules, 1e-6).minimum_seed == 1


@pytest.mark.parametrize("target", TARGETS)
def test_how_probabilities_lie_in_memory_does_not_matter(target: Target) -> None:
    """A ring whose hole is filled, from planes that lie column by column as from planes that lie row by row."""
    planes = np.zeros((3, 30, 40), np.uint8)
    for plane in (planes[0], planes[2]):
        cv2.circle(plane, (20, 15), 10, FULL, -1)
        cv2.circle(plane, (20, 15), 3, 0, -1)
    found = decode_components(planes, target, Thresholds()).labels
    turned = np.ascontiguousarray(planes.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert not turned.flags.c_contiguous
    assert np.array_equal(decode_components(turned, target, Thresholds()).labels, found)
    assert (found[15, 20] > 0) == (not isinstance(target, MaskTarget))


@given(st.integers(0, 10_000), st.sampled_from([5, 255]), st.sampled_from(TARGETS))
@settings(max_examples=40)
def test_objects_without_a_peak_are_left_out(seed: int, steps: int, target: Target) -> None:
    """All others stay as they were, pixel by pixel."""
    planes = field(seed, (30, 41), 1.2, steps)[: 3 if isinstance(target, SeparatedTarget) else 2]
    rules = Thresholds(foreground=0.4, seed=0.2, border=0.5, minimum_area=1, minimum_seed=1)
    every, sure = (decode(planes, target, replace(rules, peak=peak)) for peak in (0.0, 0.6))
    low = [n for n in np.unique(every[every > 0]) if planes[-1 if len(planes) > 2 else 0][every == n].max() <= 153]
    np.testing.assert_array_equal(sure > 0, (every > 0) & ~np.isin(every, low))
    assert len({*zip(sure.ravel(), np.where(sure, every, 0).ravel(), strict=True)}) == sure.max() + (sure == 0).any()


def test_a_peak_is_asked_of_objects_in_volumes_too() -> None:
    """0.9 is above .6, .5 is not; with 0, none is asked for, even where nothing was seen."""
    volume = np.zeros((3, 1, 1, 7), np.float32)
    volume[0, 0, 0] = [0.9, 0.9, 0, 0.9, 0.9, 0, 0.9]
    volume[2, 0, 0] = [0.2, 0.9, 0, 0.5, 0.5, 0, 0.0]
    rules = Thresholds(minimum_area=1, minimum_seed=1)
    assert decode(volume, SeparatedTarget(), rules)[0, 0].tolist() == [1, 1, 0, 2, 2, 0, 3]
    assert decode(volume, SeparatedTarget(), replace(rules, peak=0.6))[0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0]
