"""TIFF: plain, BigTIFF, ImageJ, OME, slides (Aperio and others), pyramids; 1 to 64 bit; grey, palette, RGB(A).

tifffile would allocate whatever a header claims and go on with the pages before a break, so that the chain of pages and
the place of every strip and tile are checked first: a file that ends early is refused before it is decoded.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.blocks import FileBytes
from pipeline.data.choices import Choice, choose_roles, pick_series
from pipeline.data.sources import BROKEN, FileSource, check_size, kept_dtype, pyramid_geometries
from pipeline.data.tiff_blocks import HINT, Look, check_layout, lay_out, level_grid, level_series
from pipeline.data.tiff_sizes import ome_channels, tiff_geometry
from pipeline.errors import ImageError

_SLIDES = ("is_svs", "is_scn", "is_ndpi", "is_bif", "is_qpi", "is_philips")


def open_tiff(path: Path, choice: Choice) -> FileSource:
    """A TIFF as `(C, (Z,) Y, X)`, its pyramid and its tiles; what is not plain needs `choice` to say what is meant."""
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            _check_chain(path, tiff)
            return _describe(path, tiff, choice)
    except (tifffile.TiffFileError, *BROKEN) as error:
        raise ImageError(str(path), f"a damaged TIFF ({error})", "a whole image", HINT) from error


def _describe(path: Path, tiff: Any, choice: Choice) -> FileSource:
    series, reduced = _choose_series(path, tiff, choice)
    page = series.keyframe
    _check_colour(path, page)
    check_size(str(path), (page.imagelength, page.imagewidth), np.inf)
    kept_dtype(np.dtype(series.dtype), str(path))
    axes, lengths = _outer(path, series)
    roles = choose_roles(str(path), dict(zip(axes, lengths, strict=True)), choice)
    planes = roles.planes(axes, lengths)
    look, alpha = _look(page)
    levels = level_series(series, reduced)
    layouts = [lay_out(path, level, planes, look) for level in levels]
    absent = tuple(check_layout(layout) for layout in layouts)
    file = FileBytes(path)
    grids = tuple(level_grid(layout, file) for layout in layouts)
    volume = roles.stack is not None
    spatial = [grid.shape[1:] if volume else grid.shape[2:] for grid in grids]
    geometry = tiff_geometry(str(path), tiff, series, 3 if volume else 2)
    colour = "grey" if look.colours == 1 else "RGB"
    names = ome_channels(tiff.ome_metadata or "", tiff.series.index(series)) if tiff.is_ome else ()
    return FileSource(
        path=path,
        axes="CZYX" if volume else "CYX",
        grids=grids,
        geometries=pyramid_geometries(geometry, spatial),
        channels=names if len(names) == grids[0].shape[0] else (),
        alpha=alpha,
        white=2**look.inverted - 1 if look.inverted else None,
        mode="palette" if look.palette is not None else colour + ("+alpha" if alpha else ""),
        absent=absent,
        max_megapixels=choice.max_megapixels,
    )


def _check_chain(path: Path, tiff: Any) -> None:
    """Raise ImageError where the chain of pages breaks off: tifffile would go on with the pages before."""
    form, file = tiff.tiff, tiff.filehandle

    def number(at: int, layout: str, size: int) -> int:
        file.seek(at)
        data = file.read(size)
        if len(data) < size:
            raise ImageError(str(path), f"a TIFF that ends early ({file.size} bytes)", "a whole image", HINT)
        return int(struct.unpack(layout, data)[0])

    at = number(8 if tiff.is_bigtiff else 4, form.offsetformat, form.offsetsize)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        tags = number(at, form.tagnoformat, form.tagnosize)
        at = number(at + form.tagnosize + tags * form.tagsize, form.offsetformat, form.offsetsize)


def _choose_series(path: Path, tiff: Any, choice: Choice) -> tuple[Any, list[Any]]:
    """The image that is meant, and the reduced ones that may be its pyramid.

    A slide's first image is the slide; labels and overviews are taken by name only. Reduced images and transparency
    masks of other files are no images of their own.
    """
    if not tiff.series:
        raise ImageError(str(path), "a TIFF without an image", "one image", HINT)
    slide = any(getattr(tiff, kind) for kind in _SLIDES)
    if slide and choice.series is None:
        return tiff.series[0], []
    first, *others = tiff.series
    images = (
        tiff.series if slide else [first, *(s for s in others if not (s.keyframe.is_reduced or s.keyframe.is_mask))]
    )
    number = pick_series(str(path), [s.name for s in images], [s.shape for s in images], choice)
    reduced = [s for s in others if s.keyframe.is_reduced and not slide] if len(images) == 1 else []
    return images[number], reduced


def _check_colour(path: Path, page: Any) -> None:
    if page.photometric in (5, 8, 9):
        raise ImageError(str(path), f"a TIFF in {page.photometric.name}", "grey, palette or RGB", "convert it to RGB")


def _outer(path: Path, series: Any) -> tuple[str, tuple[int, ...]]:
    """The axes of a series that run over its pages, and their lengths."""
    inner = len(series.keyframe.shape)
    if tuple(series.shape[-inner:]) != tuple(series.keyframe.shape):
        came = f"axes {series.axes} of {series.shape} on pages of {series.keyframe.shape}"
        raise ImageError(str(path), came, "pages that are planes", "save the image as OME-TIFF")
    lengths = tuple(int(n) for n in series.shape[:-inner])
    return "".join(series.axes)[: len(lengths)], lengths


def _look(page: Any) -> tuple[Look, bool]:
    """What to make of the samples, and whether alpha is among them.

    The last sample is alpha where declared so, and the fourth of RGB; other further samples are channels.
    """
    samples = int(page.samplesperpixel)
    declared = any(int(kind) in (1, 2) for kind in page.extrasamples) or (page.photometric == 2 and samples == 4)
    alpha = samples > 1 and declared
    if page.photometric == 3:
        return Look(3, page.colormap, 0), alpha
    inverted = int(page.bitspersample) if page.photometric == 0 else 0
    return Look(samples - (1 if alpha else 0), None, inverted), alpha
