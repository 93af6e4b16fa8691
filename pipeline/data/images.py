"""Open any image file: the one place that knows formats and their axis orders.

`open_image` reads the header only and checks the limits; `.read()` gives `(C, (Z,) Y, X)`. Files are told apart by
their first bytes, not by their names; the suffix decides only what a folder walk takes for an image.
"""

from pathlib import Path
from typing import Literal

from pipeline.data.sources import FileSource
from pipeline.errors import ImageError

Pages = Literal["refuse", "stack", "channels"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".nii", ".nii.gz")
_DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 348 (NIfTI-1) or 540 (NIfTI-2)


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file name into stem and suffix, keeping double suffixes whole.

    >>> split_suffix("brain.v2.nii.gz"), split_suffix("plate/a1.OME.tif"), split_suffix("README")
    (('brain.v2', '.nii.gz'), ('plate/a1', '.OME.tif'), ('README', ''))
    """
    lower = name.lower()
    for suffix in _DOUBLE:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem or stem.endswith("/") or "/" in suffix:
        return name, ""
    return stem, "." + suffix


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image.

    >>> is_image_name("a.TIFF"), is_image_name("scan.nii.gz"), is_image_name("notes.txt")
    (True, True, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES) and name.lower() not in IMAGE_SUFFIXES


def open_image(path: Path, *, pages: Pages = "refuse", max_megapixels: float = 400.0) -> FileSource:
    """Open an image file and read its header; nothing of the image's size is allocated.

    Parameters
    ----------
    path : PNG, JPEG, BMP, TIFF (ImageJ and OME included) or NIfTI file.
    pages : what the pages of a multi-page TIFF (or the 4th axis of a NIfTI) are: a stack of slices (Z), channels, or
        nothing we may guess. Channels that the file itself declares need no word.
    max_megapixels : limit on Y * X, or Z * Y * X, in millions.

    Returns
    -------
    source : shape, dtype, axes, channels and geometry from the header; `read(window)` gives the pixels.
        uint8 and uint16 stay, bool becomes 0/255, everything else float32. Alpha is dropped, palettes are expanded.

    Raises
    ------
    ImageError : missing, empty, unreadable, truncated, unsupported or too large.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ImageError(str(path), str(error), "an image file", "check the path and its rights") from error
    if not head:
        raise ImageError(str(path), "an empty file", "an image", "copy or export the file again")
    return _open(path, head, pages, max_megapixels)


def _open(path: Path, head: bytes, pages: Pages, max_megapixels: float) -> FileSource:
    from pipeline.data import rasters

    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return rasters.open_png(path, max_megapixels)
    if head.startswith(b"\xff\xd8\xff"):
        return rasters.open_jpeg(path, max_megapixels)
    if head.startswith(b"BM"):
        return rasters.open_bmp(path, max_megapixels)
    if head.startswith(_TIFF):
        from pipeline.data.tiffs import open_tiff

        return open_tiff(path, pages, max_megapixels)
    if split_suffix(path.name)[1].lower() in (".nii", ".nii.gz") and head.startswith((b"\x1f\x8b", *_NIFTI_SIZES)):
        from pipeline.data.niftis import open_nifti

        return open_nifti(path, pages, max_megapixels)
    came = f"a file that starts with {head!r}"
    raise ImageError(str(path), came, "PNG, JPEG, BMP, TIFF or NIfTI", "export the image in one of these formats")
