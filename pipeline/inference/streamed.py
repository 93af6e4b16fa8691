"""One streamed image as its segmenter hands it out: the parts, and what is known of them at the end."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pipeline.inference.blocks import plan_band
from pipeline.inference.predict import predict_tiles, tile_grid
from pipeline.inference.seam_score import Crossings, Sample, choose_samples
from pipeline.inference.sizing import diameter_of_areas
from pipeline.inference.stream import Part, Stream
from pipeline.model.decode import decode
from pipeline.model.prepare import share_channels
from pipeline.scoring.confidence import ConfidenceSums
from pipeline.types import Array, Labels, Window

NOTHING = ConfidenceSums()


@dataclass
class Streamed:
    """A stream that keeps count. `statistics` and `confidence` are whole once all parts have been taken."""

    stream: Stream
    zoom: float
    workers: int
    cut: int = 0
    _sums: ConfidenceSums = NOTHING
    _areas: list[Array] = field(default_factory=list)
    _seams: list[Crossings] = field(default_factory=list)
    _samples: list[Sample] = field(default_factory=list)
    _agreement: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = self.stream.preparation.original
        if self.zoom == 1:  # else the grids of blocks and tiles are not the file's
            periods = {self.stream.sizes.side, self.stream.core}
            self._seams = [Crossings(period, shape) for period in sorted(periods)]
            self._samples = choose_samples(shape, self.stream.sizes.side)

    def parts(self) -> Iterator[Part]:
        """The parts of `Stream.parts`, counted on their way.

        The windows that they are compared with are looked at as soon as the engine is free, beside the last blocks.
        """
        at_once: list[Future[Labels]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="sample") as beside:
            for part in self.stream.parts(self.workers):
                if not at_once and self.stream.predicted.is_set():
                    at_once = self._look(beside)
                self._count(part)
                yield part
            whole = [future.result() for future in at_once or self._look(beside)]
        self._agreement = [sample.agreement(labels) for sample, labels in zip(self._samples, whole, strict=True)]

    def _look(self, beside: ThreadPoolExecutor) -> list[Future[Labels]]:
        return [beside.submit(self._at_once, sample.window) for sample in self._samples]

    def _count(self, part: Part) -> None:
        self.cut += part.cut
        self._sums += part.sums
        self._areas.append(part.objects["area_px2"].to_numpy(np.float32))
        for seam in self._seams:
            seam.add(part.objects)
        for window, labels in part.labels:
            for sample in self._samples:
                sample.add(window, labels)

    def _at_once(self, window: Window) -> Labels:
        """A window predicted and decoded by itself, with what lies around it: no border of a tile or block in it."""
        stream, stride = self.stream, tile_grid(self.stream.engine)[1]
        around = tile_grid(stream.engine)[0] + stream.sizes.margin
        shape = tuple(side - side % stride for side in stream.preparation.original)
        start = tuple(max(0, a - around) // stride * stride for a in window.start)
        stop = tuple(min(n, -(-(b + around) // stride) * stride) for b, n in zip(window.stop, shape, strict=True))
        read = Window(start, stop)
        record = stream.model.record
        pixels = share_channels(stream.source.read(read).pixels, record.prepare.channels, stream.channel)
        planes = next(iter(predict_tiles(stream.engine, [pixels], stream.preparation, stream.tta)))
        labels = decode(planes, record.target, stream.model.thresholds)
        y, x = (slice(a - o, b - o) for a, b, o in zip(window.start, window.stop, start, strict=True))
        return labels[y, x]

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds its threads were at it; stages run side by side."""
        return self.stream.seconds

    @property
    def confidence(self) -> float:
        """Of the whole image, in [0, 1]."""
        return self._sums.image

    @property
    def statistics(self) -> dict[str, float | str]:
        """Columns of images.csv: what was done to the image, and whether borders left a trace."""
        preparation = self.stream.preparation
        areas = np.concatenate(self._areas) if self._areas else np.zeros(0, np.float32)
        ratios = [seam.ratio for seam in self._seams if np.isfinite(seam.ratio)]
        return {
            "zoom": self.zoom,
            "inverted": min(preparation.scale) < 0,
            "diameter": round(diameter_of_areas(areas), 2),
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if self.stream.engine.halo is not None else "blended",
            "engine": self.stream.engine.name,
            "tiles": self._tiles,
            "cut": self.cut,
            "seams": round(min(ratios), 4) if ratios else float("nan"),
            "agreement": round(min(self._agreement), 4) if self._agreement else float("nan"),
        }

    @property
    def _tiles(self) -> int:
        shape, core = self.stream.grid_shape, self.stream.core
        bands = range(0, shape[0], self.stream.sizes.band)
        rows = ((top, min(shape[0], top + self.stream.sizes.band)) for top in bands)
        return sum(len(plan_band(band, shape, core, 0)) for band in rows)
