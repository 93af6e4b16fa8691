"""DICOM: one file, or a folder of slices as the volume that they are, in the order of their places in space.

Slices are sorted along the normal of their plane; the spacing of slices is their real distance. A series with a gap,
two slices in one place, or slices that do not fit together is refused by name. Rescale slope and intercept are applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.blocks import Grid, Quad
from pipeline.data.choices import Choice, pick_series, refuse_choice
from pipeline.data.sources import BROKEN, FileSource, check_claim, check_size, kept_dtype, stated_geometry
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry

_HINT = "copy or export the file again"
_TOLERANCE = 0.01  # part of the spacing by which slices may be off their place
_ALIKE = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
_COLOURS = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_RCT": 3, "YBR_ICT": 3}
NAMED = 5


@dataclass(frozen=True)
class Slice:
    """One file and its header, without pixels."""

    path: Path
    header: Any

    @property
    def position(self) -> NDArray[np.float64] | None:
        """Where the first pixel lies, mm in the patient; None where the file does not say."""
        stated = self.header.get("ImagePositionPatient")
        return np.asarray(stated, np.float64) if stated is not None and len(stated) == 3 else None

    @property
    def turned(self) -> NDArray[np.float64]:
        """Directions of a row and of a column."""
        stated = self.header.get("ImageOrientationPatient")
        flat = stated if stated is not None and len(stated) == 6 else (1, 0, 0, 0, 1, 0)
        return np.asarray(flat, np.float64).reshape(2, 3)

    @property
    def rescale(self) -> tuple[float, float]:
        return float(self.header.get("RescaleSlope", 1) or 1), float(self.header.get("RescaleIntercept", 0) or 0)


def read_header(path: Path) -> Any:
    """A DICOM file's header, its pixels left alone; raises ImageError for what is none or damaged."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in header or "Columns" not in header:
            raise ImageError(str(path), "a DICOM file without an image", "an image", "leave it out of the folder")
    except (InvalidDicomError, *BROKEN) as error:
        raise ImageError(str(path), f"a damaged DICOM file ({error})", "a whole image", _HINT) from error
    return header


def open_series(path: Path, choice: Choice) -> FileSource:
    """A DICOM file `(C, Y, X)`, or the series in a folder `(C, Z, Y, X)`; one of several is `choice.series`' to say."""
    slices = _find(path, choice)
    refuse_choice(str(path), Choice(time=choice.time))
    for one in slices:
        _check_slice(one, slices[0])
    ordered, step = _order(path, slices)
    first = ordered[0].header
    shape: Quad = (_colours(ordered[0]), len(ordered), int(first.Rows), int(first.Columns))
    check_size(str(path), shape[1:] if len(ordered) > 1 else shape[2:], choice.max_megapixels)
    stored = _dtype(ordered)
    volume = len(ordered) > 1
    return FileSource(
        path=path,
        axes="CZYX" if volume else "CYX",
        grids=(Grid(shape, (shape[0], 1, shape[2], shape[3]), stored, lambda i: _pixels(ordered[i[1]], stored)),),
        geometries=(_geometry(str(path), ordered, step),),
        mode="grey" if shape[0] == 1 else "RGB",
        max_megapixels=choice.max_megapixels,
    )


def _find(path: Path, choice: Choice) -> list[Slice]:
    """The slices of the series that is meant."""
    if path.is_file():
        refuse_choice(str(path), choice)
        return [Slice(path, read_header(path))]
    files = sorted(p for p in path.iterdir() if p.is_file() and is_dicom(p))
    if not files:
        came = "a directory that is no OME-Zarr and holds no DICOM file"
        raise ImageError(str(path), came, "one image", "check the path")
    series: dict[str, list[Slice]] = {}
    for file in files:
        one = Slice(file, read_header(file))
        series.setdefault(str(one.header.get("SeriesInstanceUID", "")), []).append(one)
    groups = sorted(series.values(), key=lambda group: (str(group[0].header.get("SeriesNumber", "")), group[0].path))
    names = [_name(group[0].header) for group in groups]
    shapes = [(len(g), int(g[0].header.Rows), int(g[0].header.Columns)) for g in groups]
    return groups[pick_series(str(path), names, shapes, choice)]


def _name(header: Any) -> str:
    named = str(header.get("SeriesDescription", "") or header.get("SeriesNumber", ""))
    return named or str(header.get("SeriesInstanceUID", ""))


def is_dicom(path: Path) -> bool:
    """Whether a file of a series' folder is taken for a slice: by its name, or by the mark at byte 128."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def share_a_series(files: Sequence[Path]) -> bool:
    """Whether any two of these files are of one series; mostly the first two tell. Damaged files are of none."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    seen: set[str] = set()
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, *BROKEN):
            continue  # opening it says why
        series = str(header.get("SeriesInstanceUID", ""))
        if series in seen:
            return True
        seen.add(series)
    return False


