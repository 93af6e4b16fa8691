"""What the network learns of a label image, and how its answer becomes a label image again.

Two directions, each other's inverse: `encode` here, `decode` beside it in `pipeline/model/decode.py` (and by either
name). On separated objects `decode(encode(labels)) == labels` up to numbering (the property test of that name).

Channels of the `separated` target, all in [0, 1]:

    0  foreground   1 inside any object
    1  border       1 where two different objects lie within 2 px (the touching border of the Data Science Bowl's
                    first place, selim_sef 2018)
    2  distance     distance to the object's own edge over the object's largest such distance (1 at the core)

`three_class` is body, border and background, one of which is 1; as probabilities it is foreground (body and border)
and border. `classes` is learned as the number of each pixel's class, 255 where it is to be ignored, and answered as one
channel a class; it has no instances: decoding gives the class of each pixel.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.config import ClassesTarget, MaskTarget, SeparatedTarget, Target, ThreeClassTarget
from pipeline.data.spans import Spans, find_spans
from pipeline.model.decode import Thresholds, decode, scale_areas
from pipeline.model.volume_objects import encode_separated
from pipeline.types import Array, Labels, Pixels

__all__ = [
    "Thresholds",
    "activate",
    "channel_names",
    "decode",
    "encode",
    "own_distance",
    "scale_areas",
    "span_distance",
    "touching_border",
]
REACH = 2  # px: how far a touching border reaches into both objects


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
    if isinstance(target, ClassesTarget) and target.head == "sigmoid":
        second = torch.sigmoid(logits)
        return torch.cat([1 - second, second], dim=1)
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
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * REACH + 1, 2 * REACH + 1))
    largest = cv2.dilate(values, kernel, borderType=cv2.BORDER_REPLICATE)
    smallest = cv2.erode(np.where(values > 0, values, none), kernel, borderType=cv2.BORDER_REPLICATE)
    border: Pixels = (largest > smallest).astype(np.float32)  # without any object, 0 is not more than `none`
    return border


def own_distance(labels: np.ndarray) -> Pixels:
    """`(Y, X)` float32: Euclidean distance to the nearest pixel of something else, 1 at each object's deepest pixel."""
    spans = find_spans(labels)
    scaled = np.zeros(labels.shape, np.float32)
    scaled.ravel()[spans.pixels(labels.shape[1])] = span_distance(labels, spans)
    return scaled


def span_distance(labels: np.ndarray, spans: Spans) -> Pixels:
    """`own_distance` of the pixels of the image's `spans`, one after the other: `(n,)` float32."""
    if not spans.row.size:
        return np.zeros(0, np.float32)
    flat, width = labels.ravel(), labels.shape[1]
    core = np.not_equal(labels, 0, order="C")  # less the first row of pixels of an object that touches something else
    inner = core.ravel()
    for step, wraps in ((1, True), (width, False)):
        same = flat[step:] == flat[:-step]
        if wraps:
            same[width - 1 :: width] = True  # the end of one row and the begin of the next do not touch
        inner[step:] &= same
        inner[:-step] &= same
    distance = cv2.distanceTransform(core.view(np.uint8), cv2.DIST_L2, 5).ravel().take(spans.pixels(width)) + 1
    deepest = np.ones(int(spans.value.max()) + 1, np.float32)
    np.maximum.at(deepest, spans.value, np.maximum.reduceat(distance, np.cumsum(spans.length) - spans.length))
    scaled: Pixels = distance / np.repeat(deepest[spans.value], spans.length)
    return scaled


def encode(labels: Labels, target: Target) -> Array:
    """`((Z,) Y, X)` labels to the target channels `(K, (Z,) Y, X)` float32 in [0, 1]; classes are numbers as they are,
    `((Z,) Y, X)` uint8, or 1 in any object where that is all they are made of (`trimap: 0`).
    """
    if isinstance(target, ClassesTarget):
        return (labels > 0 if target.trimap == 0 else labels).astype(np.uint8)
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
