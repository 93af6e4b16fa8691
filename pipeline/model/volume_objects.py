"""Instances in volumes as targets, and back: what `pipeline.model.targets` does for images, in three dimensions.

Distances are in voxels of the model's grid. Objects touch where their voxels share a face, an edge or a corner.
"""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from pipeline.types import Labels, Pixels

_AROUND = np.ones((3, 3, 3), bool)


def touching_border(labels: Labels) -> Pixels:
    """`(Z, Y, X)` float32, 1 where two different objects lie within one voxel of the voxel.

    >>> touching_border(np.array([[[1, 1, 1, 2, 2, 0]]], np.uint32)).astype(int).tolist()
    [[[0, 0, 1, 1, 0, 0]]]
    """
    values = labels.astype(np.int64)
    largest = ndimage.maximum_filter(values, footprint=_AROUND, mode="nearest")
    none = values.max(initial=0) + 1  # the filter works in float64, which larger numbers do not survive
    smallest = ndimage.minimum_filter(np.where(values > 0, values, none), footprint=_AROUND, mode="nearest")
    border: Pixels = (largest > smallest).astype(np.float32)  # without any object, 0 is not more than `none`
    return border


def own_distance(labels: Labels) -> Pixels:
    """`(Z, Y, X)` float32: distance to the nearest voxel of something else, 1 at each object's deepest voxel."""
    scaled = np.zeros(labels.shape, np.float32)
    for label, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        inside = labels[around] == label
        distance = ndimage.distance_transform_edt(inside) if not inside.all() else np.ones(inside.shape)
        scaled[around][inside] = (distance / distance.max())[inside]
    return scaled


def encode_separated(labels: Labels) -> Pixels:
    """Foreground, touching border and own distance, `(3, Z, Y, X)` float32 in [0, 1]."""
    return np.stack([(labels > 0).astype(np.float32), touching_border(labels), own_distance(labels)])


def separate(probabilities: Pixels, mask: np.ndarray, seed: float, border: float, minimum_seed: int) -> Labels:
    """Components of `mask` (Z, Y, X) by faces, flooded from the seeds each holds; one without any stays whole."""
    depth = probabilities[-1] - border * probabilities[1]
    seeds, _ = ndimage.label((depth > seed) & mask)
    sizes = np.bincount(seeds.ravel())
    seeds[sizes[seeds] < minimum_seed] = 0
    parts, count = ndimage.label(mask)
    seeded = np.zeros(count + 1, bool)
    seeded[parts[seeds > 0]] = True
    whole = mask & ~seeded[parts]
    markers = np.where(whole, parts + len(sizes), seeds)
    return np.asarray(watershed(-depth, markers, mask=mask), np.uint32)


def decode_volume(
    probabilities: Pixels,
    foreground: float,
    seed: float,
    border: float,
    minimum_seed: int,
    minimum: int,
    peak: float = 0.0,
) -> Labels:
    """Probabilities `(K, Z, Y, X)` to instances, numbered in raster order of their first voxel, of `minimum` voxels.

    Those whose last channel nowhere exceeds `peak` are left out (0: none are). Without a channel for the border,
    instances are the components of the foreground by faces.

    >>> decode_volume(np.array([[[[0.9, 0.9, 0.1, 0.9]]]], np.float32), 0.5, 0.5, 1.0, 1, 2).tolist()
    [[[1, 1, 0, 0]]]
    """
    mask = probabilities[0] > foreground
    if len(probabilities) == 1:
        labels = np.asarray(ndimage.label(mask)[0], np.uint32)
    else:
        labels = separate(probabilities, mask, seed, border, minimum_seed)
    return _number(labels, minimum, probabilities[-1], peak)


def _number(labels: Labels, minimum: int, inner: Pixels, peak: float) -> Labels:
    """Objects of at least `minimum` voxels, one of which exceeds `peak` in `inner` (0: any does), numbered anew."""
    flat = labels.ravel()
    size = np.bincount(flat)
    kept = size >= max(minimum, 1)
    if peak:
        kept &= np.bincount(flat, weights=inner.ravel() > peak, minlength=size.size) > 0
    kept[:1] = False
    first = np.zeros(len(size), np.int64)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # of many assignments the last one stays: the first voxel
    table = np.zeros(len(size), np.uint32)
    table[np.flatnonzero(kept)[np.argsort(first[kept])]] = np.arange(1, np.count_nonzero(kept) + 1)
    return table[labels]
