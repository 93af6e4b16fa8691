"""What the network learns of a label image, and how its answer becomes a label image again.

Encode and decode stand in one file because they are each other's inverse: on separated objects
`decode(encode(labels)) == labels` up to numbering (the property test of that name).

Channels of the `separated` target, all in [0, 1]:

    0  foreground   1 inside any object
    1  border       1 where two different objects lie within 2 px (the touching border of the Data Science Bowl's
                    first place, selim_sef 2018)
    2  distance     distance to the object's own edge over the object's largest such distance (1 at the core)

`three_class` is body, border and background, one of which is 1; as probabilities it is foreground (body and border)
and border. `classes` is one channel a class, of which one is 1; none is where the pixel is to be ignored. It has no
instances: decoding gives the class of each pixel.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from skimage.measure import label as label_components
from skimage.segmentation import watershed
from torch import Tensor

from pipeline.config import ClassesTarget, MaskTarget, SeparatedTarget, Target, ThreeClassTarget
from pipeline.model.volume_objects import encode_separated, separate
from pipeline.types import Labels, Pixels

_REACH = 2  # px: how far a touching border reaches into both objects


@dataclass(frozen=True)
class Thresholds:
    """How probabilities are read: tuned on validation, stored with the model. Areas are in model pixels."""

    foreground: float = 0.5
    seed: float = 0.5
    border: float = 1.0  # weight of the border when it is taken off the distance (or, without one, the foreground)
    minimum_area: int = 10
    minimum_seed: int = 3


def scale_areas(thresholds: Thresholds, factor: float) -> Thresholds:
    """Thresholds whose areas are `factor` times as large, for decoding on another grid than the model's.

    >>> scale_areas(Thresholds(minimum_area=10), 4.0).minimum_area
    40
    """
    area, seed = round(thresholds.minimum_area * factor), round(thresholds.minimum_seed * factor)
    return replace(thresholds, minimum_area=max(1, area), minimum_seed=max(1, seed))


def channel_names(target: Target) -> tuple[str, ...]:
    """The names of the output channels, in order."""
    if isinstance(target, ClassesTarget):
        return target.names
    if isinstance(target, MaskTarget):
        return ("foreground",)
    return ("foreground", "border", "distance") if isinstance(target, SeparatedTarget) else ("foreground", "border")


def activate(logits: Tensor, target: Target) -> Tensor:
    """A network's logits `(N, K, Y, X)` to probabilities, as many as `channel_names` has."""
    if isinstance(target, ThreeClassTarget):
        body, border, _ = torch.softmax(logits, dim=1).unbind(dim=1)
        return torch.stack([body + border, border], dim=1)
    if isinstance(target, ClassesTarget):
        return torch.softmax(logits, dim=1)
    return torch.sigmoid(logits)


def _compact(labels: Labels) -> np.ndarray:
    """Labels as uint16 where their ids fit, else renumbered 1..n: small types are quick, and index small tables."""
    if int(labels.max(initial=0)) < 2**16:
        return labels.astype(np.uint16)
    values, inverse = np.unique(labels, return_inverse=True)
    return (inverse.reshape(labels.shape) + (0 if values[0] == 0 else 1)).astype(np.uint32)


def touching_border(labels: np.ndarray) -> Pixels:
    """`(Y, X)` float32, 1 where two different objects lie within 2 px of the pixel.

    >>> touching_border(np.array([[1, 1, 1, 0, 0, 0, 0, 2]], np.uint32)).astype(int).tolist()
    [[0, 0, 0, 0, 0, 0, 0, 0]]
    >>> touching_border(np.array([[1, 1, 1, 1, 2, 2, 2, 2]], np.uint32)).astype(int).tolist()
    [[0, 0, 1, 1, 1, 1, 0, 0]]
    """
    values = labels if labels.dtype == np.uint16 else labels.astype(np.float32)  # what OpenCV takes
    none = values.dtype.type(2**16 - 1 if values.dtype == np.uint16 else 2**24)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _REACH + 1, 2 * _REACH + 1))
    largest = cv2.dilate(values, kernel, borderType=cv2.BORDER_REPLICATE)
    smallest = cv2.erode(np.where(values > 0, values, none), kernel, borderType=cv2.BORDER_REPLICATE)
    border: Pixels = (largest > smallest).astype(np.float32)  # without any object, 0 is not more than `none`
    return border


