"""Class maps for people: image, truth and prediction side by side, the classes in their colours."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image as Pillow

from pipeline.config import ClassesTarget, colours_of
from pipeline.results.pictures import SIDE, Colour, Picture, jpeg, side_by_side, thumbnail
from pipeline.types import Image, Labels

_OPAQUE = 0.55
_IGNORED: Colour = (128, 128, 128)


def fullest_plane(labels: Labels) -> int:
    """The slice `(Y, X)` of a stack with the most foreground; the middle one where there is none."""
    inside = ((labels > 0) & (labels != 255)).sum(axis=(1, 2))
    return int(inside.argmax()) if inside.any() else len(labels) // 2


def class_sample(
    image: Image, truth: Labels, predicted: Labels | None, target: ClassesTarget, side: int = 320
) -> Picture:
    """Image, truth and prediction (where there is one) side by side, no larger than `side` each.

    Small ones are enlarged by a whole number. A volume shows the slice with the most true foreground. A black
    background stays as the image is; ignored pixels are grey.
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
    painted = grid >= first_painted(colours)
    return np.where(painted[..., None], np.round(mixed), picture).astype(np.uint8)


def first_painted(colours: Sequence[Colour]) -> int:
    """The first class that is painted over the image: a background that is black is not.

    >>> first_painted([(0, 0, 0), (9, 0, 0)]), first_painted([(128, 128, 128), (9, 0, 0)])
    (1, 0)
    """
    return int(not any(colours[0]))


def class_preview(image: Image, labels: Labels, colours: Sequence[Colour], side: int = SIDE) -> bytes:
    """As `preview`, for class maps: JPEG of the plain picture + PNG of the classes in their colours, see-through."""
    picture = thumbnail(image, side)
    plane = labels[len(labels) // 2] if labels.ndim == 3 else labels
    finer = max(1, side // max(picture.shape[:2]))
    size = (picture.shape[1] * finer, picture.shape[0] * finer)
    grid = cv2.resize(plane.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    art = Pillow.fromarray(grid, "P")
    art.putpalette(bytes(np.asarray(colours, np.uint8).ravel()))
    opacity = [round(255 * _OPAQUE)] * len(colours)
    opacity[: first_painted(colours)] = [0] * first_painted(colours)
    file = io.BytesIO()
    art.save(file, "PNG", transparency=bytes(opacity))
    return jpeg(picture) + file.getvalue()
