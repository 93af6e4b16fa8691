"""How much larger or smaller than the model's an image's objects are, as options, file and the model's record say.

Plain values alone, so that a run is planned, and what cannot work refused, before torch is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import ImageOptions
from pipeline.errors import ImageError, UsageError
from pipeline.types import Geometry

_MICROMETRES = {"um": 1.0, "mm": 1000.0}
SQUARE = 1.05  # times as long as wide that a pixel may be and still pass for square


@dataclass(frozen=True)
class KnownSize:
    """What a model's record says of size: the `diameter` (its own px) of its objects, the `pixel_size` (um) of the
    images it learned from, each None where it says nothing. `scale` is what stands in the way of rescaling images by
    it: "" for models of objects in images, which can be.
    """

    diameter: float | None = None
    pixel_size: float | None = None
    scale: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "KnownSize":
        """What the record, as plain values, says.

        >>> KnownSize.of({"diameter": 20.0}), KnownSize.of({"diameter": 20.0, "target": {"kind": "classes"}}).scale
        (KnownSize(diameter=20.0, pixel_size=None, scale=''), 'a model of classes')
        """
        stands = ""
        if record.get("volume"):
            stands = "a model of volumes"
        elif record.get("target", {}).get("kind") == "classes":
            stands = "a model of classes"
        elif record.get("prepare", {}).get("size", {}).get("kind") == "fixed":
            size = record["prepare"]["size"]
            stands = f"a model that resizes every image to {size['height']} x {size['width']} px"
        return cls(record.get("diameter"), record.get("pixel_size"), stands)

    def check(self, options: ImageOptions) -> None:
        """Raise UsageError for a diameter that the model has no use for, whatever the image."""
        if options.diameter in ("auto", "native"):
            return
        where = f"--diameter {options.diameter}"
        if self.scale:
            raise UsageError(where, self.scale, "one of objects in images of any size", "leave --diameter out")
        if self.diameter is None:
            wanted = "one that records the size of the objects it learned"
            raise UsageError(where, "a model that records none", wanted, "leave --diameter out")

    def zoom(self, options: ImageOptions, geometry: Geometry) -> float | None:
        """Model pixels per file pixel; None where the image itself has to say. Raises what `check` raises, and
        ImageError where the image has no pixel size and one is needed, or pixels that are not square.

        >>> KnownSize(diameter=20.0).zoom(ImageOptions(diameter="8um"), Geometry((0.5, 0.5), "um"))
        1.25
        >>> KnownSize(pixel_size=0.25).zoom(ImageOptions(), Geometry((0.5, 0.5), "um"))
        2.0
        """
        self.check(options)
        if self.scale or options.diameter == "native":
            return 1.0
        if self.diameter is not None and isinstance(options.diameter, float):
            return self.diameter / options.diameter
        if self.diameter is not None and options.diameter_um is not None:
            return self.diameter * _pixel_size(geometry) / options.diameter_um
        return None if self.pixel_size is None else _pixel_size(geometry) / self.pixel_size


def _pixel_size(geometry: Geometry) -> float:
    """The side (um) of a square pixel as large as the image's."""
    if geometry.unit not in _MICROMETRES:
        hint = "give --pixel-size, or --diameter in pixels (or native: the image as it is)"
        raise ImageError("image", "no pixel size", "one in micrometres", hint)
    y, x = (side * _MICROMETRES[geometry.unit] for side in geometry.spacing[-2:])
    if max(y, x) > SQUARE * min(y, x):
        hint = "resample the image, or give --diameter in pixels (or native: the image as it is)"
        raise ImageError("image", f"pixels of {y:g} x {x:g} um", "square ones (within 5 %)", hint)
    return float((y * x) ** 0.5)