def own_distance(labels: np.ndarray) -> Pixels:
    """`(Y, X)` float32: Euclidean distance to the nearest pixel of something else, 1 at each object's deepest pixel."""
    inside = labels > 0
    if not inside.any():
        return np.zeros(labels.shape, np.float32)
    edge = np.zeros(labels.shape, bool)  # the first row of pixels of an object that touches another
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    core = (inside & ~edge).astype(np.uint8)
    distance = cv2.distanceTransform(core, cv2.DIST_L2, 5) + inside
    deepest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(deepest, labels[inside], distance[inside])
    deepest[0] = 1
    scaled: Pixels = (distance / np.maximum(deepest, 1)[labels]).astype(np.float32)
    return scaled


def encode(labels: Labels, target: Target) -> Pixels:
    """`((Z,) Y, X)` labels to the target channels `(K, (Z,) Y, X)` float32 in [0, 1]."""
    if isinstance(target, ClassesTarget):
        return np.stack([(labels == index).astype(np.float32) for index in range(len(target.names))])
    foreground = (labels > 0).astype(np.float32)
    if isinstance(target, MaskTarget):
        return foreground[None]
    if labels.ndim == 3:
        return encode_separated(labels)
    compact = _compact(labels)
    border = touching_border(compact)
    if isinstance(target, ThreeClassTarget):
        return np.stack([foreground * (1 - border), border, (1 - foreground) * (1 - border)])
    return np.stack([foreground, border, own_distance(compact)])


def _split(part: Labels, depth: Pixels, seeds: Labels) -> Labels:
    return np.asarray(watershed(-depth, seeds, mask=part), np.uint32)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Background of at most 64 px that is enclosed and does not reach the image's edge becomes foreground."""
    count, holes, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top, w, h, area = (stats[:, k] for k in range(5))
    inner = (left > 0) & (top > 0) & (left + w < width) & (top + h < height) & (area <= 64)
    inner[0] = False
    return np.asarray(mask | inner[holes]) if count > 1 else mask


def _separate(probabilities: Pixels, mask: np.ndarray, thresholds: Thresholds) -> Labels:
    """Label the mask's components, then split only those that hold several seeds."""
    inner = probabilities[2] if len(probabilities) > 2 else probabilities[0]
    depth = inner - thresholds.border * probabilities[1]
    raw = ((depth > thresholds.seed) & mask).astype(np.uint8)
    _, seeds, seed_stats, _ = cv2.connectedComponentsWithStats(raw, connectivity=4)
    seeds[seed_stats[:, cv2.CC_STAT_AREA][seeds] < thresholds.minimum_seed] = 0
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    pairs = np.unique(np.stack([parts[seeds > 0], seeds[seeds > 0]]), axis=1)
    merged = np.flatnonzero(np.bincount(pairs[0], minlength=count) > 1)
    labels = parts.astype(np.uint32)
    following = count
    for part in merged:
        left, top, width, height = stats[part, :4]
        box = np.s_[top : top + height, left : left + width]
        here = parts[box] == part
        split = _split(here, depth[box], np.where(here, seeds[box], 0))
        values, inverse = np.unique(split[here], return_inverse=True)
        labels[box][here] = (following + inverse).astype(np.uint32)
        following += len(values)
    return labels


def decode(probabilities: Pixels, target: Target, thresholds: Thresholds) -> Labels:
    """Probabilities `(K, (Z,) Y, X)` to instances `((Z,) Y, X)` uint32, numbered 1..n in raster order of their first
    pixel; those of classes to the most probable class.
    """
    if isinstance(target, ClassesTarget):
        return np.asarray(np.argmax(probabilities, axis=0), np.uint32)
    mask = probabilities[0] > thresholds.foreground
    if isinstance(target, MaskTarget):
        labels = np.asarray(label_components(mask, connectivity=1), np.uint32)
    elif mask.ndim == 3:
        labels = separate(probabilities, mask, thresholds.seed, thresholds.border, thresholds.minimum_seed)
    else:
        labels = _separate(probabilities, _fill_holes(mask), thresholds)
    return _drop_small(labels, thresholds.minimum_area)


def _drop_small(labels: Labels, minimum: int) -> Labels:
    flat = labels.ravel()
    area = np.bincount(flat)
    kept = area >= max(minimum, 1)
    kept[:1] = False
    first = np.zeros(len(area), np.int64)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # of many assignments the last one stays: the first pixel
    table = np.zeros(len(area), np.uint32)
    table[np.flatnonzero(kept)[np.argsort(first[kept])]] = np.arange(1, np.count_nonzero(kept) + 1)
    return table[labels]
