"""Class maps as indexed PNGs: every pixel is its class, the palette its colour, the names lie within."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.data.images import open_image
from pipeline.errors import OutputError
from pipeline.types import FORMAT_VERSION, Labels

KEY = "maskline"  # of the PNG's text


def read_palette(path: Path, classes: int) -> tuple[tuple[int, int, int], ...]:
    """The colours of the first `classes` numbers of a palette PNG; none of a file without a palette, or of fewer.

    Raises ImageError where there is no image.
    """
    from PIL import Image as Pillow

    if open_image(path).mode != "palette":
        return ()
    with Pillow.open(path) as picture:
        values = (picture.getpalette("RGB") or [])[: 3 * classes]
    colours = tuple((values[k], values[k + 1], values[k + 2]) for k in range(0, len(values), 3))
    return colours if len(colours) == classes else ()


def write_class_png(path: Path, labels: Labels, names: Sequence[str], colours: Sequence[tuple[int, int, int]]) -> str:
    """Write class numbers `(Y, X)` as a palette PNG, whole or not at all, and return the file's sha256 (hex).

    The PNG's text `maskline` is JSON that names the classes, class 0 first. Raises OutputError for what is no class map
    of these classes.
    """
    from PIL import Image as Pillow
    from PIL.PngImagePlugin import PngInfo

    largest = int(labels.max(initial=0))
    if labels.ndim != 2 or largest >= len(names) or len(names) != len(colours):
        came = f"classes up to {largest}, shape {labels.shape}, {len(colours)} colours"
        raise OutputError(str(path), came, f"(Y, X) of {len(names)} classes, a colour each", "pass one class map")
    picture = Pillow.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette(bytes(np.asarray(colours, np.uint8).ravel()))
    about = PngInfo()
    about.add_text(KEY, json.dumps({"format_version": FORMAT_VERSION, "kind": "classes", "names": list(names)}))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=about)
    return atomic_write(path, file.getvalue())