def _check_slice(one: Slice, first: Slice) -> None:
    """Raise ImageError for what is no plain slice, or unlike the series' first."""
    header, where = one.header, str(one.path)
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        came = f"a DICOM file of {header.NumberOfFrames} frames"
        raise ImageError(where, came, "one slice a file", "convert it to NIfTI, or slides to OME-TIFF")
    if header.get("PhotometricInterpretation") not in _COLOURS:
        came = f"a DICOM file in {header.get('PhotometricInterpretation')}"
        raise ImageError(where, came, "grey or RGB", "convert it to grey")
    for name in _ALIKE:
        if header.get(name) != first.header.get(name):
            came = f"{name} {header.get(name)}, where {first.path.name} has {first.header.get(name)}"
            raise ImageError(where, came, "slices that are alike", "put each series into a folder of its own")
    spacing, other = header.get("PixelSpacing"), first.header.get("PixelSpacing")
    if not np.allclose(one.turned, first.turned, atol=1e-3) or (spacing is None) != (other is None):
        came = f"a plane that is not parallel to that of {first.path.name}"
        raise ImageError(where, came, "slices that are alike", "put each series into a folder of its own")
    if not np.isfinite(one.rescale).all():
        raise ImageError(where, f"rescale slope and intercept {one.rescale}", "finite numbers", "repair the header")
    claimed = (
        int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel", 1)) * int(header.BitsAllocated) // 8
    )
    plain = not header.file_meta.TransferSyntaxUID.is_compressed
    check_claim(where, claimed, one.path.stat().st_size, 1 if plain else 100_000)


def _order(path: Path, slices: list[Slice]) -> tuple[list[Slice], NDArray[np.float64] | None]:
    """The slices along their normal, and the step from one to the next in mm; raises ImageError for gaps."""
    if len(slices) == 1:
        return slices, None
    places = [one.position for one in slices]
    lost = [one.path.name for one, place in zip(slices, places, strict=True) if place is None]
    if lost:
        came = f"{len(lost)} slices that do not say where they lie ({', '.join(lost[:NAMED])})"
        raise ImageError(str(path), came, "ImagePositionPatient in each", "export the series again")
    normal = np.cross(*slices[0].turned)
    along = np.array([float(np.dot(normal, place)) for place in places if place is not None])
    order = np.argsort(along, kind="stable")
    ordered, along = [slices[i] for i in order], along[order]
    _check_gaps(path, ordered, np.diff(along))
    first, last = places[order[0]], places[order[-1]]
    assert first is not None and last is not None
    return ordered, (last - first) / (len(slices) - 1)


def _check_gaps(path: Path, ordered: Sequence[Slice], steps: NDArray[np.float64]) -> None:
    usual = float(np.median(steps))
    for number, step in enumerate(steps):
        names = f"{ordered[number].path.name} and {ordered[number + 1].path.name}"
        if not np.isfinite(step):
            raise ImageError(str(path), f"positions that are no numbers ({names})", "finite ones", "repair the header")
        if step <= 1e-4:
            came = f"two slices in one place ({names})"
            raise ImageError(str(path), came, "one slice a place", "put each time point or series into its own folder")
        if abs(step - usual) > max(_TOLERANCE * usual, 0.01):
            came = f"{step:.3f} mm between {names}"
            raise ImageError(
                str(path), came, f"{usual:.3f} mm, as between the others", "find the slices that are missing"
            )


def _colours(one: Slice) -> int:
    return _COLOURS[str(one.header.PhotometricInterpretation)]


def _dtype(slices: Sequence[Slice]) -> np.dtype[Any]:
    """float32 where any slice is rescaled, else what is stored."""
    if any(one.rescale != (1.0, 0.0) for one in slices):
        return np.dtype(np.float32)
    header = slices[0].header
    stored = np.dtype(f"{'i' if header.PixelRepresentation else 'u'}{int(header.BitsAllocated) // 8}")
    return kept_dtype(stored, str(slices[0].path))


def _pixels(one: Slice, dtype: np.dtype[Any]) -> Array:
    """The pixels `(C, 1, Y, X)` of a slice, white turned round, rescaled."""
    import pydicom

    try:
        data = pydicom.dcmread(one.path)
        pixels = np.asarray(data.pixel_array)
    except (*BROKEN, NotImplementedError) as error:
        raise ImageError(str(one.path), f"damaged pixels ({error})", "a whole slice", _HINT) from error
    if pixels.size != prod((int(one.header.Rows), int(one.header.Columns), _colours(one))):
        raise ImageError(str(one.path), f"pixels of shape {pixels.shape}", "those of its header", _HINT)
    if one.header.PhotometricInterpretation == "MONOCHROME1":
        bits = int(one.header.BitsStored)
        pixels = (-1 - pixels if pixels.dtype.kind == "i" else (2**bits - 1 - pixels)).astype(pixels.dtype)
    slope, intercept = one.rescale
    if dtype.kind == "f" and (slope, intercept) != (1.0, 0.0):
        pixels = pixels.astype(np.float64) * slope + intercept
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return planes.astype(dtype)[:, None]


def _geometry(where: str, ordered: Sequence[Slice], step: NDArray[np.float64] | None) -> Geometry:
    """Millimetres, and the affine of voxels (x, y, z) in NIfTI's axes: right, anterior, superior."""
    header = ordered[0].header
    stated = header.get("PixelSpacing")
    dimensions = 2 if step is None else 3
    if stated is None or len(stated) != 2:
        return Geometry.pixels(dimensions)
    rows, columns = (float(s) for s in stated)
    if step is None:
        return stated_geometry(where, (rows, columns), "mm")
    across, down = ordered[0].turned
    distance = abs(float(np.dot(np.cross(across, down), step)))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * columns, down * rows, step], axis=1)
    affine[:3, 3] = ordered[0].position
    return stated_geometry(where, (distance, rows, columns), "mm", np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
