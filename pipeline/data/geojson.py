"""Objects to GeoJSON that QuPath opens, feature by feature: what is held at a time is a few hundred outlines.

One feature an object, named by its label: closed rings along the pixel edges in pixels (x, y), the outer one first,
then the holes; an object in several 4-connected pieces is a MultiPolygon. A score is a QuPath measurement.

QuPath knows annotations, which people draw and correct, and detections, which are locked and made for large numbers.
Up to `EDITABLE` objects of an image in memory we write annotations, to be corrected and ingested again, beyond that
detections, for QuPath takes minutes over as many annotations. Of a streamed image all are detections: the first is
written before anybody knows how many will come.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.files import atomic_write
from pipeline.data.outlines import Polygon, trace_all
from pipeline.data.spans import Integers, find_spans
from pipeline.errors import OutputError
from pipeline.types import FORMAT_VERSION, Labels

EDITABLE = 5000  # objects that are written as annotations
_BATCH = 2**20  # pixels of crops that are traced at once
_ROWS = 1024  # of a label image that are looked at at once
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

Kind = Literal["annotation", "detection"]


class Piece(NamedTuple):
    """An object as it is written: its pixels in a crop `(Y, X)` whose first is `(top, left)` of the image."""

    label: int
    top: int
    left: int
    inside: NDArray[np.bool_]
    score: float | None = None


def write_geojson(path: Path, labels: Labels, scores: Mapping[int, float] | None = None) -> str:
    """Write `(Y, X)` labels as a GeoJSON FeatureCollection, in order of their labels; return its sha256 (hex).

    `scores` (label -> number) become measurements. Raises OutputError for labels of other dimensions.
    """
    if labels.ndim != 2:
        raise OutputError(str(path), f"labels of {labels.ndim} dimensions", "(Y, X)", "GeoJSON holds 2-D outlines only")
    ids, boxes = _boxes(labels)
    pieces = (
        Piece(label, top, left, labels[top:bottom, left:right] == label, None if scores is None else scores.get(label))
        for label, (top, left, bottom, right) in zip(ids.tolist(), boxes.tolist(), strict=True)
    )
    return write_outlines(path, pieces, "annotation" if ids.size <= EDITABLE else "detection")


def write_outlines(path: Path, pieces: Iterable[Piece], kind: Kind = "detection") -> str:
    """Write objects as they are finished, in the order they come, as QuPath's `kind`; return the file's sha256 (hex).

    The file is there whole or not at all. Raises OutputError where it cannot be written.
    """

    def write(file: BinaryIO) -> None:
        file.write(f'{{"type":"FeatureCollection","format_version":{FORMAT_VERSION},"features":['.encode())
        before = "\n"
        for batch in _batches(pieces):
            polygons = trace_all([piece.inside for piece in batch])
            features = (_feature(piece, found, kind) for piece, found in zip(batch, polygons, strict=True))
            file.write((before + ",\n".join(map(_encode, features))).encode())
            before = ",\n"
        file.write(b"\n]}\n")

    return atomic_write(path, write)


def _boxes(labels: Labels) -> tuple[Integers, Integers]:
    """The labels in order, and `(n, 4)` top, left, bottom, right of each; no more than `_ROWS` rows at a time."""
    found = []
    for top in range(0, labels.shape[0], _ROWS):
        spans = find_spans(labels[top : top + _ROWS])
        columns = (spans.value, spans.row + top, spans.start, spans.row + top + 1, spans.stop)
        found.append(_enclose(np.stack([column.astype(np.int64) for column in columns], axis=1)))
    table = _enclose(np.concatenate(found))
    return table[:, 0], table[:, 1:]


def _enclose(table: Integers) -> Integers:
    """Rows label, top, left, bottom, right: one a label, the box around its boxes."""
    if not len(table):
        return table
    table = table[np.argsort(table[:, 0], kind="stable")]
    starts = np.flatnonzero(np.diff(table[:, 0], prepend=0))
    low, high = np.minimum.reduceat(table[:, :3], starts), np.maximum.reduceat(table[:, 3:], starts)
    return np.hstack([low, high])


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """A few hundred at a time; a large one is a batch of its own."""
    batch: list[Piece] = []
    height = width = 0
    for piece in pieces:
        deep, wide = piece.inside.shape
        if batch and (height + deep + 2) * max(width, wide + 2) > _BATCH:
            yield batch
            batch, height, width = [], 0, 0
        batch.append(piece)
        height, width = height + deep + 2, max(width, wide + 2)
    if batch:
        yield batch


def _feature(piece: Piece, polygons: list[Polygon], kind: Kind) -> dict[str, Any]:
    corner = np.array([piece.left, piece.top])
    placed = [[(ring + corner).tolist() for ring in polygon] for polygon in polygons]
    properties: dict[str, Any] = {"objectType": kind, "name": str(piece.label)}
    if piece.score is not None:
        properties["measurements"] = {"score": float(piece.score)}
    geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": placed}
    if len(placed) == 1:
        geometry = {"type": "Polygon", "coordinates": placed[0]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}
