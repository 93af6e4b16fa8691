"""Probabilities to objects: label the mask first, split only the components that hold several seeds.

Invariant: the objects of a component (4-connected, of the mask with its small holes filled) depend on the probabilities
of its own pixels and of the holes in it, and on nothing else: not on where it lies, what lies beside it, or how large
the image is. Decoding any crop that holds a component and a margin of 1 px gives the same objects of it. (The image's
edge closes no hole: a gap that reaches it is not enclosed.)

Everything is decided on whole numbers: probabilities are read as 0..255, and float32 is rounded to that first, so that
what was kept as uint8 decodes as what it was made of.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClassesTarget, MaskTarget, Target
from pipeline.data.spans import Integers, Spans, connect, expand, find_spans
from pipeline.model.volume_objects import decode_volume
from pipeline.types import Array, Labels, Pixels

Bytes = NDArray[np.uint8]
FULL = 255  # what a probability of 1 is read as
HOLE = 64  # px: the largest enclosed gap that is taken for a nucleolus
_BAND = 2**16
_PARTS = 64  # the border's weight is rounded to that part of one


@dataclass(frozen=True)
class Thresholds:
    """How probabilities are read: tuned on validation, stored with the model. Areas are in model pixels."""

    foreground: float = 0.5
    seed: float = 0.5
    border: float = 1.0  # weight of the border when it is taken off the distance (or, without one, the foreground)
    minimum_area: int = 10
    minimum_seed: int = 3
    peak: float = 0.0  # an object's largest distance (without one, its foreground) exceeds it; StarDist's probability


def scale_areas(thresholds: Thresholds, factor: float) -> Thresholds:
    """Thresholds whose areas are `factor` times as large, for decoding on another grid than the model's.

    >>> scale_areas(Thresholds(minimum_area=10), 4.0).minimum_area
    40
    """
    area, seed = round(thresholds.minimum_area * factor), round(thresholds.minimum_seed * factor)
    return replace(thresholds, minimum_area=max(1, area), minimum_seed=max(1, seed))


@dataclass(frozen=True)
class Components:
    """Decoded objects, numbered 1..n in raster order of their first pixels, as `(n,)` and `(n, k)` int64 columns.

    labels : uint32 `(Y, X)`
    component : `(n,)`
        Objects with the same number, 0 and up in raster order, were cut out of one component of the mask.
    box : `(n, 4)`
        Top, left, bottom, right; half-open.
    area : `(n,)` px
    first : `(n, 2)`
        Row and column of the object's first pixel in raster order.
    """

    labels: Labels
    component: Integers
    box: Integers
    area: Integers
    first: Integers


def to_bytes(probabilities: Pixels | Bytes) -> Bytes:
    """Probabilities as uint8, 255 for 1: halves of a step go to the even side; uint8 is passed on as it is.

    >>> to_bytes(np.array([[[0, 0.25, 1]]], np.float32)).tolist()
    [[[0, 64, 255]]]
    """
    if probabilities.dtype == np.uint8:
        return np.asarray(probabilities, np.uint8)
    planes = np.asarray(probabilities, np.float32)
    out = np.empty(planes.shape, np.uint8)
    for plane, target in zip(planes, out, strict=True):
        cv2.convertScaleAbs(plane, dst=target, alpha=FULL)
    return out


def decode(probabilities: Pixels | Bytes, target: Target, thresholds: Thresholds) -> Labels:
    """Instances `((Z,) Y, X)` uint32, numbered 1..n in raster order of their first pixel, those of images as
    `decode_components` has them; of classes, the number of each pixel's most probable one.
    """
    if isinstance(target, ClassesTarget):
        return np.asarray(np.argmax(probabilities, axis=0), np.uint32)
    if probabilities.ndim == 4:
        planes = np.asarray(probabilities, np.float32)
        if probabilities.dtype == np.uint8:
            planes = planes / np.float32(FULL)
        levels = (thresholds.foreground, thresholds.seed, thresholds.border)
        return decode_volume(planes, *levels, thresholds.minimum_seed, thresholds.minimum_area, thresholds.peak)
    return decode_components(probabilities, target, thresholds).labels


def decode_components(probabilities: Pixels | Bytes, target: Target, thresholds: Thresholds) -> Components:
    """Probabilities `(K, Y, X)`, float32 in [0, 1] or uint8 in 0..255, to instances; see the head of this module."""
    planes = to_bytes(probabilities)
    mask = np.greater(planes[0], _level(thresholds.foreground), order="C")  # its holes are filled in place
    spans = find_spans(mask)
    inner, least_peak = _inner(planes), _level(thresholds.peak)
    if isinstance(target, MaskTarget):
        count, owner = connect(spans)
        return _number(inner, spans, count, owner, None, thresholds.minimum_area, least_peak)
    if _fill_holes(mask):
        spans = find_spans(mask)
    parts, part = connect(spans)
    depth, least = _depth(planes, thresholds)
    seeds, seed = _seeds((depth > least) & mask, thresholds.minimum_seed)
    seed_part = _part_of(seeds, seed, spans, part, mask.shape[1])
    merged = np.bincount(seed_part, minlength=parts) > 1
    if not merged.any():
        return _number(inner, spans, parts, part, None, thresholds.minimum_area, least_peak)
    inside, within = merged[part], merged[seed_part][seed]
    sown = seed[within]
    split = _flood(depth, spans.take(inside), part[inside], seeds.take(within), sown, seed_part[sown])
    whole = spans.take(~inside)
    both = Spans(*(np.concatenate([a, b]) for a, b in zip(_columns(whole), _columns(split), strict=True)))
    owner = np.concatenate([part[~inside], parts + split.value])
    components = np.concatenate([np.arange(parts), seed_part])
    return _number(inner, both, parts + seed_part.size, owner, components, thresholds.minimum_area, least_peak)


def _columns(spans: Spans) -> tuple[Array, ...]:
    return spans.row, spans.start, spans.stop, spans.value


def _level(threshold: float) -> int:
    """The byte that a probability above `threshold` exceeds."""
    return int(np.floor(threshold * FULL + 1e-9))


def _fill_holes(mask: NDArray[np.bool_]) -> bool:
    """Enclosed background of at most `HOLE` px becomes foreground, in place; whether there was any."""
    height, width = mask.shape
    gaps = find_spans(~mask)
    count, gap = connect(gaps)
    open_ended = (gaps.row == 0) | (gaps.row == height - 1) | (gaps.start == 0) | (gaps.stop == width)
    keep = np.bincount(gap, weights=gaps.length, minlength=count) > HOLE
    keep[gap[open_ended]] = True
    filled = gaps.take(~keep[gap])
    mask.ravel()[filled.pixels(width)] = True
    return filled.row.size > 0


def _inner(planes: Bytes) -> Bytes:
    """What is largest at an object's core: the distance, or the foreground where there is none."""
    inner: Bytes = planes[2] if len(planes) > 2 else planes[0]
    return inner


