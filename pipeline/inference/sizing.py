"""How an image is shown to the network when nobody says how large its objects are: rescaled, dark and bright exchanged.

The network's own confidence decides: it is highest where objects have the size it knows and are as bright or dark as it
knows them (measured on validation images of the nuclei model: taking the most confident view, the image as it is
unless another is clearly better, costs nothing on images as they are, and finds those that were magnified, reduced
or inverted). Other views are looked at only where the image as it is leaves doubt, through a window in its middle.
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
LEAST = 0.7  # confidence below which another view is not believed: noise magnified until it looks like objects has 0.5
RANGE = 2.5  # times the model's own diameter, or one part of it, that the network is taken to know
INVERTED = 0.02  # by how much an inverted view must be surer
MAGNIFIED = 0.03  # by how much a magnified one; a reduced one shows more, so any more will do

Predict = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Glance:
    """What one view gives in the window: confidence, and the objects' median diameter in file pixels (0: none).

    `planes` are the probabilities of the whole image, `(K, y, x)` on the network's grid, where the window holds it all.
    `inverted` says that dark and bright were exchanged.
    """

    zoom: float
    confidence: float
    diameter: float
    planes: Pixels | None = None
    inverted: bool = False


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
    model: TrainedModel, pixels: Array, zoom: float, predict: Predict, preparation: Preparation, inverted: bool = False
) -> Glance:
    """Look at the middle of an image `(C, Y, X)` at one zoom, `preparation` being that of the whole."""
    record = model.record
    window, own = _middle(pixels, preparation.inverted() if inverted else preparation, zoom)
    planes = predict(own.apply(window))
    inner = planes[:, : own.shape[0], : own.shape[1]]
    labels = decode(inner, record.target, model.thresholds)
    sure = confidence(labels, inner, record.target).image
    whole = window.shape == pixels.shape
    return Glance(zoom, sure, median_diameter(labels) / zoom, planes if whole else None, inverted)


def choose_view(
    model: TrainedModel,
    pixels: Array,
    predict: Predict,
    like: Preparation | None = None,
    zoom: float | None = None,
) -> Glance:
    """How to show the network an image `(C, Y, X)`: as it is unless it leaves doubt and another view is clearly better.

    Of an image larger than memory, `pixels` is a part, and `like` the preparation of the whole. Where the `zoom` is
    told, it is taken.

    There is doubt where the network is unsure, or finds objects far from the size it learned (a model that records no
    size is asked for its confidence alone). First dark and bright are exchanged, if the network has learned from images
    that were (another takes the background for an object, and is sure of it); then, if that leaves doubt, the image is
    rescaled, but never so that objects have a size which the network does not know.
    """
    preparation = like or fit(pixels, model.record.prepare, stride=model.record.stride)
    found = glance(model, pixels, zoom or 1.0, predict, preparation)
    if not _known(model, found) and _knows_inverted(model):
        other = glance(model, pixels, found.zoom, predict, preparation, inverted=True)
        found = other if _surer(other, found, INVERTED) else found
    if zoom is not None or _known(model, found):
        return found
    return _rescaled(model, pixels, predict, preparation, found)


def _rescaled(model: TrainedModel, pixels: Array, predict: Predict, preparation: Preparation, found: Glance) -> Glance:
    """The surest of the zooms that are clearly better than what was `found`, else that."""
    zooms = [zoom for zoom in ZOOMS if min(pixels.shape[1:]) * zoom >= model.record.stride]
    others = [glance(model, pixels, zoom, predict, preparation, found.inverted) for zoom in zooms]
    others = [one for one in others if _of_known_size(model, one)]
    better = [one for one in others if _surer(one, found, MAGNIFIED if one.zoom > 1 else 0.0)]
    return max(better, key=lambda one: one.confidence, default=found)


def _knows_inverted(model: TrainedModel) -> bool:
    """Whether the training exchanged dark and bright of some images (of an ensemble, its first member's)."""
    made = model.record.provenance
    config = made.get("folds", [made])[0].get("config", {})
    return bool(config.get("augmentation", {}).get("invert"))


def _known(model: TrainedModel, found: Glance) -> bool:
    """Whether the network is sure, and of objects of about the size it learned."""
    return found.confidence >= SURE and _of_known_size(model, found)


def _of_known_size(model: TrainedModel, found: Glance) -> bool:
    """Whether objects are shown at about the size that was learned; where the model records none, at any."""
    usual, shown = model.record.diameter, found.diameter * found.zoom
    return usual is None or usual / RANGE <= shown <= usual * RANGE


def _surer(other: Glance, found: Glance, by: float) -> bool:
    """Whether the network is surer of another view than of what was found, by so much, and not of nothing at all."""
    return other.confidence > max(found.confidence + by, LEAST)
