"""The weight map of the 2015 U-Net (Ronneberger et al., equation 2): pixels between neighbours count more.

The equation's weight of each class, w_c, is 1 here: it is one number an image there, for foreground and for background.
"""

import cv2
import numpy as np

from pipeline.config import BorderWeighted
from pipeline.types import Labels, Pixels


def border_weights(labels: Labels, config: BorderWeighted) -> Pixels:
    """`(Y, X)` float32: 1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2) on background, 1 inside objects.

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