def _depth(planes: Bytes, thresholds: Thresholds) -> tuple[Array, int]:
    """How far inside an object each pixel is, in whole numbers, and what seeds must exceed."""
    weight = round(thresholds.border * _PARTS)
    kind = np.int16 if weight <= _PARTS else np.int32
    depth = np.multiply(_inner(planes), kind(_PARTS), dtype=kind) - np.multiply(planes[1], kind(weight), dtype=kind)
    return depth, int(np.floor(thresholds.seed * FULL * _PARTS + 1e-6))


def _seeds(mask: NDArray[np.bool_], minimum: int) -> tuple[Spans, Integers]:
    """The spans of the components of at least `minimum` px, and which each belongs to: 0, 1, ... in raster order."""
    spans = find_spans(mask)
    count, seed = connect(spans)
    kept = np.bincount(seed, weights=spans.length, minlength=count) >= minimum
    inside = kept[seed]
    return spans.take(inside), (np.cumsum(kept) - 1)[seed[inside]]


def _part_of(seeds: Spans, seed: Integers, spans: Spans, part: Integers, width: int) -> Integers:
    """The component that each seed lies in."""
    holder = np.searchsorted(spans.row * width + spans.start, seeds.row * width + seeds.start, side="right") - 1
    found = np.zeros(int(seed.max(initial=-1)) + 1, np.int64)
    found[seed] = part[holder]
    return found


def _flood(depth: Array, spans: Spans, part: Integers, seeds: Spans, seed: Integers, home: Integers) -> Spans:
    """Cut components into the basins of their seeds: the watershed, whose spans have the seed as their value.

    `part` is the component of each span, `seed` the seed of each of the seeds' spans, `home` the component of that.
    The components are laid out side by side on a canvas of their own. Floods of different ones never meet; within one,
    equal depths come in the order they are reached, and equally deep pixels of seeds in raster order.
    """
    shape, shift, bands = _layout(spans, part)
    source = spans.pixels(depth.shape[1])
    at = expand(spans.row * shape[1] + spans.start + shift[part], spans.length)
    sown = expand(seeds.row * shape[1] + seeds.start + shift[home], seeds.length)
    basin = np.zeros(shape, np.int32)
    basin.ravel()[sown] = np.repeat(seed + 1, seeds.length)
    steps = float(sown.size + 1)  # between two depths there is room for every seed pixel, and a last place for others
    height = np.zeros(shape)
    height.ravel()[at] = depth.ravel().take(source) * -steps + sown.size
    height.ravel()[sown] += np.arange(-sown.size, 0)
    inside = np.zeros(shape, np.uint8)
    inside.ravel()[at] = 1
    for top, bottom in pairwise(bands):
        _fill_basins(basin[top:bottom], height[top:bottom], inside[top:bottom])
    found = basin.ravel().take(at)
    new = np.zeros(at.size, bool)
    new[np.cumsum(spans.length) - spans.length] = True
    new[1:] |= found[1:] != found[:-1]
    begin = np.flatnonzero(new)
    row, start = np.divmod(source[begin], depth.shape[1])
    return Spans(row, start, start + np.diff(begin, append=at.size), found[begin].astype(np.int64) - 1)


