"""Label images on disk: TIFF, NIfTI, OME-Zarr with one number an object; read from GeoJSON, too, that holds outlines.

The bytes depend on the labels and the geometry alone: no dates, no software, no temporary names inside.
"""

import io
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.data.images import split_suffix
from pipeline.data.label_source import open_labels
from pipeline.data.masks import Audit, Drawn, Merged, close_gaps, paint
from pipeline.data.multiscales import Multiscale, plan_multiscale
from pipeline.data.nifti_labels import write_nifti
from pipeline.data.outlines import Box, fill
from pipeline.errors import ImageError, MaskError, OutputError
from pipeline.types import FORMAT_VERSION, Array, Geometry, Labels

LARGEST_UINT16 = 65_535
_CENTIMETRE = {"um": 1e4, "mm": 10.0}


def write_labels(
    path: Path, labels: Labels, geometry: Geometry, like: Path | None = None, multiscale: Multiscale | None = None
) -> str:
    """Write `((Z,) Y, X)` labels, whole or not at all, and return the file's sha256 (hex).

    `.tif`: deflate, uint16, or uint32 above 65,535 objects, the geometry in its description and resolution.
    `.nii`, `.nii.gz`: the same dtypes; header, affine and shape of the NIfTI file `like` stay untouched, or the
    geometry's affine is written.
    `.zarr`: the same dtypes; axes, transformations, levels and version of the OME-Zarr image whose `multiscale` it is,
    else NGFF 0.5 with levels of halves; the digest is the folder's.
    Raises OutputError for other suffixes and for labels that do not fit `like` or `multiscale`.
    """
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "ui":
        raise OutputError(
            str(path), f"labels {labels.shape} {labels.dtype}", "integers ((Z,) Y, X)", "pass one label image"
        )
    largest = int(labels.max(initial=0))
    if largest > np.iinfo(np.uint32).max or int(labels.min(initial=0)) < 0:
        raise OutputError(str(path), f"labels up to {largest}", "0 to 4,294,967,295", "renumber the objects")
    dtype = np.uint16 if largest <= LARGEST_UINT16 else np.uint32
    suffix = split_suffix(path.name)[1].lower()
    if suffix in (".nii", ".nii.gz"):
        return write_nifti(path, labels, dtype, geometry, like)
    small = labels.astype(dtype)
    if suffix in (".tif", ".tiff"):
        return atomic_write(path, _tiff(small, geometry))
    if suffix in (".zarr", ".ome.zarr"):
        from pipeline.data.zarr_labels import write_zarr_labels

        return write_zarr_labels(path, small, multiscale or plan_multiscale(small.shape, geometry))
    raise OutputError(str(path), f"the suffix {suffix!r}", ".tif, .nii, .nii.gz or .zarr", "choose one of them")


def _tiff(labels: Array, geometry: Geometry) -> bytes:
    import tifffile

    about = {
        "format_version": FORMAT_VERSION,
        "kind": "labels",
        "spacing": list(geometry.spacing),
        "unit": geometry.unit,
    }
    options: dict[str, Any] = {}
    if geometry.unit in _CENTIMETRE:
        y, x = (_CENTIMETRE[geometry.unit] / s for s in geometry.spacing[-2:])
        options = {"resolution": (x, y), "resolutionunit": "CENTIMETER"}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        labels,
        bigtiff=labels.nbytes > 2**31,
        photometric="minisblack",
        compression="zlib",
        metadata=None,
        software=False,
        description=json.dumps({"maskline": about}),
        **options,
    )
    return buffer.getvalue()


def read_labels(path: Path) -> tuple[Labels, Geometry]:
    """Read a label image of any format as `((Z,) Y, X)` uint32, with its geometry; TIFF pages are slices.

    Raises MaskError for colour, for numbers that are not whole or negative, ImageError for what cannot be read.
    """
    opened = open_labels(path)
    return opened.read(), opened.geometry


def read_geojson(path: Path, shape: tuple[int, ...]) -> Labels:
    """The objects of a GeoJSON file as labels (Y, X) of `shape`; see `merge_geojson`."""
    return merge_geojson(path, shape, path.stem).labels


