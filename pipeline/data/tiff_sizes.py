"""How large the pixels of a TIFF are, wherever its writer put that: maskline, OME, ImageJ, Aperio, resolution tags."""

import json
import re
from typing import Any, Final
from xml.etree import ElementTree

from pipeline.data.sources import stated_geometry
from pipeline.types import Geometry, Unit

UM: Final = {
    "um": 1.0,
    "µm": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
}
PRINTED = 10.0  # um; a resolution tag coarser than this (2,540 dpi) is one for printing, no pixel size
_TAG_UNITS = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre in um
_MPP = re.compile(r"\bMPP\s*=\s*([-+.\deE]+)")


def tiff_geometry(where: str, tiff: Any, series: Any, dimensions: int) -> Geometry:
    """Pixel sizes where the file states them, else pixels; raises ImageError for sizes that cannot be."""
    page = series.keyframe
    if own := own_geometry(page.description, dimensions):
        return own
    if tiff.is_ome:
        spacing = ome_spacing(tiff.ome_metadata or "", tiff.series.index(series))
    elif tiff.is_imagej:
        spacing = _imagej_spacing(tiff.imagej_metadata or {}, page)
    else:
        spacing = _aperio_spacing(page.description) if tiff.is_svs else {}
        spacing = spacing or _resolution(page)
    if "Y" not in spacing or "X" not in spacing or (dimensions == 3 and "Z" not in spacing):
        return Geometry.pixels(dimensions)
    return stated_geometry(where, [spacing[a] for a in "ZYX"[-dimensions:]], "um")


def own_geometry(description: str, dimensions: int) -> Geometry | None:
    """The geometry in the JSON description that maskline writes, or None where the description is not ours."""
    if not description.startswith('{"maskline"'):
        return None
    stated = json.loads(description)["maskline"]
    unit: Unit = stated["unit"]
    spacing = tuple(float(s) for s in stated["spacing"])
    return Geometry(spacing, unit) if len(spacing) == dimensions else None


def ome_spacing(xml: str, image: int = 0) -> dict[str, float]:
    """Micrometres along Z, Y, X of the image of this number in OME-XML, as far as it says."""
    pixels = [element for element in ome_elements(xml) if element.tag.endswith("}Pixels") or element.tag == "Pixels"]
    if not pixels:
        return {}
    element = pixels[min(image, len(pixels) - 1)]
    return {
        axis: _number(value) * UM[unit]
        for axis in "ZYX"
        if (value := element.get(f"PhysicalSize{axis}"))
        and (unit := element.get(f"PhysicalSize{axis}Unit", "µm")) in UM
    }


def ome_channels(xml: str, image: int = 0) -> tuple[str, ...]:
    """The names of the channels of an image in OME-XML, or nothing where one of them has none."""
    pixels = [element for element in ome_elements(xml) if element.tag.rpartition("}")[2] == "Pixels"]
    if image >= len(pixels):
        return ()
    names = [element.get("Name") for element in pixels[image] if element.tag.rpartition("}")[2] == "Channel"]
    return tuple(str(name) for name in names) if names and all(names) else ()


def ome_elements(xml: str) -> list[ElementTree.Element]:
    try:
        return list(ElementTree.fromstring(xml).iter())  # noqa: S314 - expat expands no external entities
    except ElementTree.ParseError:
        return []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _imagej_spacing(metadata: dict[str, Any], page: Any) -> dict[str, float]:
    factor = UM.get(str(metadata.get("unit", "")))
    if factor is None:
        return {}
    spacing = _tag_spacing(page, factor)
    if metadata.get("spacing"):
        spacing["Z"] = float(metadata["spacing"]) * factor
    return spacing


def _tag_spacing(page: Any, unit: float) -> dict[str, float]:
    spacing = {}
    for axis, name in (("X", "XResolution"), ("Y", "YResolution")):
        tag = page.tags.get(name)
        if tag is not None and tag.value[0]:
            spacing[axis] = tag.value[1] / tag.value[0] * unit
    return spacing


def _aperio_spacing(description: str) -> dict[str, float]:
    found = _MPP.search(description)
    return dict.fromkeys("YX", _number(found[1])) if found else {}


def _resolution(page: Any) -> dict[str, float]:
    """Microscopes and slide scanners write centimetres a pixel; cameras and drawing programs dots for the printer."""
    tag = page.tags.get("ResolutionUnit")
    unit = _TAG_UNITS.get(int(tag.value)) if tag is not None else None
    spacing = _tag_spacing(page, unit) if unit else {}
    return spacing if all(0 < s <= PRINTED for s in spacing.values()) else {}
