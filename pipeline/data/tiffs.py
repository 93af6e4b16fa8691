"""TIFF: plain, BigTIFF, ImageJ, OME, pyramids; 1 to 32 bit; grey, palette, RGB(A); pages only as told.

tifffile would allocate whatever a header claims, so the size is checked first, and so is that every strip and tile lies
inside the file: one that ends early is refused before it is decoded.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from pipeline.data.sources import FileSource, check_size, kept_dtype
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry, Unit

_HINT = "copy or export the file again"
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, KeyError, IndexError, TypeError, MemoryError, struct.error)
_UM = {
    "um": 1.0,
    "µm": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
}


def open_tiff(path: Path, pages: Literal["refuse", "stack", "channels"], max_megapixels: float) -> FileSource:
    """A TIFF as `(C, (Z,) Y, X)`: the full-resolution series; further pages need `pages` to say what they are."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            _check_chain(path, tiff)
            return _describe(path, tiff, pages, max_megapixels)
    except (tifffile.TiffFileError, *_BROKEN) as error:
        raise ImageError(str(path), f"a damaged TIFF ({error})", "a whole image", _HINT) from error


def _describe(path: Path, tiff: Any, pages: str, max_megapixels: float) -> FileSource:
    series = _only_series(path, tiff)
    page = series.keyframe
    _check_colour(path, page)
    axes = "".join(series.axes)
    lengths = dict(zip(axes, series.shape, strict=True))
    extra = [a for a in axes if a not in "YXSC" and lengths[a] > 1]
    role = _role(path, series, extra, lengths, pages)
    samples = lengths.get("S", 1)
    alpha = samples > 1 and _has_alpha(page, samples)
    colours = _colours(page, samples, alpha)
    spatial = tuple(lengths[a] for a in ([extra[0]] if role == "stack" else []) + ["Y", "X"])
    check_size(str(path), spatial, max_megapixels)
    channels = colours * lengths.get("C", 1) * (lengths[extra[0]] if role == "channels" else 1)
    check_segments(path, series)
    palette = page.photometric == 3
    stored = np.dtype(np.uint16) if palette else np.dtype(series.dtype)
    return FileSource(
        path=path,
        shape=(channels, *spatial),
        dtype=np.dtype(np.uint8) if palette else kept_dtype(stored, str(path)),
        axes="CZYX" if role == "stack" else "CYX",
        geometry=_geometry(tiff, series, len(spatial)),
        decode=_decoder(path, colours, palette, role != "channels"),
        alpha=alpha,
        white=2 ** int(page.bitspersample) - 1 if page.photometric == 0 else None,
        mode="palette" if palette else ("grey" if colours == 1 else "RGB") + ("+alpha" if alpha else ""),
    )


def _check_chain(path: Path, tiff: Any) -> None:
    """Raise ImageError where the chain of pages breaks off: tifffile would go on with the pages before."""
    form, file = tiff.tiff, tiff.filehandle

    def number(at: int, layout: str, size: int) -> int:
        file.seek(at)
        data = file.read(size)
        if len(data) < size:
            raise ImageError(str(path), f"a TIFF that ends early ({file.size} bytes)", "a whole image", _HINT)
        return int(struct.unpack(layout, data)[0])

    at = number(8 if tiff.is_bigtiff else 4, form.offsetformat, form.offsetsize)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        tags = number(at, form.tagnoformat, form.tagnosize)
        at = number(at + form.tagnosize + tags * form.tagsize, form.offsetformat, form.offsetsize)


def _only_series(path: Path, tiff: Any) -> Any:
    """The one full-resolution image; several of different sizes are refused unless the others are reduced or labels."""
    if not tiff.series:
        raise ImageError(str(path), "a TIFF without an image", "one image", _HINT)
    others = [s for s in tiff.series[1:] if not s.keyframe.is_reduced]
    if others and not (tiff.is_svs or tiff.is_scn or tiff.is_ndpi or tiff.is_bif):
        came = f"{1 + len(others)} images of different sizes"
        raise ImageError(str(path), came, "one image a file", "save each image as a file of its own")
    return tiff.series[0]


def _check_colour(path: Path, page: Any) -> None:
    if page.photometric in (5, 8, 9):
        raise ImageError(str(path), f"a TIFF in {page.photometric.name}", "grey, palette or RGB", "convert it to RGB")


def _role(path: Path, series: Any, extra: list[str], lengths: dict[str, int], pages: str) -> str:
    """What the pages are: "none", "stack" or "channels"; raises ImageError rather than guess."""
    if not extra:
        return "none"
    if len(extra) > 1:
        came = f"axes {series.axes} of {series.shape}"
        raise ImageError(str(path), came, "at most one axis beside channels", "save one time point or position a file")
    if pages == "refuse":
        came = f"{lengths[extra[0]]} pages (axis {extra[0]})"
        raise ImageError(
            str(path), came, "one page", "say what the pages are: a stack, or channels (pages: stack|channels)"
        )
    return pages


def _has_alpha(page: Any, samples: int) -> bool:
    """Whether the last sample is alpha: declared so, or the fourth of RGB. Other further samples are channels."""
    return any(int(kind) in (1, 2) for kind in page.extrasamples) or (page.photometric == 2 and samples == 4)