def merge_geojson(path: Path, shape: tuple[int, ...], case: str) -> Merged:
    """Draw a GeoJSON file's outlines (QuPath's or maskline's; a FeatureCollection, a list or one feature).

    A pixel belongs to the polygon that holds its centre, to the smallest where several do. Objects named by a number of
    their own keep it; the others are numbered on. What cannot be drawn gives a finding; other files raise MaskError.
    """
    if len(shape) != 2:
        raise MaskError(
            str(path), f"outlines for an image of shape {shape}", "a 2-D image", "save volumes as label images"
        )
    audit = Audit(case)
    features = _features(path)
    found = [
        (number, item)
        for number, feature, name in zip(_ids(features), features, _names(path, features), strict=True)
        if (item := _draw(feature, name, (shape[0], shape[1]), audit)) is not None
    ]
    found.sort(key=lambda pair: pair[0])
    drawn = [item for _, item in found]
    labels, hidden = paint(drawn, (shape[0], shape[1]), audit)
    if not hidden:
        numbers = np.array([0, *(number for number, _ in found)], np.uint32)
        return Merged(numbers[labels], tuple(audit.findings), len(drawn), {})
    labels, count = close_gaps(labels, len(drawn), hidden)
    return Merged(labels, tuple(audit.findings), count, {})


def _names(path: Path, features: Sequence[dict[str, Any]]) -> list[str]:
    """What findings call the features: the file and which one it is."""
    return [f"{path.name}#{number}" for number in range(1, len(features) + 1)]


def _features(path: Path) -> list[Any]:
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ImageError(str(path), str(error), "a file that can be read", "check the path and its rights") from error
    except ValueError as error:
        raise MaskError(
            str(path), f"no JSON ({error})", "a GeoJSON FeatureCollection", "export the objects again"
        ) from error
    found = tree.get("features", [tree]) if isinstance(tree, dict) else tree
    if not isinstance(found, list) or any(not isinstance(f, dict) or "geometry" not in f for f in found):
        raise MaskError(
            str(path), "JSON without features", "a GeoJSON FeatureCollection", "export the objects as GeoJSON"
        )
    version = tree.get("format_version", FORMAT_VERSION) if isinstance(tree, dict) else FORMAT_VERSION
    if version != FORMAT_VERSION:
        raise MaskError(
            str(path), f"format_version {version}", str(FORMAT_VERSION), "update maskline, or export it again"
        )
    return found


def _draw(feature: dict[str, Any], name: str, shape: tuple[int, int], audit: Audit) -> Drawn | None:
    """One feature in its box; None, with a finding, where nothing can be drawn."""
    geometry = feature["geometry"] or {}
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        audit.note(name, "outline_no_area", f"is a {kind}", "outline the object as a polygon; it was left out")
        return None
    try:
        polygons: Any = [coordinates] if kind == "Polygon" else coordinates
        boxes = [fill([np.asarray(r, float)[:, :2] for r in rings], shape) for rings in polygons if rings]
    except (ValueError, TypeError, IndexError):
        audit.note(
            name, "outline_broken", "has coordinates that are no rings of points", "draw it again; it was left out"
        )
        return None
    item = _join(name, [box for box in boxes if box[2].any()])
    if item is None:
        what = "holds no pixel centre of the image"
        audit.note(name, "mask_empty", what, "delete it, or check that it was drawn on this image; it was left out")
    return item


def _join(name: str, boxes: list[Box]) -> Drawn | None:
    if not boxes:
        return None
    top, left = min(b[0] for b in boxes), min(b[1] for b in boxes)
    bottom, right = (max(b[axis] + b[2].shape[axis] for b in boxes) for axis in (0, 1))
    inside = np.zeros((bottom - top, right - left), bool)
    for y, x, crop in boxes:
        inside[y - top : y - top + crop.shape[0], x - left : x - left + crop.shape[1]] |= crop
    return Drawn(name, top, left, inside, int(np.count_nonzero(inside)))


def _ids(features: Sequence[dict[str, Any]]) -> list[int]:
    """The number of each object: its name, if that is a number of its own, else the next free one.

    >>> _ids([{"properties": {"name": name}} for name in ("7", "", "3", "3", "nucleus")])
    [7, 8, 9, 10, 11]
    """
    names = [str((feature.get("properties") or {}).get("name", "")) for feature in features]
    own = [int(n) if n.isascii() and n.isdigit() and len(n) < 10 else 0 for n in names]
    count = Counter(own)
    free = itertools.count(max(own, default=0) + 1)
    return [number if number and count[number] == 1 else next(free) for number in own]
