"""One streamed image as its segmenter hands it out: the parts, and what is known of them at the end."""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pipeline.inference.background import count_apart
from pipeline.inference.blocks import plan_band
from pipeline.inference.cores import Framed
from pipeline.inference.grid import ModelGrid
from pipeline.inference.predict import predict_tiles, tile_grid
from pipeline.inference.resampling import axis_weights, resample
from pipeline.inference.seam_score import Crossings, Sample, choose_windows, lines_of
from pipeline.inference.sizing import diameter_of_areas
from pipeline.inference.stream import Part, Stream
from pipeline.model.decode import decode
from pipeline.model.targets import scale_areas
from pipeline.scoring.confidence import ConfidenceSums
from pipeline.types import Array, Labels, Pixels, Window

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
    _windows: list[Window] = field(default_factory=list)
    _samples: list[Sample] = field(default_factory=list)
    _agreement: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        stream, file = self.stream, self.stream.preparation.original
        grid, finer = stream.preparation.shape, self._finer
        blocks = tuple(lines_of(range(0, n, stream.sizes.side), n, m) for n, m in zip(finer, file, strict=True))
        rows, columns = stream.core
        tops = (t for a in range(0, grid[0], stream.sizes.band) for t in range(a, a + stream.sizes.band, rows))
        tiles = (lines_of(tops, grid[0], file[0]), lines_of(range(0, grid[1], columns), grid[1], file[1]))
        slack = 0 if finer == grid else math.ceil(max(file[0] / grid[0], file[1] / grid[1]))
        self._seams = [Crossings((blocks[0], blocks[1]), file), Crossings(tiles, file, slack)]
        self._windows = choose_windows(finer, stream.sizes.side)
        self._samples = [Sample(self._on_file(window)) for window in self._windows]

    @property
    def _finer(self) -> tuple[int, int]:
        """Of the grid that objects are told apart on; see `Decoder.shape`."""
        grid, file = self.stream.preparation.shape, self.stream.preparation.original
        return grid if grid[0] * grid[1] > file[0] * file[1] else file

    def _on_file(self, window: Window) -> Window:
        """A window of the finer grid in the file: what has its centre there."""
        file = self.stream.preparation.original
        start, stop = (
            tuple(math.ceil(at * m / n - 0.5) for at, n, m in zip(corner, self._finer, file, strict=True))
            for corner in (window.start, window.stop)
        )
        return Window(start, stop)

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
        return [beside.submit(self._at_once, window) for window in self._windows]

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
        """A window of the finer grid predicted and decoded by itself, on the file's grid.

        What lies around it is seen too, so no border of a tile or block lies in it.
        """
        stream, finer, file = self.stream, self._finer, self.stream.preparation.original
        planes, start = self._planes(window)
        shrink = float(np.prod(finer)) / float(np.prod(stream.preparation.shape))
        labels = decode(planes, stream.model.record.target, scale_areas(stream.model.thresholds, shrink))
        down, across = (
            ((np.arange(s.start, s.stop) + 0.5) * (n / m)).astype(np.int64) - o
            for s, n, m, o in zip(self._on_file(window).slices, finer, file, start, strict=True)
        )
        return labels[down[:, None], across[None, :]]

    def _planes(self, window: Window) -> tuple[Pixels, tuple[int, ...]]:
        """Probabilities `(K, y, x)` of a window of the finer grid and what lies around it, and where they begin."""
        stream, finer, grid = self.stream, self._finer, self.stream.preparation.shape
        read, margin = self._around(window), stream.sizes.margin
        rows = ModelGrid(stream.source, stream.model.record.prepare.channels, stream.channel, stream.preparation)
        tiles = [Framed(rows.alone(read))]
        planes = next(iter(predict_tiles(count_apart(stream.engine), tiles, stream.preparation, stream.tta)))
        if finer == grid:
            return planes, read.start
        start = tuple(max(0, a - margin) for a in window.start)
        stop = tuple(min(n, b + margin) for b, n in zip(window.stop, finer, strict=True))
        down, top, bottom = axis_weights(grid[0], finer[0], start[0], stop[0])
        across, left, right = axis_weights(grid[1], finer[1], start[1], stop[1])
        (y, x) = read.start
        return resample(planes[:, top - y : bottom - y, left - x : right - x], down, across), start

    def _around(self, window: Window) -> Window:
        """What the network has to see for a window of the finer grid to be decoded: its own grid, on its stride."""
        stream, stride, halo = self.stream, tile_grid(self.stream.engine)[1], tile_grid(self.stream.engine)[0]
        start, stop = [], []
        for axis, (given, wanted) in enumerate(zip(self._finer, stream.preparation.shape, strict=True)):
            scale = wanted / given
            around = halo + math.ceil(stream.sizes.margin * scale) + 2
            low = math.floor(window.start[axis] * scale) - around
            high = math.ceil(window.stop[axis] * scale) + around
            start.append(max(0, low) // stride * stride)
            stop.append(min(stream.grid_shape[axis], -(-high // stride) * stride))
        return Window(tuple(start), tuple(stop))

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds it took, over the threads it had; stages run side by side."""
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
            "skipped": self.stream.skipped_megapixels,
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
