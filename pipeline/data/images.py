"""Open any image file: the one place that knows formats and their axis orders.

`open_image` reads the header only and checks the limits; `.read(window)` gives `(C, (Z,) Y, X)`. Files are told apart
by their first bytes, not by their names; the suffix decides only what a folder walk takes for an image.
"""

from pathlib import Path
from typing import Final, Literal

from pipeline.data.choices import Choice, refuse_choice
from pipeline.data.sources import BROKEN, FileSource
from pipeline.errors import ImageError
from pipeline.types import Pages

WANTED: Final = "PNG, JPEG, BMP, TIFF, SVS, OME-Zarr, NIfTI, DICOM, CZI, ND2 or LIF"
_DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr")
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".bif", ".qptiff"),
    *(".zarr", ".nii", ".dcm", ".czi", ".nd2", ".lif", *_DOUBLE),
)
_MICROSCOPES: dict[bytes, Literal["czi", "nd2", "lif"]] = {  # first bytes -> format
    b"ZISRAWFILE": "czi",
    b"\xda\xce\xbe\x0a": "nd2",
    b"\0\0\0\x0cjP  \r\n\x87\x0a": "nd2",
    b"\x70\0\0\0": "lif",
}
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


def open_image(
    path: Path,
    *,
    pages: Pages = "refuse",
    series: str | None = None,
    level: int = 0,
    time: int | None = None,
    max_megapixels: float = 400.0,
) -> FileSource:
    """Open an image and read its header; nothing of the image's size is allocated.

    Parameters
    ----------
    path : PNG, JPEG, BMP, TIFF (ImageJ, OME, slides), NIfTI or DICOM file; .czi, .nd2 or .lif with the extra
        maskline[microscopy]; an OME-Zarr folder, or the folder of a DICOM series.
    pages : what the pages of a multi-page TIFF (or the 4th axis of a NIfTI, or time) are: a stack of slices (Z),
        channels, or nothing we may guess. Axes that the file itself declares as channels or slices need no word.
    series : number or name of the image to take where the file holds several.
    level : pyramid level to take as the image; 0 is the full one.
    time : the time point to take where there are several, from 0.
    max_megapixels : limit, in millions, on what is decoded at once: on Y * X of the file's blocks, on Z * Y * X of
        volumes, and on what `read()` without a window may give.

    Returns
    -------
    source : shape, dtype, axes, channels, levels and geometry from the header; `read(window, level)` gives the pixels.
        uint8 and uint16 stay, bool becomes 0/255, everything else float32. Alpha is dropped, palettes are expanded.

    Raises
    ------
    ImageError : missing, empty, unreadable, truncated, unsupported or too large; ambiguous without an option.
    """
    choice = Choice(pages, series, level, time, max_megapixels)
    try:
        opened = _open_folder(path, choice) if path.is_dir() else _open_file(path, choice)
    except OSError as error:
        raise ImageError(str(path), str(error), "an image file", "check the path and its rights") from error
    except BROKEN as error:
        hint = "copy or export the image again"
        raise ImageError(str(path), f"a damaged image ({error!r})", "a whole one", hint) from error
    return opened.at_level(level)


def _open_folder(path: Path, choice: Choice) -> FileSource:
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray")):
        from pipeline.data.zarrs import open_zarr

        return open_zarr(path, choice)
    if path.name.lower().endswith(".zarr"):
        came = "a .zarr folder without metadata (zarr.json or .zattrs)"
        raise ImageError(str(path), came, "an OME-Zarr image", "copy or export the folder again")
    from pipeline.data.dicoms import open_series

    return open_series(path, choice)


def _open_file(path: Path, choice: Choice) -> FileSource:
    with path.open("rb") as file:
        head = file.read(132)
    if not head:
        raise ImageError(str(path), "an empty file", "an image", "copy or export the file again")
    return _open_raster(path, head, choice) or _open_scientific(path, head, choice)


def _open_raster(path: Path, head: bytes, choice: Choice) -> FileSource | None:
    from pipeline.data import rasters

    for magic, opened in (
        (b"\x89PNG\r\n\x1a\n", rasters.open_png),
        (b"\xff\xd8\xff", rasters.open_jpeg),
        (b"BM", rasters.open_bmp),
    ):
        if head.startswith(magic):
            refuse_choice(str(path), choice)
            return opened(path, choice.max_megapixels)
    return None


def _open_scientific(path: Path, head: bytes, choice: Choice) -> FileSource:
    if head.startswith(_TIFF):
        from pipeline.data.tiffs import open_tiff

        return open_tiff(path, choice)
    if split_suffix(path.name)[1].lower() in (".nii", ".nii.gz") and head.startswith((b"\x1f\x8b", *_NIFTI_SIZES)):
        from pipeline.data.niftis import open_nifti

        return open_nifti(path, choice)
    if head[128:132] == b"DICM":
        from pipeline.data.dicoms import open_series

        return open_series(path, choice)
    for magic in _MICROSCOPES:
        if head.startswith(magic):
            from pipeline.data.microscopy import open_microscopy

            return open_microscopy(path, _MICROSCOPES[magic], choice)
    came = f"a file that starts with {head[:8]!r}"
    raise ImageError(str(path), came, WANTED, "export the image in one of these formats")
