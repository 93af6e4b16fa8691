"""What each pixel counts in the loss, by the objects that are there: between neighbours, or in small ones, more."""

import cv2
import numpy as np

from pipeline.config import BorderWeighted, LossConfig, SizeWeighted
from pipeline.model.targets import REACH
from pipeline.types import Labels, Pixels


def weighs_pixels(loss: LossConfig | None) -> bool:
    """Whether the loss is given what each pixel counts."""
    return isinstance(loss, BorderWeighted | SizeWeighted)


def pixel_weights(labels: Labels, loss: LossConfig | None) -> Pixels | None:
    """What each pixel of instances `(Y, X)` counts, float32; None where the loss has them all alike."""
    if isinstance(loss, BorderWeighted):
        return border_weights(labels, loss)
    return size_weights(labels, loss) if isinstance(loss, SizeWeighted) else None


def size_weights(labels: Labels, config: SizeWeighted) -> Pixels:
    """`(Y, X)` float32: sqrt(`area` / the object's area), between 1 and `most`, in it and within 2 px of it.

    On background that several are near the largest counts. Objects that the edge cuts may be of any size: they count 1.

    >>> row = np.pad(np.array([[1, 0, 0, 0, 2, 2, 2, 2]], np.uint32), 1)
    >>> size_weights(row, SizeWeighted(area=4, most=8))[1].tolist()
    [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    areas = np.bincount(labels.ravel())
    weights = np.clip(np.sqrt(config.area / np.maximum(areas, 1)), 1, config.most).astype(np.float32)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        weights[edge] = 1
    weights[0] = 1
    inside: Pixels = weights[labels]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * REACH + 1, 2 * REACH + 1))
    return np.where(labels > 0, inside, cv2.dilate(inside, kernel))


def border_weights(labels: Labels, config: BorderWeighted) -> Pixels:
    """The map of the 2015 U-Net (Ronneberger et al., equation 2): 1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2) on background, 1
    inside objects; `(Y, X)` float32.

    The equation's weight of each class, w_c, is 1 here: it is one number an image there, for foreground and background.

    d1 and d2 are the distances (px) to the nearest and the second nearest object; what is farther than 5 sigma adds
    less than w0 * 4e-6 and is left out. `labels` `(Y, X)` are instances, 0 is background.

    >>> row = np.array([[1, 0, 2, 0, 0, 0, 0, 0]], np.uint32)
    >>> border_weights(row, BorderWeighted(w0=10, sigma=1))[0, :4].astype(float).round(2).tolist()
    [1.0, 2.35, 1.0, 1.0]
    """
    reach = int(np.ceil(5 * config.sigma))
    nearest = np.full((2, *labels.shape), np.inf, np.float32)
    height, width = labels.shape
    for number, (top, left, bottom, right) in _boxes(labels):
        box = np.s_[max(0, top - reach) : min(height, bottom + reach), max(0, left - reach) : min(width, right + reach)]
        other = (labels[box] != number).astype(np.uint8)
        distance = cv2.distanceTransform(other, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        first, second = nearest[0][box], nearest[1][box]
        nearest[1][box] = np.minimum(second, np.maximum(first, distance))
        nearest[0][box] = np.minimum(first, distance)
    energy = np.exp(-(nearest.sum(axis=0) ** 2) / (2 * config.sigma**2))
    weights: Pixels = (1 + config.w0 * energy * (labels == 0)).astype(np.float32)
    return weights


def _boxes(labels: Labels) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Number and box (top, left, bottom, right) of each object."""
    from skimage.measure import regionprops

    return [(int(region.label), tuple(map(int, region.bbox))) for region in regionprops(labels.astype(np.int32))]  # type: ignore[misc]
