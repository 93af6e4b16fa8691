"""A class map larger than memory: windows in, the class of each pixel out, band by band. There is nothing to stitch.

    rows of the file -> tiles -> class and its probability on disk (uint8, sealed by band) -> parts, in raster order

A model of a fixed size sees the whole image at once, reduced: its answer is held, and enlarged part by part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.inference.blocks import plan_blocks
from pipeline.inference.grid import ModelGrid
from pipeline.inference.predict import predict
from pipeline.inference.resampling import axis_weights, resample
from pipeline.inference.stream import Stream
from pipeline.model.decode import Bytes, decode, to_bytes
from pipeline.scoring.class_sums import ClassSums
from pipeline.types import Array, Event, ImageSource, Labels, Pixels, Window

if TYPE_CHECKING:
    import pandas as pd

_STRIP = 128  # rows of a part that are enlarged together


@dataclass(frozen=True)
class MapPart:
    """A part of the map: classes `(y, x)` uint32, by which probabilities (0..255), and the pixels `(C, y, x)`."""

    core: Window
    labels: Labels
    chosen: Bytes
    pixels: Array


@dataclass(frozen=True)
class ClassStream(Stream):
    """As `Stream`, for a model of classes: on disk lie the class of each pixel and its probability."""

    @property
    def kept(self) -> int:
        """How many planes lie on disk."""
        return 2

    def keep(self, probabilities: Pixels) -> Bytes:
        """The most probable class and its probability, `(2, y, x)`; decided before anything is rounded."""
        labels = decode(probabilities, self.model.record.target, self.model.thresholds)
        return np.concatenate([labels.astype(np.uint8)[None], to_bytes(probabilities.max(axis=0)[None])])

    def maps(self) -> Iterator[MapPart]:
        """The parts of the map, in raster order; every pixel of the image lies in one of them."""
        source, shape = self.source.again(), self.preparation.original
        blocks = list(plan_blocks(shape, self.sizes.side))
        found = self._of_bands if self.preparation.shape == shape else self._enlarged
        for number, (core, planes) in enumerate(found([block.core for block in blocks])):
            yield self._part(source, core, planes)
            self.watch(Event("decode", number + 1, len(blocks)))

    def _part(self, source: ImageSource, core: Window, planes: Bytes) -> MapPart:
        with self.timed("read"):
            pixels = source.read(core).pixels
        return MapPart(core, planes[0].astype(np.uint32), planes[1], pixels)

    def _of_bands(self, cores: list[Window]) -> Iterator[tuple[Window, Bytes]]:
        """Each core as soon as its bands are on disk."""
        with self.predicting() as (store, written, predicted):
            for core in cores:
                if not written.wait(core.stop[0]):
                    predicted.result()  # raises what went wrong
                yield core, store.read(core)

    def _enlarged(self, cores: list[Window]) -> Iterator[tuple[Window, Bytes]]:
        """Each core from the answer to the whole image on the network's smaller grid."""
        grid = ModelGrid(self.source, self.model.record.prepare.channels, self.channel, self.preparation)
        with self.timed("read"):
            grid.hold(0, grid.shape[0])
        with self.timed("predict"):
            whole = predict(self.engine, grid.window(Window((0, 0), grid.shape)), self.preparation, tta=self.tta)
        height, width = self.preparation.shape
        for core in cores:
            with self.timed("decode"):
                tops = range(core.start[0], core.stop[0], _STRIP)
                strips = (Window((top, core.start[1]), (min(core.stop[0], top + _STRIP), core.stop[1])) for top in tops)
                planes = [self.keep(self._strip(whole[:, :height, :width], strip)) for strip in strips]
            yield core, np.concatenate(planes, axis=1)

    def _strip(self, planes: Pixels, strip: Window) -> Pixels:
        """Probabilities of a window of the file."""
        given, wanted = planes.shape[1:], self.preparation.original
        (top, left), (bottom, right) = strip.start, strip.stop
        rows, first, last = axis_weights(given[0], wanted[0], top, bottom)
        columns, begin, end = axis_weights(given[1], wanted[1], left, right)
        return resample(planes[:, first:last, begin:end], rows, columns)


@dataclass
class ClassMapping:
    """A class map as its segmenter hands it out; what is known of it is whole once all parts have been taken."""

    stream: ClassStream
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    sums: ClassSums = field(init=False)

    def __post_init__(self) -> None:
        self.sums = ClassSums(len(self.classes), 2, self.stream.source.shape[0])

    def parts(self) -> Iterator[MapPart]:
        """The parts of `ClassStream.maps`, summed on their way."""
        for part in self.stream.maps():
            with self.stream.timed("measure"):
                self.sums.add(part.labels, part.pixels, part.core.start, part.chosen)
            yield part

    def table(self) -> "pd.DataFrame":
        """One row a class, as `measure_classes` has them."""
        source, sure = self.stream.source, self.sums.confidence.objects
        return self.sums.table(source.shape[1:], source.geometry, self.classes, sure)

    @property
    def confidence(self) -> float:
        """Of the whole image, in [0, 1]."""
        return self.sums.confidence.image

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds it took, over the threads it had; stages run side by side."""
        return self.stream.seconds

    @property
    def statistics(self) -> dict[str, float | str]:
        """Columns of images.csv: what was done to the image."""
        preparation, engine = self.stream.preparation, self.stream.engine
        return {
            "zoom": float(np.sqrt(np.prod(preparation.shape) / np.prod(preparation.original))),
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if engine.halo is not None else "blended",
            "engine": engine.name,
        }