def _colours(page: Any, samples: int, alpha: bool) -> int:
    return 3 if page.photometric == 3 else samples - (1 if alpha else 0)


def check_segments(path: Path, series: Any) -> None:
    """Raise ImageError where a strip or tile lies beyond the end of the file."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise ImageError(str(path), "a page that is missing", "every page", _HINT)
        ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False) if b]
        if not page.dataoffsets or (ends and max(ends) > size) or len(page.dataoffsets) != len(page.databytecounts):
            raise ImageError(str(path), f"a TIFF that ends early ({size} bytes)", "a whole image", _HINT)


def _decoder(path: Path, colours: int, palette: bool, stack: bool) -> Callable[[], Array]:
    """A reader that answers (C, (Z,) Y, X): a stack's axis goes behind the channels, which come before it."""
    import tifffile

    def read() -> Array:
        try:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                page = series.keyframe
                pixels, axes = np.asarray(series.asarray(maxworkers=1)), "".join(series.axes)
                table = page.colormap if palette else None
                inverted = page.photometric == 0
                bits = int(page.bitspersample)
        except (tifffile.TiffFileError, *_BROKEN) as error:
            raise ImageError(str(path), f"damaged pixels ({error})", "a whole image", _HINT) from error
        if table is not None:
            pixels, axes = np.moveaxis(_expand(table, pixels), 0, -1), axes + "S"
        if inverted:
            pixels = _invert(pixels, bits)
        return arrange(pixels, axes, colours, path, stack)

    return read


def _expand(table: Array, indices: Array) -> Array:
    """A palette's 16-bit colours as uint8: (3, ...)."""
    return np.asarray(table[:, indices] >> 8).astype(np.uint8)


def _invert(pixels: Array, bits: int) -> Array:
    """White-is-zero to black-is-zero."""
    if pixels.dtype.kind == "b":
        return ~pixels
    return (2**bits - 1 - pixels).astype(pixels.dtype) if pixels.dtype.kind == "u" else pixels


def arrange(pixels: Array, axes: str, colours: int, path: Path, stack: bool = True) -> Array:
    """Bring pixels with named axes into (C, (Z,) Y, X).

    The one axis that is none of C, S, Y, X stays an axis (stack) or multiplies the channels; lengths of 1 go.
    """
    keep = [i for i, a in enumerate(axes) if a in "YX" or pixels.shape[i] > 1]
    pixels = pixels.reshape([pixels.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    extra = [a for a in axes if a not in "YXSC"]
    order = [a for a in ("C", "S") if a in axes] + (extra if stack else []) + ["Y", "X"]
    if not stack:
        order = extra + order
    pixels = pixels.transpose([axes.index(a) for a in order])
    if "S" in axes:
        pixels = np.take(pixels, range(colours), axis=order.index("S"))
    spatial = 2 + (len(extra) if stack else 0)
    return pixels.reshape((-1, *pixels.shape[pixels.ndim - spatial :]))


def _geometry(tiff: Any, series: Any, dimensions: int) -> Geometry:
    """Pixel sizes where maskline, OME or ImageJ stated them; a resolution for printing is no pixel size."""
    page = series.keyframe
    if tiff.is_ome:
        spacing = _ome_spacing(tiff.ome_metadata or "")
    elif tiff.is_imagej:
        spacing = _imagej_spacing(tiff.imagej_metadata or {}, page)
    else:
        return own_geometry(page.description, dimensions) or Geometry.pixels(dimensions)
    known = spacing.get("Y") and spacing.get("X")
    if not known or (dimensions == 3 and not spacing.get("Z")):
        return Geometry.pixels(dimensions)
    return Geometry(tuple(spacing[a] for a in "ZYX"[-dimensions:]), "um")


def own_geometry(description: str, dimensions: int) -> Geometry | None:
    """The geometry in the JSON description that maskline writes, or None where the description is not ours."""
    import json

    if not description.startswith('{"maskline"'):
        return None
    stated = json.loads(description)["maskline"]
    unit: Unit = stated["unit"]
    spacing = tuple(float(s) for s in stated["spacing"])
    return Geometry(spacing, unit) if len(spacing) == dimensions else None


def _ome_spacing(xml: str) -> dict[str, float]:
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - expat expands no external entities; size is the header's
    except ElementTree.ParseError:
        return {}
    for element in root.iter():
        if element.tag.endswith("}Pixels") or element.tag == "Pixels":
            return {
                axis: float(value) * _UM[unit]
                for axis in "ZYX"
                if (value := element.get(f"PhysicalSize{axis}"))
                and (unit := element.get(f"PhysicalSize{axis}Unit", "µm")) in _UM
            }
    return {}


def _imagej_spacing(metadata: dict[str, Any], page: Any) -> dict[str, float]:
    factor = _UM.get(str(metadata.get("unit", "")))
    if factor is None:
        return {}
    spacing = {"Z": float(metadata.get("spacing", 0)) * factor}
    for axis, name in (("X", "XResolution"), ("Y", "YResolution")):
        tag = page.tags.get(name)
        if tag is not None and tag.value[0]:
            spacing[axis] = tag.value[1] / tag.value[0] * factor
    return spacing
