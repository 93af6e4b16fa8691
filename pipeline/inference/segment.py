"""One image, end to end: read, prepare, predict, decode."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.config import FixedSize, ImageOptions
from pipeline.errors import ImageError, LargeError
from pipeline.inference.background import count_apart, skipped_pixels
from pipeline.inference.blocks import Sizes, band_of
from pipeline.inference.engines import Engine, make_engine
from pipeline.inference.forward import on_grid
from pipeline.inference.predict import predict
from pipeline.inference.sizing import Glance, choose_view, median_diameter
from pipeline.inference.stream import Stream
from pipeline.inference.streamed import Streamed
from pipeline.inference.survey import survey
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation, fit, share_channels
from pipeline.model.targets import decode, scale_areas
from pipeline.model.told_size import KnownSize
from pipeline.scoring.confidence import Confidence, confidence
from pipeline.types import Array, Geometry, Image, ImageSource, Labels, Pixels, Watch, unwatched


@dataclass(frozen=True)
class Segmented:
    """`labels` `(Y, X)` uint32 and `probabilities` `(K, Y, X)` float32 on the file's grid; `image` as it was read.
    Of volumes, probabilities may be None: of those that went through in slabs, whose classes are uint8, and of objects
    that were told apart on a finer grid.

    `statistics` are the zoom that was taken, the objects' median diameter (px), what values were normalised by, and how
    many megapixels of tiles were skipped as background.
    """

    labels: Labels
    probabilities: Pixels | None
    confidence: Confidence
    image: Image
    statistics: dict[str, float | str]
    seconds: dict[str, float]


class Segmenter:
    """A model and what runs it; the model's record decides channels, normalisation, windows and thresholds."""

    def __init__(
        self,
        model: TrainedModel,
        device: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        *,
        skip: bool = True,
    ) -> None:
        self.model, self.known = model, KnownSize.of(model.record.model_dump())
        self.engine = make_engine(model, device, engine, threads, skip=skip)

    def segment(
        self,
        source: ImageSource,
        options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    ) -> Segmented:
        """Segment an opened 2-D image.

        `options.diameter` is the objects' typical one in file pixels or as a length, "auto" goes by the pixel size
        where the model has one and else by what the network is surest of, "native" takes the image as it is. The pixel
        size is the source's, which is opened with `options.pixel_size` (`FileSource.told`). Raises ImageError for
        images the model cannot take, LargeError for those that are magnified beyond `options.whole_megapixels`, and
        UsageError for a diameter that the model has no use for.
        """
        seconds: dict[str, float] = {}
        engine = count_apart(self.engine)
        with _timed(seconds, "read"):
            image = source.read()
        record, model = self.model.record, self.model
        with _timed(seconds, "prepare"):
            if image.pixels.ndim != 3:
                raise ImageError("image", f"{image.pixels.ndim - 1}-D", "2-D, as the model is", "give a 2-D image")
            pixels = share_channels(image.pixels, record.prepare.channels, options.channel)
        with _timed(seconds, "predict"):
            seen = self._look(engine, pixels, image.geometry, options)
        with _timed(seconds, "prepare"):
            plain = fit(pixels, record.prepare, stride=record.stride, zoom=seen.zoom)
            _check_held(plain, options.whole_megapixels)
            preparation = plain.inverted() if seen.inverted else plain
        with _timed(seconds, "predict"):
            planes = seen.planes
            if planes is None:
                planes = predict(engine, *on_grid(pixels, preparation), tta=options.tta)
        with _timed(seconds, "decode"):
            labels, probabilities, sure = _decode(planes, preparation, model)
        statistics: dict[str, float | str] = {
            "zoom": seen.zoom,
            "inverted": seen.inverted,
            "diameter": round(median_diameter(labels), 2),
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if record.halo is not None else "blended",
            "engine": self.engine.name,
            "skipped": skipped_pixels(engine) / 1e6,
        }
        return Segmented(labels, probabilities, sure, image, statistics, seconds)

    def stream(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch = unwatched
    ) -> Streamed:
        """Segment an opened 2-D image larger than memory, part by part; `scratch` keeps what a killed run had done.

        Raises what `segment` raises. `identity` names image, model and options: other work in `scratch` is not used.
        """
        record = self.model.record
        seen = survey(source, record.prepare, stride=record.stride, channel=options.channel)
        view = self._look(self.engine, seen.busiest, source.geometry, options, seen.preparation)
        zoom, original, size = view.zoom, seen.preparation.original, record.prepare.size
        shape = (max(1, round(original[0] * zoom)), max(1, round(original[1] * zoom)))
        if isinstance(size, FixedSize):
            shape = (size.height, size.width)
            zoom = float(np.sqrt(np.prod(shape) / np.prod(original)))
        preparation = replace(seen.preparation.inverted() if view.inverted else seen.preparation, shape=shape)
        sizes = Sizes(band=band_of(preparation.shape[1]))
        stream = Stream(
            self.model,
            count_apart(self.engine),
            source,
            preparation,
            scratch,
            identity,
            options.channel,
            options.tta,
            sizes,
            watch,
        )
        return Streamed(stream, zoom, workers=max(1, (os.cpu_count() or 2) // 2))

    def _look(
        self,
        engine: Engine,
        pixels: Array,
        geometry: Geometry,
        options: ImageOptions,
        like: Preparation | None = None,
    ) -> Glance:
        """The view that was told or found; what finding it has predicted already need not be predicted again."""
        zoom = self.known.zoom(options, geometry)
        if isinstance(self.model.record.prepare.size, FixedSize) or options.diameter == "native":
            return Glance(1.0, np.nan, np.nan)
        seen = choose_view(self.model, pixels, lambda prepared: predict(engine, prepared), like, zoom)
        return replace(seen, planes=None) if options.tta else seen


def _check_held(preparation: Preparation, most: float) -> None:
    """Raise LargeError where an image would be magnified to more megapixels than may be held."""
    wanted, given = (float(np.prod(shape)) / 1e6 for shape in (preparation.shape, preparation.original))
    if wanted > max(most, given):
        came = f"{given:.1f} Mpx that are magnified to {wanted:,.1f}"
        hint = "segment it with maskline segment, which streams it, or give --diameter"
        raise LargeError("image", came, f"at most {most:g} Mpx in memory", hint)


def _decode(planes: Pixels, preparation: Preparation, model: TrainedModel) -> tuple[Labels, Pixels, Confidence]:
    """Labels, probabilities and confidence on the file's grid.

    Objects are told apart on the finer of the two grids: the network's where the image was magnified, else the file's.
    """
    target, thresholds = model.record.target, model.thresholds
    shrink = float(np.prod(preparation.original)) / float(np.prod(preparation.shape))
    probabilities = preparation.undo(planes)
    if shrink >= 1:
        labels = decode(probabilities, target, scale_areas(thresholds, shrink))
        return labels, probabilities, confidence(labels, probabilities, target)
    fine = planes[:, : preparation.shape[0], : preparation.shape[1]]
    labels = decode(fine, target, thresholds)
    sure = confidence(labels, fine, target)
    values = cv2.resize(labels.astype(np.int32), preparation.original[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    kept, inverse = np.unique(values, return_inverse=True)  # an object of less than a pixel may be gone
    first = 0 if kept[0] == 0 else 1
    labels = (inverse.reshape(values.shape) + first).astype(np.uint32)
    return labels, probabilities, replace(sure, objects=sure.objects[kept[kept > 0] - 1])


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
