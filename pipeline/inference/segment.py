"""One image, end to end: read, prepare, predict, decode."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.config import FixedSize, ImageOptions
from pipeline.errors import ImageError, ModelError
from pipeline.inference.predict import choose_device, predict
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import fit, take_channels
from pipeline.model.targets import decode, scale_areas
from pipeline.types import Geometry, Image, ImageSource, Labels, Pixels

_MICROMETRES = {"um": 1.0, "mm": 1000.0}


@dataclass(frozen=True)
class Segmented:
    """`labels` `(Y, X)` uint32 and `probabilities` `(K, Y, X)` float32 on the file's grid; `image` as it was read."""

    labels: Labels
    probabilities: Pixels
    image: Image
    statistics: dict[str, float | str]
    seconds: dict[str, float]


class Segmenter:
    """A model on a device; its record decides channels, normalisation, windows and thresholds."""

    def __init__(self, model: TrainedModel, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model = model
        model.network.to(self.device)

    def segment(
        self,
        source: ImageSource,
        options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    ) -> Segmented:
        """Segment an opened 2-D image.

        `options.pixel_size` (um) overrides the file's; `diameter` is the objects' typical one in file pixels. Raises
        ImageError for images the model cannot take and ModelError where the model does not know the size that was
        asked about.
        """
        seconds: dict[str, float] = {}
        with _timed(seconds, "read"):
            image = source.read()
        labels, probabilities, statistics = self._answer(image, seconds, options)
        return Segmented(labels, probabilities, image, statistics, seconds)

    def _answer(
        self,
        image: Image,
        seconds: dict[str, float],
        options: ImageOptions,
    ) -> tuple[Labels, Pixels, dict[str, float | str]]:
        record = self.model.record
        with _timed(seconds, "prepare"):
            if image.pixels.ndim != 3:
                raise ImageError("image", f"{image.pixels.ndim - 1}-D", "2-D, as the model is", "give a 2-D image")
            pixels = take_channels(image.pixels, record.prepare.channels, options.channel)
            zoom = self._zoom(image.geometry, options.pixel_size, options.diameter)
            preparation = fit(pixels, record.prepare, stride=record.stride, zoom=zoom)
            prepared = preparation.apply(pixels)
        with _timed(seconds, "predict"):
            planes = predict(self.model, prepared, self.device, tta=options.tta)
            probabilities = preparation.undo(planes)
        with _timed(seconds, "decode"):
            shrink = float(np.prod(preparation.original)) / float(np.prod(preparation.shape))
            labels = decode(probabilities, record.target, scale_areas(self.model.thresholds, shrink))
        statistics: dict[str, float | str] = {
            "zoom": zoom,
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if record.halo is not None else "blended",
        }
        return labels, probabilities, statistics

    def _zoom(self, geometry: Geometry, pixel_size: float | None, diameter: float | None) -> float:
        """Model pixels per file pixel."""
        record = self.model.record
        if isinstance(record.prepare.size, FixedSize):
            return 1.0
        if diameter is not None:
            if record.diameter is None:
                raise ModelError("--diameter", "a model that records none", "one that does", "leave --diameter out")
            return record.diameter / diameter
        if pixel_size is not None and record.pixel_size is None:
            raise ModelError(
                "--pixel-size", "a model without one", "one trained at a known size", "give --diameter instead"
            )
        if record.pixel_size is None:
            return 1.0
        size = pixel_size or geometry.spacing[-1] * _MICROMETRES.get(geometry.unit, np.nan)
        if not np.isfinite(size):
            raise ImageError("image", "no pixel size", "one in micrometres", "give --pixel-size")
        return float(size) / record.pixel_size


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - start
