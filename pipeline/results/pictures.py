"""Pictures for people: any image as 8-bit RGB, its objects outlined. Nothing here is measured from.

A *preview* is what the report keeps of an image: a JPEG of the plain picture, followed in the same bytes by a PNG of
the outlines alone. Any viewer shows the JPEG; the report lays the outlines over it and can take them off again.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.types import Array, Image, Labels

Picture = NDArray[np.uint8]  # (Y, X, 3), RGB
Colour = tuple[int, int, int]

SIDE = 512
ON_DARK: Colour = (255, 122, 26)
ON_BRIGHT: Colour = (0, 150, 60)
_BACK = 24  # of sheets
_PNG = b"\x89PNG\r\n\x1a\n"
_RANGE = (0.5, 99.8)  # percentiles shown as black and white


def _flat(values: Array, spatial: int) -> Array:
    """The middle plane of a stack; 2-D stays as it is."""
    return values[..., values.shape[-3] // 2, :, :] if spatial == 3 else values


def _shrink(planes: Array, side: int) -> NDArray[np.float32]:
    """`(C, Y, X)` of any dtype to `(Y, X, C)` float32 with no side above `side`, averaging."""
    coarse = max(1, max(planes.shape[1:]) // (8 * side))  # of very large ones every n-th pixel is enough
    planes = planes[:, ::coarse, ::coarse]
    height, width = planes.shape[1:]
    ratio = min(1.0, side / max(height, width))
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    plain = [np.ascontiguousarray(p) if p.dtype in (np.uint8, np.uint16) else p.astype(np.float32) for p in planes]
    small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) if ratio < 1 else p for p in plain]
    stacked: NDArray[np.float32] = np.stack(small, axis=-1, dtype=np.float32)
    stacked[~np.isfinite(stacked)] = 0
    return stacked


def _stretch(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To [0, 1] between two percentiles; a flat picture becomes black."""
    low, high = (float(limit) for limit in np.percentile(values, _RANGE))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    return scaled


def thumbnail(image: Image, side: int = SIDE) -> Picture:
    """The image as RGB `(Y, X, 3)` uint8 with no side above `side`; a stack shows its middle plane.

    Grey is stretched between percentiles. 8-bit RGB keeps its colours (stretched together); other channels are
    stretched one by one, two of them shown in green and magenta, and of more than three the first three.
    """
    planes = _flat(image.pixels, len(image.spatial_shape))[:3]
    small = _shrink(planes, side)
    together = len(planes) == 3 and image.pixels.dtype == np.uint8
    bright = _stretch(small) if together else np.stack([_stretch(c) for c in np.moveaxis(small, -1, 0)], axis=-1)
    order = {1: [0, 0, 0], 2: [1, 0, 1], 3: [0, 1, 2]}[len(planes)]
    picture: Picture = np.round(bright[..., order] * 255).astype(np.uint8)
    return picture


