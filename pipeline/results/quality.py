"""What looks wrong with a segmented image, told without any truth: numbers of each image, and flags drawn from them.

`appearance` gives an image's numbers while its pixels are at hand; they become columns of images.csv. `flag_images`
reads the whole table at the end, for what is unusual shows only beside the rest of the folder.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Array, Image, Labels

if TYPE_CHECKING:
    import pandas as pd

FLAGS: dict[str, tuple[str, str]] = {  # code -> title, what to look for
    "missing_tiles": (
        "Missing tiles",
        "parts of the picture are not in its file and were read as background: left out on purpose, or lost in a copy?",
    ),
    "no_objects": ("No objects", "nothing was found: is the image empty, out of focus, or of another kind?"),
    "low_confidence": (
        "Low confidence",
        "the model is unsure of these objects: check the outlines before using the numbers",
    ),
    "blurred": ("Blurred", "edges are soft: check the focus"),
    "low_contrast": ("Low contrast", "objects hardly stand out from the background: check exposure and staining"),
    "saturated": (
        "Saturated",
        "object pixels are at the top of the range: intensities are too low, neighbours may merge",
    ),
    "unusual_size": ("Unusual size", "objects are much larger or smaller than in the rest of the folder"),
    "dense": ("Dense", "far more objects in the area than in the rest of the folder: check that they are separated"),
    "sparse": ("Sparse", "far fewer objects in the area than in the rest of the folder"),
    "edge_touching": ("Cut by the edge", "most objects touch the image's edge: their sizes are too small"),
    "out_of_range": (
        "Out of range",
        "objects are far from the size the model was trained on: give --diameter, in pixels or as a length (8um)",
    ),
    "cut_objects": (
        "Cut objects",
        "objects are larger than what is seen whole at once, and were cut: give --diameter, or segment a smaller level",
    ),
    "seams": (
        "Seams",
        "too few objects cross the borders of tiles: was the picture itself put together, or are objects cut there?",
    ),
}

MIN_CONFIDENCE = 0.7  # for models that record none of their own
MAX_BLUR = 0.5  # edge width over the objects' radius
MIN_CONTRAST = 2.0  # objects above background, in standard deviations of the background
MAX_SATURATED = 0.05
MAX_EDGE = 0.6
MIN_OBJECTS = 4  # fewer say nothing about sizes and edges
MIN_IMAGES = 8  # fewer are no folder to compare with
UNUSUAL = 3.5  # robust standard deviations, as Iglewicz and Hoaglin (1993) advise
MIN_CROSSING = 0.7  # objects across borders of tiles, over those expected
MIN_AGREEMENT = 0.95  # AP at IoU .9 of what was stitched with the same window segmented at once
MODEL_RANGE = 2.5  # times the model's diameter, or one part of it


def _grey(pixels: Array) -> NDArray[np.float32]:
    """`(C, Y, X)` to the mean of its channels, float32, what is not finite as 0."""
    grey: NDArray[np.float32] = pixels.mean(axis=0, dtype=np.float32)
    return np.nan_to_num(grey, posinf=0.0, neginf=0.0)


def _percentiles(values: NDArray[np.float32], at: tuple[float, ...]) -> NDArray[np.float64]:
    """Of every n-th value, so that large images cost no more than small ones."""
    flat = values.ravel()
    return np.asarray(np.percentile(flat[:: max(1, flat.size // 262_144)], at))


def edge_width(grey: NDArray[np.float32]) -> float:
    """How soft the sharpest edges of a picture `(Y, X)` are, in px: the sigma of the blur that would give their slope.

    A step blurred by sigma has the slope height / (sigma sqrt(2 pi)). The picture is smoothed by sigma = 1 first, so
    that noise is no edge, and that is taken off again. NaN where there is no edge at all.
    """
    low, high = _percentiles(grey, (1.0, 99.8))
    if high <= low:
        return math.nan
    smooth = cv2.GaussianBlur(np.clip((grey - low) / (high - low), 0, 1).astype(np.float32), (0, 0), 1.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    slope = cv2.magnitude(across, down)
    steepest = float(_percentiles(np.asarray(slope, np.float32), (99.5,))[0])
    return math.sqrt(max(0.0, (1 / (steepest * math.sqrt(2 * math.pi))) ** 2 - 1.0)) if steepest > 0 else math.nan


def appearance(image: Image, labels: Labels) -> dict[str, float]:
    """The numbers of one image that flags are drawn from; columns of images.csv.

    `edge_width` px; `contrast` in standard deviations of the background (NaN without objects); `saturated` the part of
    the object pixels at the image's ceiling (0 for objects darker than their background); `touching` the part of the
    objects at the frame; `median_area` px. A stack is judged by its middle plane.
    """
    pixels, flat = image.pixels, labels
    if labels.ndim == 3:
        pixels, flat = pixels[:, pixels.shape[1] // 2], labels[labels.shape[0] // 2]
    grey, inside = _grey(pixels), flat > 0
    objects, background = grey[inside], grey[~inside]
    numbers = {"edge_width": edge_width(grey), "contrast": math.nan, "saturated": 0.0, "touching": 0.0}
    numbers["median_area"] = math.nan
    if not objects.size:
        return numbers
    if background.size > 1:
        spread = max(float(background.std()), 1e-6 * (abs(float(background.mean())) + 1e-9))
        numbers["contrast"] = abs(float(objects.mean() - background.mean())) / spread
    if pixels.max() > 0 and (not background.size or objects.mean() > background.mean()):
        numbers["saturated"] = float((pixels[:, inside] >= pixels.max()).all(axis=0).mean())
    areas = np.bincount(flat[inside])
    present = np.flatnonzero(areas)
    frame = np.unique(np.concatenate([flat[0], flat[-1], flat[:, 0], flat[:, -1]]))
    numbers["touching"] = float(np.count_nonzero(frame)) / present.size
    numbers["median_area"] = float(np.median(areas[present]))
    return numbers


@dataclass(frozen=True)
class Usual:
    """What is usual in a folder: the median and the robust spread of the logarithm of a number, per column."""

    middle: Mapping[str, float]
    spread: Mapping[str, float]

    def distance(self, name: str, value: float, factor: float) -> float:
        """Robust standard deviations from the folder's median; 0 within `factor` of it, or where nothing is known."""
        if name not in self.middle or not value > 0:
            return 0.0
        away = math.log(value) - self.middle[name]
        return 0.0 if abs(away) < math.log(factor) else away / self.spread[name]


