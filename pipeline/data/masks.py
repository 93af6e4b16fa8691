"""One binary file an object -> one label image, with a row for everything that is odd about them.

A pixel that several masks claim goes to the smallest object; ids follow the sorted file names, 1-based, over the
objects that have at least one pixel. Everything is done inside each object's box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import open_image
from pipeline.data.quickpng import Boxed, read_boxed
from pipeline.data.rasters import decode_png
from pipeline.errors import ImageError, MasklineError
from pipeline.types import Array, Finding, Labels

_HINT = "copy or export the file again"
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Merged:
    """The label image, what was found, the number of objects, and how many masks used which values ("0/255")."""

    labels: Labels  # (Y, X)
    findings: tuple[Finding, ...]
    objects: int
    encodings: dict[str, int]


@dataclass
class Drawn:
    """One object while merging: `inside` is the crop at (`top`, `left`)."""

    name: str
    top: int
    left: int
    inside: NDArray[np.bool_]
    area: int


@dataclass
class Audit:
    """The findings of one case while they are collected."""

    case: str
    findings: list[Finding] = field(default_factory=list)
    encodings: dict[str, int] = field(default_factory=dict)

    def note(self, file: str, code: str, what: str, fix: str, severity: Severity = "warning") -> None:
        self.findings.append(Finding(self.case, file, code, what, fix, severity))


class Digest(Protocol):
    """What hashlib's digests do."""

    def update(self, data: bytes, /) -> None: ...


def merge_masks(files: Sequence[Path], shape: tuple[int, ...], case: str, digest: Digest | None = None) -> Merged:
    """Merge the binary masks of one image into a label image of `shape` (Y, X), uint32, 0 background.

    No mask vanishes without a finding: unreadable, wrong size, empty and wholly covered ones each give a row.
    `digest` is fed the bytes of every mask, in order.
    """
    audit = Audit(case)
    objects: list[Drawn] = []
    for path in sorted(files, key=lambda p: p.name):
        try:
            data = path.read_bytes()
            if digest is not None:
                digest.update(data)
            found = _read(path, data, shape, audit)
        except (MasklineError, OSError) as error:
            audit.note(path.name, "mask_unreadable", f"cannot be read: {getattr(error, 'came', error)}", _HINT)
            continue
        if found is not None:
            objects.append(found)
    labels, hidden = paint(objects, (shape[0], shape[1]), audit)
    labels, count = close_gaps(labels, len(objects), hidden)
    return Merged(labels, tuple(audit.findings), count, audit.encodings)


def _read(path: Path, data: bytes, shape: tuple[int, ...], audit: Audit) -> Drawn | None:
    """One mask as an object in its box, audited; None where there is nothing to keep."""
    boxed = read_boxed(data)
    if boxed is None:
        boxed = _read_whole(path, data, audit)
    if boxed.shape != tuple(shape):
        what = f"is {boxed.shape[0]} x {boxed.shape[1]}, its image {shape[0]} x {shape[1]}"
        audit.note(path.name, "mask_wrong_size", what, "re-export the mask at the image's size; it was left out")
        return None
    if boxed.crop.size == 0:
        audit.note(path.name, "mask_empty", "holds no object", "delete the file or draw the object; it was left out")
        return None
    inside = _binary(path.name, boxed.crop, audit)
    area = int(np.count_nonzero(inside))
    if not area:  # nothing but numbers below 0
        audit.note(path.name, "mask_empty", "holds no object", "delete the file or draw the object; it was left out")
        return None
    audit_shape(path.name, inside, audit)
    return Drawn(path.name, boxed.top, boxed.left, inside, area)


