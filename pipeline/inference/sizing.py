"""By how much an image is rescaled before the network sees it, when nobody says how large its objects are.

The network's own confidence decides: it is highest where objects have the size it knows (measured on validation
images of the nuclei model: taking the most confident zoom, native unless another is better by `MARGIN`, costs nothing
on images as they are, and finds the scale of those that were magnified or reduced). Other zooms are looked at only
where the image as it is leaves doubt, and only through a window in its middle.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation, fit
from pipeline.model.targets import decode
from pipeline.scoring.confidence import confidence
from pipeline.types import Array, Labels, Pixels

ZOOMS = (0.25, 0.5, 2.0, 4.0)
WINDOW = 512  # side of the window, in model pixels
SURE = 0.9  # confidence from which the image as it is need not be doubted
RANGE = 2.5  # times the model's own diameter, or one part of it, that the network is taken to know
MARGIN = 0.02  # by how much another zoom must be better

Predict = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Glance:
    """What one zoom gives in the window: confidence, and the objects' median diameter in file pixels (0: none).

    `planes` are the probabilities of the whole image, `(K, y, x)` on the network's grid, where the window holds it all.
    """

    zoom: float
    confidence: float
    diameter: float
    planes: Pixels | None = None


def median_diameter(labels: Labels) -> float:
    """Median diameter (px) over the area of all objects, of circles as large as they are; 0.0 without any.

    Weighted by area, so that debris does not count like cells.
    """
    return diameter_of_areas(np.bincount(labels.ravel())[1:])


def diameter_of_areas(areas: Array) -> float:
    """`median_diameter` of objects of these areas (px²)."""
    areas = np.sort(areas)
    total = np.cumsum(areas, dtype=np.float64)
    if not areas.size or not total[-1]:
        return 0.0
    return float(2 * np.sqrt(areas[np.searchsorted(total, total[-1] / 2)] / np.pi))


def _middle(pixels: Array, preparation: Preparation, zoom: float) -> tuple[Array, Preparation]:
    """The window in file pixels, with the whole image's statistics."""
    sides = [min(side, max(1, round(WINDOW / zoom))) for side in pixels.shape[1:]]
    top, left = ((whole - side) // 2 for whole, side in zip(pixels.shape[1:], sides, strict=True))
    height, width = sides
    shape = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    own = replace(preparation, shape=shape, original=(height, width))
    return pixels[:, top : top + height, left : left + width], own


def glance(
    model: TrainedModel, pixels: Array, zoom: float, predict: Predict, like: Preparation | None = None
) -> Glance:
    """Look at the middle of an image `(C, Y, X)` at one zoom; `like` has the statistics of what it is a part of."""
    record = model.record
    window, preparation = _middle(pixels, like or fit(pixels, record.prepare, stride=record.stride), zoom)
    planes = predict(preparation.apply(window))
    inner = planes[:, : preparation.shape[0], : preparation.shape[1]]
    labels = decode(inner, record.target, model.thresholds)
    sure = confidence(labels, inner, record.target).image
    whole = window.shape == pixels.shape
    return Glance(zoom, sure, median_diameter(labels) / zoom, planes if whole else None)


def choose_zoom(model: TrainedModel, pixels: Array, predict: Predict, like: Preparation | None = None) -> Glance:
    """The zoom to take for an image `(C, Y, X)`, 1.0 unless it leaves doubt and another is clearly better.

    Of an image larger than memory, `pixels` is a part, and `like` the preparation of the whole.

    There is doubt where the network is unsure, or finds objects far from the size it learned (a model that records no
    size is asked for its confidence alone).
    """
    native = glance(model, pixels, 1.0, predict, like)
    known = model.record.diameter
    usual = known is None or known / RANGE <= native.diameter <= known * RANGE
    if usual and native.confidence >= SURE:
        return native
    least = model.record.stride
    others = [glance(model, pixels, zoom, predict, like) for zoom in ZOOMS if min(pixels.shape[1:]) * zoom >= least]
    best = max(others, key=lambda one: one.confidence, default=native)
    return best if best.confidence > native.confidence + MARGIN else native
