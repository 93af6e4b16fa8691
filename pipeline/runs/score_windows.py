"""Label images too large to be held are scored window by window, with the numbers of the whole."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from pipeline.data.images import open_image
from pipeline.data.label_source import LabelSource, open_labels
from pipeline.data.modality import MAX_SAMPLES, classify_modality
from pipeline.errors import MaskError
from pipeline.scoring.metrics import Scores, match_windows
from pipeline.types import Case, Labels, Modality, Window

ALONE, WHOLE = 16.0, 400.0  # megapixels up to which label images are read whole: by themselves, beside their image
ROWS, COLUMNS = 512, 8192  # of a window
_SAMPLE = 2048  # px a side of the part of an image that its kind is told from, where there is no smaller level
_MASKS = ([1], [255])  # what a mask holds beside 0


def large_truth(case: Case, megapixels: float | None = None) -> LabelSource | None:
    """The opened true labels of a 2-D case that is scored by windows; None where it is read whole.

    That is one whose truth is one label image of more than `megapixels`: by default 16, or 400 (as much as may be read
    at once) where the image has to be read with it. Raises MaskError or ImageError where it cannot be opened.
    """
    alone = case.image in case.masks
    if case.mask_kind != "labels" or len(case.masks) != 1:
        return None
    labels = open_labels(case.masks[0])
    limit = (ALONE if alone else WHOLE) if megapixels is None else megapixels
    if len(labels.shape) != 2 or prod(labels.shape) <= limit * 1e6:
        return None
    image = labels.shape if alone else open_image(case.image, pages=case.pages).shape[1:]
    if image != labels.shape:
        wanted = f"its image's {image}"
        hint = "re-export the mask at the image's size"
        raise MaskError(f"case {case.id}, {labels.path.name}", f"shape {labels.shape}", wanted, hint)
    return labels


def score_windows(
    case: Case, truth: LabelSource, predicted: Path | None, rows: int = ROWS, columns: int = COLUMNS
) -> Scores:
    """Compare a case's true labels with predicted ones by windows; without a prediction nothing was found.

    Raises MaskError where their shapes differ, and where the truth of an image is a mask, whose objects only the whole
    of it could tell apart.
    """
    found = None if predicted is None else open_labels(predicted)
    if found is not None and found.shape != truth.shape:
        hint = "save the labels at the image's own size"
        raise MaskError(str(predicted), f"shape {found.shape}", f"its truth's {truth.shape}", hint)
    scores, ids = match_windows(_windows(truth, found, rows, columns))
    if case.image not in case.masks and ids.tolist() in _MASKS:
        came = f"{ids[0]} as the only number of an image too large to tell its pieces apart"
        raise MaskError(f"case {case.id}, {truth.path.name}", came, "one number an object", "number the objects")
    return scores


def _windows(truth: LabelSource, found: LabelSource | None, rows: int, columns: int) -> Iterator[tuple[Labels, Labels]]:
    """Every pixel of both once, in raster order of windows."""
    for labels in (truth, found):
        if labels is not None:
            labels.keep(rows)
    height, width = truth.shape
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            window = Window((top, left), (min(height, top + rows), min(width, left + columns)))
            mine = truth.read(window)
            yield mine, np.zeros_like(mine) if found is None else found.read(window)


def modality_of(case: Case) -> Modality:
    """What kind of picture a large image is, told from a smaller level of it or from its middle."""
    if case.modality != "unknown" or case.image in case.masks:
        return case.modality
    source = open_image(case.image, pages=case.pages)
    level = max((n for n, shape in enumerate(source.levels) if prod(shape) >= MAX_SAMPLES), default=0)
    shape = source.levels[level]
    start = tuple(max(0, (side - _SAMPLE) // 2) for side in shape)
    window = Window(start, tuple(min(side, a + _SAMPLE) for a, side in zip(start, shape, strict=True)))
    return classify_modality(source.read(window, level))
