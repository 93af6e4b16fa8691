"""NIfTI-1 and -2, plain or gzipped: pixels in (Z, Y, X), which is the file's own (x, y, z) transposed."""

import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.data.sources import FileSource, check_size, kept_dtype
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry, Unit

_HINT = "copy or export the file again"
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
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise ImageError(str(path), f"a damaged NIfTI file ({error})", "a whole image", _HINT) from error
    _check_header(path, image)
    return image


def _check_header(path: Path, image: Any) -> None:
    """nibabel accepts a NaN affine and an infinite slope, and makes a spacing of 0 one of 1: numbers would be wrong."""
    from nibabel.openers import ImageOpener

    if image.affine is None or not np.isfinite(image.affine).all():
        raise ImageError(
            str(path), "an affine with NaN or infinite numbers", "a finite 4x4 matrix", "repair the header"
        )
    slope, inter = image.dataobj.slope, image.dataobj.inter
    with ImageOpener(str(path)) as file:  # the loaded header has forgotten its scaling
        header = image.header_class.from_fileobj(file, check=False)
    raw, sizes = np.asarray(header["scl_slope"]), np.asarray(header["pixdim"])[1 : 1 + min(3, image.ndim)]
    if any(n > 1 and not (np.isfinite(s) and s != 0) for s, n in zip(sizes, image.shape, strict=False)):
        stated = tuple(map(float, sizes))
        raise ImageError(str(path), f"a spacing of {stated}", "finite numbers above 0", "repair the header")
    if np.isinf(raw) or not (np.isfinite(slope) and np.isfinite(inter)):
        raise ImageError(str(path), f"scl_slope {raw}, scl_inter {inter}", "finite scaling", "repair the header")


def nifti_geometry(image: Any, dimensions: int) -> Geometry:
    """Spacing in ((Z,) Y, X) and the affine as it stands; no unit means millimetres, as every NIfTI reader takes it."""
    unit, factor = _UNITS.get(image.header.get_xyzt_units()[0], ("mm", 1.0))
    zooms = tuple(float(z) * factor for z in image.header.get_zooms()[:dimensions])
    return Geometry(zooms[::-1], unit, np.array(image.affine, np.float64))


def _layout(path: Path, shape: tuple[int, ...], pages: str) -> tuple[tuple[int, ...], int]:
    """The spatial shape as stored (x, y(, z)) and the number of channels."""
    spatial = shape[:3]
    rest = [n for n in shape[3:] if n != 1]
    if rest and (pages != "channels" or len(rest) > 1):
        came = f"a NIfTI of shape {shape}"
        hint = "split the series, or say that the 4th axis is channels (pages: channels)"
        raise ImageError(str(path), came, "one 2-D or 3-D image", hint)
    if len(spatial) < 2:
        raise ImageError(str(path), f"a NIfTI of shape {shape}", "two or three dimensions", "export the image again")
    if len(spatial) == 3 and spatial[2] == 1:
        spatial = spatial[:2]  # 2-D is 2-D: a single slice has no Z
    return spatial, rest[0] if rest else 1


def open_nifti(path: Path, pages: Literal["refuse", "stack", "channels"], max_megapixels: float) -> FileSource:
    """A NIfTI file as `(C, (Z,) Y, X)`; int16 and scaled data become float32, uint8 and uint16 stay."""
    image = load_nifti(path)
    spatial, channels = _layout(path, tuple(int(n) for n in image.shape), pages)
    check_size(str(path), spatial, max_megapixels)
    stored = image.get_data_dtype()
    if stored.names:
        raise ImageError(str(path), f"a colour NIfTI ({stored})", "one number a voxel", "save one channel a file")
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    dtype = np.dtype(np.float32) if scaled else kept_dtype(stored, str(path))
    shape = (channels, *spatial[::-1])

    def read() -> Array:
        return read_voxels(path, image).reshape((*spatial, channels)).T

    return FileSource(
        path=path,
        shape=shape,
        dtype=dtype,
        axes="CZYX" if len(spatial) == 3 else "CYX",
        geometry=nifti_geometry(image, len(spatial)),
        decode=read,
        mode="grey",
    )


def read_voxels(path: Path, image: Any) -> Array:
    """The scaled voxels in the file's own order; raises ImageError where the file ends early."""
    try:
        return np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ImageError(str(path), f"damaged voxels ({error})", "a whole image", _HINT) from error
