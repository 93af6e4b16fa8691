"""Class maps for people: image, truth and prediction side by side, the classes in their colours."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.config import ClassesTarget
from pipeline.results.pictures import Colour, Picture, side_by_side, thumbnail
from pipeline.types import Image, Labels

_OPAQUE = 0.55
_IGNORED: Colour = (128, 128, 128)


def colours_of(target: ClassesTarget) -> tuple[Colour, ...]:
    """The palette of the target, or else hues spread evenly, background black.

    >>> colours_of(ClassesTarget(names=("none", "a", "b")))
    ((0, 0, 0), (255, 76, 76), (76, 255, 255))
    """
    if target.palette:
        return target.palette
    many = len(target.names) - 1
    hues = [colorsys.hsv_to_rgb(index / many, 0.7, 1.0) for index in range(many)]
    return ((0, 0, 0), *((int(255 * r), int(255 * g), int(255 * b)) for r, g, b in hues))


def fullest_plane(labels: Labels) -> int:
    """The slice `(Y, X)` of a stack with the most foreground; the middle one where there is none."""
    inside = ((labels > 0) & (labels != 255)).sum(axis=(1, 2))
    return int(inside.argmax()) if inside.any() else len(labels) // 2


def class_sample(
    image: Image, truth: Labels, predicted: Labels | None, target: ClassesTarget, side: int = 320
) -> Picture:
    """Image, truth and prediction (where there is one) side by side, no larger than `side` each.

    Small ones are enlarged by a whole number. A volume shows the slice with the most true foreground. Background stays
    as the image is; ignored pixels are grey.
    """
    pixels = image.pixels
    if truth.ndim == 3:
        plane = fullest_plane(truth)
        pixels, truth, predicted = pixels[:, plane], truth[plane], None if predicted is None else predicted[plane]
    picture = thumbnail(Image(pixels, image.geometry), side)
    times = max(1, side // max(picture.shape[:2]))
    size = (picture.shape[1] * times, picture.shape[0] * times)
    picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    colours = colours_of(target)
    shown = [labels for labels in (truth, predicted) if labels is not None]
    return side_by_side([picture, *(_tinted(picture, labels, colours) for labels in shown)])


def _tinted(picture: Picture, labels: Labels, colours: Sequence[Colour]) -> Picture:
    table = np.full((256, 3), _IGNORED, np.float32)
    table[: len(colours)] = colours
    grid = cv2.resize(labels.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    mixed = (1 - _OPAQUE) * picture + _OPAQUE * table[grid]
    return np.where((grid > 0)[..., None], np.round(mixed), picture).astype(np.uint8)