def _read_whole(path: Path, data: bytes, audit: Audit) -> Boxed:
    """Any other file: colour, alpha, 16 bit, interlaced, TIFF ..."""
    source = open_image(path)
    if len(source.shape) != 3:
        raise ImageError(str(path), f"a mask of shape {source.shape[1:]}", "one plane", _HINT)
    if data.startswith(b"\x89PNG"):
        try:
            pixels = decode_png(data)
        except (RuntimeError, ValueError) as error:
            raise ImageError(str(path), str(error), "a whole mask", _HINT) from error
    else:
        pixels = np.moveaxis(source.read().pixels if source.white is None else source.numbers(), 0, -1)
    flat = _flatten(path.name, pixels, audit)
    rows = np.flatnonzero(flat.any(axis=1))
    if not rows.size:
        return Boxed(flat.shape, 0, 0, flat[:0, :0])
    band = flat[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(band.any(axis=0))
    return Boxed(flat.shape, int(rows[0]), int(columns[0]), band[:, columns[0] : columns[-1] + 1])


def _flatten(name: str, pixels: Array, audit: Audit) -> Array:
    """(Y, X) from (Y, X(, S)): alpha is dropped, or is the mask where the colours say nothing."""
    if pixels.ndim == 2:
        return pixels
    samples = pixels.shape[2]
    if samples in (2, 4):
        alpha, colour = pixels[..., -1], pixels[..., :-1].max(axis=2)
        if colour.min() == colour.max() and alpha.min() != alpha.max():
            audit.note(
                name,
                "mask_in_alpha",
                "the object is in the alpha channel",
                "re-export it as plain grey; alpha was used",
            )
            return alpha
        audit.note(name, "mask_alpha", "has an alpha channel", "re-export it as plain grey; alpha was dropped")
        return np.asarray(colour)
    if samples == 3:
        audit.note(name, "mask_colour", "is stored in colour", "re-export it as plain grey")
    return np.asarray(pixels.max(axis=2))


def _binary(name: str, crop: Array, audit: Audit) -> NDArray[np.bool_]:
    """The object's pixels: non-zero, or at least half of the maximum where there is more than one value."""
    inside = crop > 0
    high = crop.max()
    several = np.count_nonzero(crop == high) != np.count_nonzero(inside)
    if several:
        values = len(np.unique(crop[inside]))
        what = f"has {values} values beside 0, so it is not binary"
        audit.note(name, "mask_not_binary", what, f"re-export it as 0 and 255; taken where at least half of {high}")
        inside = crop >= high / 2
    key = "not binary" if several else f"0/{high}"
    audit.encodings[key] = audit.encodings.get(key, 0) + 1
    return np.asarray(inside)


def audit_shape(name: str, inside: NDArray[np.bool_], audit: Audit) -> None:
    """Pieces (8-connected) and holes (4-connected background), in one walk along the contours."""
    # cv2 treats the image's rim as background, so no padding is needed
    contours, tree = cv2.findContours(inside.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(contours) == 1:
        return
    holes = sum(1 for row in tree[0] if row[3] >= 0)
    pieces = len(contours) - holes
    if pieces > 1:
        sizes = sorted((len(c) for c, row in zip(contours, tree[0], strict=True) if row[3] < 0), reverse=True)
        what = f"is in {pieces} pieces (outlines of {', '.join(map(str, sizes[:5]))} px)"
        audit.note(name, "mask_pieces", what, "join them, or give each object a mask of its own; kept as one object")
    if holes:
        audit.note(
            name, "mask_holes", f"has {holes} hole{'s' * (holes > 1)}", "fill them if they are not meant; kept as drawn"
        )


def paint(objects: Sequence[Drawn], shape: tuple[int, int], audit: Audit) -> tuple[Labels, list[int]]:
    """Paint the objects in order, 1-based, each pixel to the smallest; also answers which ones are wholly covered.

    Overlaps and covered objects become findings.
    """
    labels = np.zeros(shape, np.uint32)
    overlapping = False
    for number, item in enumerate(objects, start=1):
        height, width = item.inside.shape
        region = labels[item.top : item.top + height, item.left : item.left + width]
        held = region[item.inside]
        if not held.any():
            region[item.inside] = number
            continue
        overlapping = True
        mine = item.inside.copy()
        for other in np.unique(held[held > 0]).tolist():
            shared = item.inside & (region == other)
            _note_overlap(item, objects[other - 1], int(np.count_nonzero(shared)), audit)
            if item.area >= objects[other - 1].area:
                mine &= ~shared
        region[mine] = number
    return labels, _hidden(labels, objects, audit) if overlapping else []


def _note_overlap(item: Drawn, other: Drawn, count: int, audit: Audit) -> None:
    smaller = item if item.area < other.area else other
    fix = f"correct the outline; the pixels went to the smaller one, {smaller.name}"
    audit.note(item.name, "mask_overlap", f"{count} px are also in {other.name}", fix)


def _hidden(labels: Labels, objects: Sequence[Drawn], audit: Audit) -> list[int]:
    """The numbers of the objects that have no pixel left."""
    present = np.bincount(labels.ravel(), minlength=len(objects) + 1) > 0
    hidden = [n for n in range(1, len(objects) + 1) if not present[n]]
    for number in hidden:
        what = "is wholly covered by smaller or equal masks"
        audit.note(objects[number - 1].name, "mask_hidden", what, "delete one of them; it was left out")
    return hidden


def close_gaps(labels: Labels, count: int, hidden: Sequence[int]) -> tuple[Labels, int]:
    """Renumber 1..count without the hidden numbers, in order; also answers how many are left."""
    if not hidden:
        return labels, count
    kept = np.ones(count + 1, bool)
    kept[[0, *hidden]] = False
    return (np.cumsum(kept) * kept).astype(np.uint32)[labels], int(kept.sum())