UNKNOWN = Usual({}, {})


def usual(images: "pd.DataFrame") -> Usual:
    """What is usual among the images that are done; nothing is where there are fewer than 8 with a number above 0."""
    done = images[images["status"] == "done"] if "status" in images else images
    middle, spread = {}, {}
    for name in ("density", "median_area", "edge_width"):
        if name not in done:
            continue
        values = np.asarray(done[name], np.float64)
        if name == "median_area" and "objects" in done:
            values = values[np.asarray(done["objects"], np.float64) >= MIN_OBJECTS]
        logs = np.log(values[np.isfinite(values) & (values > 0)])
        if logs.size >= MIN_IMAGES:
            middle[name] = float(np.median(logs))
            spread[name] = max(1.4826 * float(np.median(np.abs(logs - middle[name]))), 0.05)
    return Usual(middle, spread)


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    try:
        return float(value) if value is not None else math.nan
    except (TypeError, ValueError):
        return math.nan


def _near(value: float, wanted: float, factor: float) -> bool:
    return not value > 0 or max(value / wanted, wanted / value) <= factor


def flags(
    row: Mapping[str, Any], folder: Usual = UNKNOWN, diameter: float | None = None, confidence: float | None = None
) -> list[str]:
    """The codes (keys of FLAGS) that one image earns, in the order of FLAGS.

    `row` has what `appearance` gives and `objects`, `density`, `confidence`; what is missing flags nothing.
    The model's record says the rest: the `diameter` of the objects it learned from, in its own px (`model_zoom` of them
    are one of the file's), and the `confidence` below which its predictions are doubtful.

    >>> flags({"objects": 0})
    ['no_objects']
    >>> flags({"objects": 9, "confidence": 0.5, "touching": 0.9})
    ['low_confidence', 'edge_touching']
    >>> flags({"objects": 9, "median_area": 5000}, diameter=20), flags(
    ...     {"objects": 9, "median_area": 5000, "model_zoom": 0.25}, diameter=20
    ... )
    (['out_of_range'], [])
    >>> flags({"objects": 0, "missing_tiles": 10, "tiles": 20})
    ['missing_tiles', 'no_objects']
    >>> flags({"objects": 9, "model_cut": 1, "model_seams": 0.2})
    ['cut_objects', 'seams']
    """
    objects = _number(row, "objects")
    missing = _number(row, "missing_tiles") > 0
    if objects == 0:
        return ["missing_tiles", "no_objects"] if missing else ["no_objects"]
    area, width = _number(row, "median_area"), _number(row, "edge_width")
    radius = math.sqrt(area / math.pi) if area > 0 else math.nan
    zoom = _number(row, "model_zoom")
    shown = 2 * radius * (1.0 if math.isnan(zoom) else zoom)
    many = objects >= MIN_OBJECTS
    crowd = folder.distance("density", _number(row, "density"), 2.0)
    size = folder.distance("median_area", area, 1.6)
    found = {
        "missing_tiles": missing,
        "low_confidence": _number(row, "confidence") < (confidence or MIN_CONFIDENCE),
        "blurred": width / radius > MAX_BLUR or folder.distance("edge_width", width, 1.8) > UNUSUAL,
        "low_contrast": _number(row, "contrast") < MIN_CONTRAST,
        "saturated": _number(row, "saturated") > MAX_SATURATED,
        "unusual_size": many and abs(size) > UNUSUAL,
        "dense": crowd > UNUSUAL,
        "sparse": crowd < -UNUSUAL,
        "edge_touching": many and _number(row, "touching") > MAX_EDGE,
        "cut_objects": _number(row, "model_cut") > 0,
        "seams": _number(row, "model_seams") < MIN_CROSSING or _number(row, "model_agreement") < MIN_AGREEMENT,
        "out_of_range": many and diameter is not None and not _near(shown, diameter, MODEL_RANGE),
    }
    return [code for code in FLAGS if found.get(code)]


def flag_images(images: "pd.DataFrame", diameter: float | None = None, confidence: float | None = None) -> list[str]:
    """The flags of every row of images.csv, joined by ";": "" for images that are well, and for those that failed."""
    folder = usual(images)
    rows: list[dict[str, Any]] = images.to_dict("records")  # type: ignore[assignment]
    done = [row.get("status", "done") == "done" for row in rows]
    found = (flags(row, folder, diameter, confidence) if well else [] for row, well in zip(rows, done, strict=True))
    return [";".join(codes) for codes in found]