def _fill_basins(basin: Array, height: Array, inside: Array) -> None:
    """Let the seeds in `basin` grow over all of `inside`, in place. Seeds' pixels that nothing free touches sit out."""
    from skimage.segmentation import watershed

    free = inside * (basin == 0)
    rim = np.minimum(cv2.dilate(free, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))), inside).astype(bool)
    np.copyto(basin, watershed(height, basin, mask=rim), where=rim)


def _layout(spans: Spans, part: Integers) -> tuple[tuple[int, int], Integers, list[int]]:
    """A canvas that holds the boxes of all parts a pixel apart, on shelves in order of their heights.

    Its shape; what to add to `y * width + x` of a part's pixels to find them there; and where it may be cut into bands
    of some `_BAND` pixels, for a short queue is a quick one.
    """
    ids, code = np.unique(part, return_inverse=True)
    box = _boxes(spans, code, ids.size)
    tall, wide = box[:, 2] - box[:, 0] + 1, box[:, 3] - box[:, 1] + 1
    width = max(int(wide.max()), int(np.sqrt(np.sum(tall * wide))))
    shift = np.zeros(int(ids[-1]) + 1, np.int64)
    y = x = deep = 0
    bands = [0]
    for number in np.argsort(-tall, kind="stable").tolist():
        if x + wide[number] > width:
            y, x, deep = y + deep, 0, 0
            bands += [y] * ((y - bands[-1]) * width >= _BAND)
        deep = deep or int(tall[number])
        shift[ids[number]] = (y - box[number, 0]) * width + x - box[number, 1]
        x += int(wide[number])
    return (y + deep, width), shift, [*bands, y + deep]


def _boxes(spans: Spans, code: Integers, count: int) -> Integers:
    """`(count, 4)` top, left, bottom, right of the spans of each code."""
    box = np.zeros((count, 4), np.int64)
    box[:, :2] = np.iinfo(np.int64).max
    for column, (function, values) in enumerate(
        [(np.minimum, spans.row), (np.minimum, spans.start), (np.maximum, spans.row + 1), (np.maximum, spans.stop)]
    ):
        function.at(box[:, column], code, values)
    return box


def _number(
    inner: Bytes, spans: Spans, count: int, owner: Integers, components: Integers | None, minimum: int, peak: int
) -> Components:
    """Number the owners that are large enough and hold a pixel of `inner` above `peak` (0: any) by their first pixels,
    and paint them."""
    shape = inner.shape
    position = spans.row * shape[1] + spans.start
    area = np.bincount(owner, weights=spans.length, minlength=count).astype(np.int64)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, owner, position)
    large = area >= max(minimum, 1)
    kept = np.flatnonzero(large & _exceeds(inner, spans, owner, count, peak) if peak else large)
    kept = kept[np.argsort(first[kept])]
    number = np.zeros(count, np.uint32)
    number[kept] = np.arange(1, kept.size + 1)
    inside = number[owner] > 0
    spans, value = spans.take(inside), number[owner[inside]]
    labels = np.zeros(shape, np.uint32)
    labels.ravel()[spans.pixels(shape[1])] = np.repeat(value, spans.length)
    box = _boxes(spans, value.astype(np.int64) - 1, kept.size)
    component = kept if components is None else components[kept]
    return Components(labels, component, box, area[kept], np.stack(np.divmod(first[kept], shape[1]), axis=1))


def _exceeds(inner: Bytes, spans: Spans, owner: Integers, count: int, least: int) -> NDArray[np.bool_]:
    """Which owners hold a pixel above `least`."""
    found = np.zeros(count, bool)
    if owner.size:
        above = inner.ravel().take(spans.pixels(inner.shape[1])) > least
        found[owner[np.logical_or.reduceat(above, np.cumsum(spans.length) - spans.length)]] = True
    return found
