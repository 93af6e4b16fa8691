"""What kind of picture an image is, told from its pixels alone: cheap, and stable under flips and crops."""

import numpy as np

from pipeline.types import Array, Image, Modality

MAX_SAMPLES = 1 << 14  # pixels looked at; larger images are sampled on a regular grid
COLOUR_FRACTION = 0.03  # mean of (brightest - darkest channel) over the white level, above which an image is coloured
DARK_FLOOR = 0.35  # the darkest tenth lies below this part of the white level: light on black
DARK_HEADROOM = 0.65  # the median lies this far below the white level, in parts of the range: few bright things on dark


def classify_modality(image: Image) -> Modality:
    """Fluorescence (bright on dark), stained (colour on bright), grey_bright (grey on bright), or unknown.

    Parameters
    ----------
    image : Image
        `(C, Y, X)` of any dtype; one or three channels are looked at for colour, other numbers are taken as
        fluorescence channels when they are dark. Volumes `(C, Z, Y, X)` and flat images are `unknown`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.types import Geometry, Image
    >>> black = np.zeros((1, 8, 8), np.uint8)
    >>> black[:, 2:4, 2:4] = 200
    >>> classify_modality(Image(black, Geometry.pixels()))
    'fluorescence'
    >>> classify_modality(Image(255 - black, Geometry.pixels()))
    'grey_bright'
    >>> purple = np.stack([255 - black[0], 255 - black[0], np.full((8, 8), 240, np.uint8)])
    >>> classify_modality(Image(purple, Geometry.pixels()))
    'stained'
    """
    if image.pixels.ndim != 3 or not image.pixels.size:
        return "unknown"
    sample = _sample(image.pixels)
    brightest = sample.max(axis=0)
    low, floor, median, white = np.percentile(brightest, [1, 10, 50, 99.8])
    if not np.isfinite(white) or white <= low:
        return "unknown"
    white = max(white, float(brightest.max()) * 1e-3)
    coloured = len(sample) == 3 and float((brightest - sample.min(axis=0)).mean()) > COLOUR_FRACTION * white
    on_black = floor < DARK_FLOOR * white
    if coloured:
        return "fluorescence" if on_black else "stained"
    if on_black or white - median > DARK_HEADROOM * (white - low):
        return "fluorescence"
    return "grey_bright" if len(sample) in (1, 3) else "unknown"


def _sample(pixels: Array) -> Array:
    """At most about `MAX_SAMPLES` pixels of `(C, Y, X)` as float32 `(C, y, x)`, from a regular grid."""
    step = max(1, int(np.ceil(np.sqrt(pixels.shape[1] * pixels.shape[2] / MAX_SAMPLES))))
    return pixels[:, ::step, ::step].astype(np.float32)
