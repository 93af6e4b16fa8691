"""NIfTI-1 and -2, plain or gzipped: pixels in (Z, Y, X), which is the file's own (x, y, z) transposed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.blocks import Grid, Quad, whole
from pipeline.data.choices import Choice, choose_roles, refuse_choice
from pipeline.data.sources import BROKEN, DEFLATE, FileSource, check_claim, check_size, stated_geometry
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry, Unit

_HINT = "copy or export the file again"
_PARALLEL = 1e-6  # smallest singular value of an affine's directions; float32 keeps seven digits
_STRIP = 4 << 20  # bytes of rows that a plain 2-D file is read in
_UNITS: dict[str, tuple[Unit, float]] = {"mm": ("mm", 1.0), "micron": ("um", 1.0), "meter": ("mm", 1000.0)}


def load_nifti(path: Path) -> Any:
    """nibabel's image with its header read; raises ImageError where that fails or says something impossible."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.load(path)
        if not isinstance(image, (nibabel.Nifti1Image, nibabel.Nifti2Image)):
            raise ImageError(str(path), type(image).__name__, "a NIfTI file", "convert it to NIfTI")
    except (ImageFileError, HeaderDataError, *BROKEN) as error:
        raise ImageError(str(path), f"a damaged NIfTI file ({error})", "a whole image", _HINT) from error
    _check_header(path, image)
    return image


def _check_header(path: Path, image: Any) -> None:
    """nibabel accepts a NaN or flat affine and an infinite slope, and makes a spacing of 0 one of 1."""
    from nibabel.openers import ImageOpener

    if image.affine is None or not np.isfinite(image.affine).all():
        raise ImageError(
            str(path), "an affine with NaN or infinite numbers", "a finite 4x4 matrix", "repair the header"
        )
    _check_axes(path, image)
    slope, inter = image.dataobj.slope, image.dataobj.inter
    with ImageOpener(str(path)) as file:  # the loaded header has forgotten its scaling
        header = image.header_class.from_fileobj(file, check=False)
    raw, sizes = np.asarray(header["scl_slope"]), np.asarray(header["pixdim"])[1 : 1 + min(3, image.ndim)]
    if any(n > 1 and not (np.isfinite(s) and s != 0) for s, n in zip(sizes, image.shape, strict=False)):
        stated = tuple(map(float, sizes))
        raise ImageError(str(path), f"a spacing of {stated}", "finite numbers above 0", "repair the header")
    if np.isinf(raw) or not (np.isfinite(slope) and np.isfinite(inter)):
        raise ImageError(str(path), f"scl_slope {raw}, scl_inter {inter}", "finite scaling", "repair the header")


def _check_axes(path: Path, image: Any) -> None:
    """Raise ImageError where the affine gives no place to an axis of more than one voxel, or two axes one direction."""
    used = [axis for axis, length in enumerate(image.shape[:3]) if length > 1]
    columns = np.asarray(image.affine, np.float64)[:3, used]
    lengths = np.linalg.norm(columns, axis=0)
    flat = [name for name, length in zip(np.array(list("xyz"))[used], lengths, strict=True) if not length > 0]
    if flat:
        came = f"an affine that does not move along {' and '.join(flat)}"
    elif used and np.linalg.svd(columns / lengths, compute_uv=False)[-1] < _PARALLEL:
        came = "an affine whose axes lie in one plane or line (its determinant is 0)"
    else:
        return
    raise ImageError(str(path), came, "one that can be inverted", "repair the header (sform, qform)")


def nifti_geometry(path: Path, image: Any, dimensions: int) -> Geometry:
    """Spacing in ((Z,) Y, X) and the affine as it stands; no unit means millimetres, as every NIfTI reader takes it."""
    unit, factor = _UNITS.get(image.header.get_xyzt_units()[0], ("mm", 1.0))
    zooms = tuple(float(z) * factor for z in image.header.get_zooms()[:dimensions])
    return stated_geometry(str(path), zooms[::-1], unit, np.array(image.affine, np.float64))


