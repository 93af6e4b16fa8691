"""One image larger than memory, from file to files: labels, rows and pictures are written as its parts come."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from pipeline.config import ImageOptions
from pipeline.types import Array, Geometry, Image, ImageSource, Labels, Watch, Window

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.data.geojson import Piece
    from pipeline.data.pyramids import LabelPyramid
    from pipeline.data.sources import FileSource
    from pipeline.inference.stream import Part

log = logging.getLogger("maskline.segment")
OVERVIEW = 2_000_000  # pixels of the reduced image that the report's picture is made of


class Streamed(Protocol):
    """What is known of a streamed image once all its parts have been taken."""

    @property
    def statistics(self) -> Mapping[str, float | str]: ...
    @property
    def confidence(self) -> float: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


class Streaming(Streamed, Protocol):
    """What streams the objects of an opened image; see `pipeline.inference.streamed.Streamed`."""

    def parts(self) -> "Iterator[Part]": ...


class Streams(Protocol):
    """What can stream an opened image; see `pipeline.inference.segment.Segmenter`."""

    def stream(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch
    ) -> Streaming: ...


class Overview:
    """The image `(C, Y, X)` and its labels, reduced: averages of the one, samples of the other."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        height, width = shape[1:]
        self.step = max(1, int(np.ceil((height * width / OVERVIEW) ** 0.5)))
        small = (-(-height // self.step), -(-width // self.step))
        self.pixels: Array = np.zeros((shape[0], *small), dtype)
        self.labels: Labels = np.zeros(small, np.uint32)

    def _inside(self, window: Window) -> tuple[slice, slice]:
        y, x = (slice(-(-a // self.step), -(-b // self.step)) for a, b in zip(window.start, window.stop, strict=True))
        return y, x

    def add_pixels(self, core: Window, pixels: Array) -> None:
        y, x = self._inside(core)
        size = (x.stop - x.start, y.stop - y.start)
        if min(size) > 0:
            for plane, part in zip(self.pixels, pixels, strict=True):
                plane[y, x] = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA)

    def add_labels(self, window: Window, labels: Labels) -> None:
        y, x = self._inside(window)
        top, left = y.start * self.step - window.start[0], x.start * self.step - window.start[1]
        self.labels[y, x] = labels[top :: self.step, left :: self.step]


class _Rows:
    """The objects' table, written as rows come, and the sums that the image's own row is made of."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.area, self.intensity, self.cut = path, 0, 0.0, 0.0, 0
        self._writer: Any = None
        self._waiting: list[pd.DataFrame] = []

    def add(self, objects: "pd.DataFrame", cut: int) -> None:
        means = [name for name in objects.columns if name.startswith("intensity_mean_")]
        self.count += len(objects)
        self.cut += cut
        self.area += float(objects["area_px2"].sum())
        self.intensity += float(objects[means].to_numpy(np.float64).mean(axis=1).sum()) if len(objects) else 0.0
        self._waiting.append(objects)
        if sum(map(len, self._waiting)) >= 1 << 16:
            self._flush()

    def _flush(self) -> None:
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        full = [frame for frame in self._waiting if len(frame)] or self._waiting[:1]
        table = pa.Table.from_pandas(pd.concat(full, ignore_index=True), preserve_index=False)
        table = table.replace_schema_metadata(None)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._waiting = []

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class Large:
    """What a streamed image leaves behind; `sample` and `sample_labels` are its fullest core, at full resolution."""

    count: int
    area: float  # mean, px²
    intensity: float  # mean over objects and channels
    cut: int
    overview: Image
    overview_labels: Labels
    sample: Image
    sample_labels: Labels
    table: Path
    label_sha256: str
    outlines_sha256: str
    confidence: float
    statistics: Mapping[str, float | str]
    seconds: Mapping[str, float]  # stage -> seconds it took, over its threads; stages run side by side
    fractions: Mapping[str, float] = field(default_factory=dict)  # of class maps: columns of images.csv
    colours: tuple[tuple[int, int, int], ...] = ()  # of class maps


class _Fullest:
    """The core with the most objects, the first of several, with its labels once they are final."""

    def __init__(self) -> None:
        self.count = -1
        self.pixels: Array = np.zeros((1, 1, 1), np.uint8)
        self.labels: Labels = np.zeros((1, 1), np.uint32)
        self._core: Window | None = None

    def see(self, part: "Part") -> None:
        if len(part.objects) > self.count:
            self.count, self._core, self.pixels = len(part.objects), part.owned.core, part.pixels
            self.labels = np.zeros(part.pixels.shape[1:], np.uint32)

    def take(self, window: Window, labels: Labels) -> None:
        if window == self._core:
            self.labels = labels


@dataclass
class _Kept:
    """Where the parts of an image go as they come; `seconds` is the time this took."""

    overview: Overview
    rows: _Rows
    fullest: _Fullest
    pyramid: "LabelPyramid"
    seconds: float = 0.0

    def take(self, part: "Part") -> "Part":
        began = time.perf_counter()
        self.rows.add(part.objects, part.cut)
        self.overview.add_pixels(part.owned.core, part.pixels)
        self.fullest.see(part)
        for window, labels in part.labels:
            self.pyramid.put(window.start[0], window.start[1], labels)
            self.overview.add_labels(window, labels)
            self.fullest.take(window, labels)
        self.seconds += time.perf_counter() - began
        return part

    def written(self, path: Path) -> str:
        began = time.perf_counter()
        sha256 = self.pyramid.write(path)
        self.seconds += time.perf_counter() - began
        return sha256


def segment_large(
    source: "FileSource",
    segmenter: Streams,
    options: ImageOptions,
    scratch: Path,
    identity: str,
    label_path: Path,
    outline_path: Path | None,
    watch: Watch,
) -> Large:
    """Segment an opened 2-D image into `label_path`, a tiled pyramid, and its outlines into `outline_path` (GeoJSON).

    Labels are OME-Zarr where the path says so (of an OME-Zarr image), else OME-TIFF. `scratch` keeps what a killed run
    had done.
    """
    from pipeline.data.geojson import write_outlines
    from pipeline.data.pyramids import LabelPyramid

    scratch.mkdir(parents=True, exist_ok=True)
    streaming = segmenter.stream(source, options, scratch, identity, watch)
    shape: tuple[int, int] = (source.shape[1], source.shape[2])
    rows, outlines_sha256 = _Rows(scratch / "objects.parquet"), ""
    try:
        multiscale = source.multiscale if label_path.suffix == ".zarr" else None
        with LabelPyramid(scratch, shape, source.geometry, multiscale) as pyramid:
            kept = _Kept(Overview(source.shape, source.dtype), rows, _Fullest(), pyramid)
            if outline_path is None:
                deque(map(kept.take, streaming.parts()), maxlen=0)
            else:
                drawn = (piece for part in map(kept.take, streaming.parts()) for piece in _pieces(part))
                outlines_sha256 = write_outlines(outline_path, drawn)
            sha256 = kept.written(label_path)
    finally:
        rows.close()
    number = max(rows.count, 1)
    return Large(
        count=rows.count,
        area=rows.area / number,
        intensity=rows.intensity / number,
        cut=rows.cut,
        overview=Image(kept.overview.pixels, Geometry.pixels()),
        overview_labels=kept.overview.labels,
        sample=Image(kept.fullest.pixels, source.geometry),
        sample_labels=kept.fullest.labels,
        table=rows.path,
        label_sha256=sha256,
        outlines_sha256=outlines_sha256,
        confidence=streaming.confidence,
        statistics=streaming.statistics,
        seconds={**streaming.seconds, "write": kept.seconds},
    )


def _pieces(part: "Part") -> "Iterator[Piece]":
    """A block's objects as outlines are drawn of."""
    from pipeline.data.geojson import Piece

    top, left = part.owned.region.start
    columns = ["label", "bbox_top_px", "bbox_left_px", "bbox_bottom_px", "bbox_right_px", "confidence"]
    rows = part.objects[columns].itertuples(index=False)
    for own, (label, y0, x0, y1, x1, sure) in enumerate(rows, start=1):
        inside = part.owned.labels[y0 - top : y1 - top, x0 - left : x1 - left] == own
        yield Piece(int(label), int(y0), int(x0), inside, float(sure))


def describe_large(large: Large, source: ImageSource) -> dict[str, Any]:
    """The columns of images.csv, as those of a small image; how it looks is told of its fullest part."""
    from pipeline.results.quality import appearance
    from pipeline.runs.case_products import of_classes

    height, width = source.shape[1:]
    row = {
        "objects": large.count,
        "area": large.area if large.count else None,
        "density": large.count / (height * width / 1e6),
        "intensity": large.intensity if large.count else None,
        "height": height,
        "width": width,
        "planes": 1,
        "channels": source.shape[0],
        "dtype": str(source.dtype),
        **appearance(large.sample, large.sample_labels),
        "confidence": large.confidence,
        **{f"model_{name}": value for name, value in large.statistics.items()},
    }
    return of_classes(row, large.fractions) if large.fractions else row
