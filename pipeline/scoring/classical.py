"""The peer without learning: Otsu's threshold, then a watershed on the distance transform.

What a careful practitioner would set up once for a mixed folder of nuclei images: the plane on which nuclei stand out
by kind of picture, the polarity by what lies along the border, a scale taken from the objects themselves.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.modality import classify_modality
from pipeline.errors import ImageError
from pipeline.types import Image, Labels, Modality, Pixels

SMOOTH = 0.5  # px, of the plane before the threshold
SEED_SMOOTH = 1.0  # px, of the distances before their peaks are taken
SEPARATION = 0.6  # least distance of two seeds, in radii of the typical object
SMALLEST = 0.1  # areas below this part of the typical object's are dropped ...
SMALLEST_AREA = 16  # ... and in any case those below so many px

DIM = 0.7  # gamma of fluorescence planes, so that one bright nucleus does not hide the dim ones

Mask = NDArray[np.bool_]


def otsu_watershed(image: Image) -> Labels:
    """Label the nuclei of an image `(C, Y, X)`; a flat image has none. Raises ImageError for volumes."""
    if image.pixels.ndim != 3:
        raise ImageError("image", f"{image.pixels.ndim - 1}-D", "2-D", "give a 2-D image")
    modality = classify_modality(image)
    plane = np.asarray(cv2.GaussianBlur(_plane(image, modality), (0, 0), SMOOTH), np.float32)
    return separate_by_distance(_foreground(plane, modality))


def _plane(image: Image, modality: Modality) -> Pixels:
    """The plane that tells nuclei from the rest, `(Y, X)` in [0, 1]."""
    pixels = np.nan_to_num(image.pixels.astype(np.float32))
    if modality == "stained":
        plane = pixels[0]  # red: what haematoxylin absorbs and eosin lets through
    elif len(pixels) == 3:
        plane = np.tensordot(np.array([0.2125, 0.7154, 0.0721], np.float32), pixels, 1)
    else:
        plane = pixels.mean(axis=0)
    low, high = np.percentile(plane, [0.1, 99.9])
    if high <= low:
        low, high = plane.min(), max(plane.max(), plane.min() + 1)
    plane = np.clip((plane - low) / (high - low), 0, 1)
    return np.asarray(plane**DIM if modality == "fluorescence" else plane, np.float32)


def _foreground(plane: Pixels, modality: Modality) -> Mask:
    """Otsu's two classes; where nuclei lie in grey cytoplasm on white, the darkest of his three."""
    from scipy import ndimage as ndi
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if plane.max() <= plane.min():
        return np.zeros(plane.shape, bool)
    threshold: float = threshold_otsu(plane)
    bright = plane > threshold
    rim = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    dark_objects = (rim.mean() + bright.mean()) / 2 > 0.5  # the background is most of the border and most of the image
    if dark_objects and modality == "grey_bright" and np.unique(plane).size > 3:
        bright = plane > threshold_multiotsu(plane, classes=3)[0]
    mask = ~bright if dark_objects else bright
    return np.asarray(ndi.binary_fill_holes(ndi.binary_opening(mask)), bool)


def separate_by_distance(mask: Mask) -> Labels:
    """Objects of a foreground mask `(Y, X)`: watershed on its distance transform; specks and debris are dropped."""
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    count, components, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count == 1:
        return np.zeros(mask.shape, np.uint32)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    typical = float(np.median(areas[areas >= SMALLEST_AREA])) if (areas >= SMALLEST_AREA).any() else 0.0
    kept = np.append(False, areas >= max(SMALLEST_AREA, SMALLEST * typical))
    mask = kept[components]
    inside = np.pad(mask, 1).astype(np.uint8)  # objects that the picture cuts are cut there
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    smooth = cv2.GaussianBlur(distance, (0, 0), SEED_SMOOTH) * mask
    radius = np.sqrt(typical / np.pi)
    apart = max(2, round(SEPARATION * radius))
    peaks = peak_local_max(smooth, min_distance=apart, labels=components * mask, exclude_border=False)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-smooth, seeds, mask=mask), np.uint32)