def outlines(labels: Labels, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where objects' edges run, on a grid of `shape` (Y, X): object pixels with a neighbour of another label.

    Touching objects are parted by both their edges; the frame of the image is no edge.

    >>> outlines(np.array([[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]], np.uint32), (3, 4)).astype(int)
    array([[0, 1, 0, 0],
           [0, 1, 0, 0],
           [0, 1, 0, 0]])
    """
    flat = _flat(labels, labels.ndim)
    rows = np.arange(shape[0]) * flat.shape[0] // shape[0]
    columns = np.arange(shape[1]) * flat.shape[1] // shape[1]
    grid = flat if flat.shape == shape else flat[rows[:, None], columns[None, :]]
    edge = np.zeros(shape, bool)
    down, right = grid[1:] != grid[:-1], grid[:, 1:] != grid[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (grid > 0)


def contrasting(picture: Picture) -> Colour:
    """The outline colour that shows on this picture."""
    return ON_BRIGHT if float(np.median(picture)) > 110 else ON_DARK


def overlay(image: Image, labels: Labels, side: int = SIDE) -> Picture:
    """The image as `thumbnail` gives it, with every object outlined."""
    return _outlined(thumbnail(image, side), labels)


def _outlined(picture: Picture, labels: Labels) -> Picture:
    drawn = picture.copy()
    drawn[outlines(labels, picture.shape[:2])] = contrasting(picture)
    return drawn


def png(picture: Picture) -> bytes:
    """Encode as PNG."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


def jpeg(picture: Picture, quality: int = 82) -> bytes:
    """Encode as JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def _line_art(mask: NDArray[np.bool_], colour: Colour) -> bytes:
    """A PNG of one bit a pixel: `colour` where `mask`, else transparent."""
    from PIL import Image as Pillow

    art = Pillow.fromarray(mask.astype(np.uint8), mode=None).convert("P")
    art.putpalette([0, 0, 0, *colour])
    file = io.BytesIO()
    art.save(file, "PNG", bits=1, transparency=0)
    return file.getvalue()


def preview(image: Image, labels: Labels, side: int = SIDE) -> bytes:
    """What the report keeps of an image: JPEG of the plain picture + PNG of the outlines, both no larger than `side`.

    Lines are two pixels wide where the picture is large, since it is looked at small; small pictures get finer lines.
    """
    picture = thumbnail(image, side)
    height, width = picture.shape[:2]
    finer = max(1, side // max(height, width))
    shape = (height * finer, width * finer)
    lines = outlines(labels, shape)
    if max(shape) > side // 2:
        lines = cv2.dilate(lines.astype(np.uint8), np.ones((2, 2), np.uint8)).astype(bool)
    return jpeg(picture) + _line_art(lines, contrasting(picture))


def split_preview(data: bytes) -> tuple[bytes, bytes]:
    """The plain picture and the outlines ("" where there are none) of a preview or of any encoded picture.

    >>> split_preview(b"jpeg" + b"\\x89PNG\\r\\n\\x1a\\n...")
    (b'jpeg', b'\\x89PNG\\r\\n\\x1a\\n...')
    """
    cut = data.find(_PNG, 1)
    return (data, b"") if cut < 0 else (data[:cut], data[cut:])


def _decode(data: bytes, mode: int) -> Any:
    values = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    if values is None:
        raise ImageError("preview", f"{len(data)} bytes that are no picture", "a PNG or JPEG", "make the report again")
    return values


def is_picture(data: bytes) -> bool:
    """Whether a preview, or any encoded picture, can be shown: bytes cut short cannot."""
    try:
        show_preview(data)
    except ImageError:
        return False
    return True


def show_preview(data: bytes) -> Picture:
    """A preview decoded, outlines laid over it; raises ImageError for what is no picture."""
    plain, lines = split_preview(data)
    picture = cv2.cvtColor(_decode(plain, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if lines:
        art = _decode(lines, cv2.IMREAD_UNCHANGED)
        picture = cv2.resize(picture, (art.shape[1], art.shape[0]), interpolation=cv2.INTER_LINEAR)
        opaque = art[..., 3:] / np.float32(255)
        picture = np.round(picture * (1 - opaque) + art[..., 2::-1] * opaque)
    return np.asarray(picture, np.uint8)


def _caption(text: str, width: int) -> Picture:
    """A bar of 24 px with a line of text; the middle of a long one is left out, and what the font lacks becomes ?."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    most = max(8, width // 6)
    short = plain if len(plain) <= most else f"{plain[: most // 2 - 1]}..{plain[1 - most // 2 :]}"
    bar: Any = np.full((24, width, 3), _BACK, np.uint8)
    cv2.putText(bar, short, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (235, 235, 235), 1, cv2.LINE_AA)
    return np.asarray(bar, np.uint8)


def training_sample(image: Image, truth: Labels, predicted: Labels | None = None, side: int = 320) -> Picture:
    """Image, truth and prediction (where there is one) side by side, each under its name."""
    picture = thumbnail(image, side)
    columns = [titled(picture, "image"), titled(_outlined(picture, truth), f"truth: {_count(truth)}")]
    if predicted is not None:
        columns.append(titled(_outlined(picture, predicted), f"prediction: {_count(predicted)}"))
    return side_by_side(columns)


def titled(picture: Picture, title: str) -> Picture:
    """A picture below a line of text."""
    return np.vstack([_caption(title, picture.shape[1]), picture])


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one height in a row, with a gap between them."""
    gap = np.full((pictures[0].shape[0], 4, 3), _BACK, np.uint8)
    return np.hstack([pictures[0], *(part for picture in pictures[1:] for part in (gap, picture))])


def _count(labels: Labels) -> int:
    return len(np.unique(labels[labels > 0]))


def contact_sheet(pictures: Sequence[tuple[str, bytes]], tile: int = 188, columns: int = 4) -> Picture:
    """Previews (or encoded pictures) on one sheet, each above its title; there must be one at least."""
    cells = []
    for title, data in pictures:
        picture = show_preview(data)
        ratio = tile / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
        cell = np.full((tile + 32, tile + 8, 3), _BACK, np.uint8)
        y, x = 4 + (tile - size[1]) // 2, 4 + (tile - size[0]) // 2
        cell[y : y + size[1], x : x + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        cell[tile + 6 : tile + 30, 4 : 4 + tile] = _caption(title, tile)
        cells.append(cell)
    wide = min(columns, len(cells))
    cells += [np.full_like(cells[0], _BACK)] * (math.ceil(len(cells) / wide) * wide - len(cells))
    return np.vstack([np.hstack(cells[start : start + wide]) for start in range(0, len(cells), wide)])
