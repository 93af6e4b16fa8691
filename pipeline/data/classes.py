"""Label images whose numbers are classes: read as they stand, never told apart into objects.

Grey values are class numbers; of a palette PNG its indices are, whatever the colours. What a target makes of them, or
of objects, is `class_map`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.config import ClassesTarget
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


def merged(labels: Labels, target: ClassesTarget) -> Labels:
    """The numbers of a label image as classes of `target.merge`, `target.ignore` as it is, all others 0.

    >>> road = ClassesTarget(names=("other", "road"), merge={"road": (3, 4)}, ignore=11)
    >>> merged(np.array([[0, 3, 4, 5, 11]], np.uint32), road).tolist()
    [[0, 1, 1, 0, 11]]
    """
    classes = np.where(labels == target.ignore, labels, 0).astype(np.uint32)
    for index, name in enumerate(target.names[1:], start=1):
        classes[np.isin(labels, target.merge[name])] = index
    return classes


def trimap(labels: Labels, width: int) -> Labels:
    """Objects `((Z,) Y, X)` as 0 background, 1 inside, 2 border: what lies within `width` px of anything else.

    All of the border is inside its object, so that `trimap(labels, width) > 0` is the mask, and touching objects are
    parted. The image's edge is no border.

    >>> trimap(np.array([[0, 5, 5, 5, 5, 5, 7, 7]], np.uint32), 1).tolist()
    [[0, 2, 1, 1, 1, 2, 2, 1]]
    """
    reach = np.indices((2 * width + 1,) * labels.ndim) - width
    near = (reach**2).sum(axis=0) <= width**2
    least = ndimage.minimum_filter(labels, footprint=near, mode="nearest")
    most = ndimage.maximum_filter(labels, footprint=near, mode="nearest")
    return np.where(labels == 0, 0, np.where(least == most, 1, 2)).astype(np.uint32)


def class_map(labels: Labels, kind: str, target: ClassesTarget, where: str) -> np.ndarray:
    """What `target` makes of a case's labels of `mask_kind` `kind`: class numbers `((Z,) Y, X)` uint8, ignored 255.

    Raises MaskError where the labels are of objects and the target of classes, or the other way round, and for a number
    that is no class.
    """
    came = "classes" if kind == "classes" else "objects"
    wanted = "classes" if target.masks == "classes" else "objects"
    if kind != "none" and came != wanted:
        hint = f"ingest the folder with --masks {target.masks}"
        raise MaskError(where, f"label images of {came}", f"{wanted}, as the target is", hint)
    if target.trimap is not None:
        return trimap(labels, target.trimap).astype(np.uint8)
    return class_indices(merged(labels, target) if target.merge else labels, target.names, target.ignore, where)
