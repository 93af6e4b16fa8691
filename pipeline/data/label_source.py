"""An opened label image: its numbers, whole or by windows, checked to be such as they are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.images import open_image
from pipeline.data.sources import FileSource
from pipeline.errors import MaskError
from pipeline.types import Geometry, Labels, Window


@dataclass(frozen=True)
class LabelSource:
    """A label image whose header has been read; `read` gives its numbers `((Z,) Y, X)` uint32."""

    source: FileSource

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape[1:]

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry

    def keep(self, rows: int) -> None:
        """Keep so many decoded rows that windows in raster order, of up to `rows` rows, decode every block once."""
        self.source.keep(rows)

    def read(self, window: Window | None = None) -> Labels:
        """The numbers, of a window or all; raises MaskError for negative ones and for what is not whole, ImageError."""
        pixels, where = self.source.numbers(window)[0], str(self.path)
        if pixels.dtype.kind == "b":
            return np.asarray(pixels, np.uint32)
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= np.iinfo(np.uint32).max):
            came = f"values from {low} to {high}"
            raise MaskError(where, came, "0 to 4,294,967,295", "save one whole number an object")
        if pixels.dtype.kind == "f" and not (pixels == np.floor(pixels)).all():
            hint = "is this a probability map?"
            raise MaskError(where, "values that are not whole", "one whole number an object", hint)
        return np.asarray(pixels, np.uint32)


def open_labels(path: Path) -> LabelSource:
    """Open a label image of any format; TIFF pages are slices. Raises MaskError for colour, ImageError."""
    source = open_image(path, pages="stack")
    if source.shape[0] != 1:
        came = f"a label image of {source.shape[0]} channels ({source.mode})"
        raise MaskError(str(path), came, "one channel", "save one number a pixel")
    return LabelSource(source)
