"""Label images whose numbers are classes: read as they stand, never told apart into objects.

Grey values are class numbers; of a palette PNG its indices are, whatever the colours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.images import open_image
from pipeline.data.labels import read_labels
from pipeline.errors import ImageError, MaskError
from pipeline.types import Labels

IGNORED = 255  # in label maps in memory


def read_class_map(path: Path, shape: tuple[int, ...]) -> Labels:
    """The class numbers `((Z,) Y, X)` of a label image, as the file has them, uint32.

    Raises MaskError where it is no image of whole numbers or has another shape than its image, and ImageError where it
    cannot be read.
    """
    source = open_image(path, pages="stack")
    labels = _indices(path) if source.mode == "palette" else read_labels(path)[0]
    if labels.shape != shape:
        wanted = f"its image's {shape}"
        raise MaskError(str(path), f"shape {labels.shape}", wanted, "re-export the class map at the image's size")
    return labels


def _indices(path: Path) -> Labels:
    from PIL import Image as Pillow

    open_image(path).read()  # finds a file that ends early, which Pillow would fill
    try:
        with Pillow.open(path) as picture:
            return np.asarray(picture, np.uint32)
    except (OSError, ValueError) as error:
        raise ImageError(str(path), f"a damaged palette ({error})", "a whole image", "export it again") from error


def class_indices(labels: Labels, names: Sequence[str], ignore: int, where: str) -> np.ndarray:
    """Class numbers as uint8, `ignore` as 255; raises MaskError for a number that is no class.

    >>> class_indices(np.array([[0, 1, 9]], np.uint32), ("background", "cell"), 9, "a.png").tolist()
    [[0, 1, 255]]
    """
    strange = (labels >= len(names)) & (labels != ignore)
    if strange.any():
        found = np.unique(labels[strange])
        shown = ", ".join(str(number) for number in found[:5]) + " ..." * (found.size > 5)
        known = f"0 to {len(names) - 1} ({', '.join(names[:4])}{' ...' * (len(names) > 4)}) or {ignore} to ignore"
        raise MaskError(where, f"class numbers {shown}", known, "correct target.names or the label image")
    indices = labels.astype(np.uint8)
    indices[labels == ignore] = IGNORED
    return indices