def _axes(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, int]]:
    """The spatial shape as stored (x, y(, z)), and the lengths of the axes beside x and y.

    The 4th axis is time, as the standard has it; what lies beyond must be of length 1.
    """
    if len(shape) < 2 or any(n != 1 for n in shape[4:]):
        came = f"a NIfTI of shape {shape}"
        raise ImageError(str(path), came, "2-D or 3-D, and time or channels as 4th axis", "export the image again")
    spatial = shape[:3]
    if len(spatial) == 3 and spatial[2] == 1:
        spatial = spatial[:2]  # 2-D is 2-D: a single slice has no Z
    lengths = {"T": shape[3]} if len(shape) > 3 else {}
    return spatial, lengths | ({"Z": spatial[2]} if len(spatial) == 3 else {})


def open_nifti(path: Path, choice: Choice) -> FileSource:
    """A NIfTI file as `(C, (Z,) Y, X)`; int16 and scaled data become float32, uint8 and uint16 stay.

    Plain files are read slice by slice (2-D ones by rows), gzipped ones whole.
    """
    image = load_nifti(path)
    shape = tuple(int(n) for n in image.shape)
    spatial, lengths = _axes(path, shape)
    check_size(str(path), spatial, choice.max_megapixels)
    refuse_choice(str(path), replace(choice, time=None))
    roles = choose_roles(str(path), lengths, choice, volume=True)
    stored = image.get_data_dtype()
    if stored.names:
        raise ImageError(str(path), f"a colour NIfTI ({stored})", "one number a voxel", "save one channel a file")
    _check_claim(path, image, prod(shape) * stored.itemsize)
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    planes = [roles.fixed.get("T", 0)] if "T" not in roles.channels else list(range(lengths["T"]))
    volume = len(spatial) == 3
    return FileSource(
        path=path,
        axes="CZYX" if volume else "CYX",
        grids=(_grid(path, image, spatial, planes, np.dtype(np.float32) if scaled else stored),),
        geometries=(nifti_geometry(path, image, len(spatial)),),
        mode="grey",
        max_megapixels=choice.max_megapixels,
    )


def _check_claim(path: Path, image: Any, claimed: int) -> None:
    size = path.stat().st_size
    if not _is_plain(path):
        check_claim(str(path), claimed, size, DEFLATE)
    elif int(image.dataobj.offset) + claimed > size:
        came = f"a NIfTI that ends early ({size:,} bytes, where its header claims {claimed:,} of voxels)"
        raise ImageError(str(path), came, "a whole image", _HINT)


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) != b"\x1f\x8b"


def _grid(path: Path, image: Any, spatial: tuple[int, ...], planes: list[int], dtype: np.dtype[Any]) -> Grid:
    """Plain files by slices (strips of rows where 2-D), gzipped ones, which have no other way, whole."""
    width, height, depth = (*spatial, 1)[:3]
    rows = height if len(spatial) == 3 else min(height, max(1, _STRIP // max(1, width * dtype.itemsize)))
    if not _is_plain(path):
        shape = (len(planes), depth, height, width) if len(spatial) == 3 else (len(planes), height, width)
        return whole(lambda: _read(path, image, planes, slice(None), slice(None)), shape, dtype, str(path))

    def load(index: Quad) -> Array:
        first = index[2] * rows
        across = slice(index[1], index[1] + 1)
        return _read(path, image, [planes[index[0]]], across, slice(first, min(height, first + rows)))

    return Grid((len(planes), depth, height, width), (1, 1, rows, width), dtype, load)


def _read(path: Path, image: Any, planes: list[int], depth: slice, rows: slice) -> Array:
    """Voxels `(C, Z, Y, X)` of some slices and rows; `planes` are places along the 4th axis."""
    tail = (0,) * (image.ndim - 4)
    columns = slice(None)
    whole_file = len(planes) > 1 or (image.ndim > 3 and image.shape[3] == 1)
    with _reading(path):
        if image.ndim == 2:
            voxels = np.asanyarray(image.dataobj[columns, rows])[..., None, None]
        elif image.ndim == 3:
            voxels = np.asanyarray(image.dataobj[columns, rows, depth])[..., None]
        else:
            at = slice(None) if whole_file else slice(planes[0], planes[0] + 1)
            voxels = np.asanyarray(image.dataobj[(columns, rows, depth, at, *tail)])
    pixels: Array = voxels.T
    return pixels


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise ImageError(str(path), f"damaged voxels ({error})", "a whole image", _HINT) from error
