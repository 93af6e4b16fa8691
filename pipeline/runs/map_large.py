"""One class map larger than memory, from file to files: labels, sums and pictures are written as its parts come."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.config import ImageOptions
from pipeline.runs.case_products import fractions
from pipeline.runs.segment_large import Large, Overview, Streamed
from pipeline.types import Array, Geometry, Image, ImageSource, Labels, Watch

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.data.sources import FileSource
    from pipeline.inference.class_stream import MapPart
    from pipeline.scoring.class_sums import ClassSums


class Streaming(Streamed, Protocol):
    """What maps the classes of one opened image; see `pipeline.inference.class_stream.ClassMapping`."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]: ...
    @property
    def sums(self) -> "ClassSums": ...

    def parts(self) -> "Iterator[MapPart]": ...
    def table(self) -> "pd.DataFrame": ...


class Maps(Protocol):
    """What can map the classes of an opened image; see `pipeline.inference.direct.DirectSegmenter`."""

    def map(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch
    ) -> Streaming: ...


class _Richest:
    """The part with the most classes, the first of several: what is told of how the image looks is told of it."""

    def __init__(self) -> None:
        self.count = 0
        self.pixels: Array = np.zeros((1, 1, 1), np.uint8)
        self.labels: Labels = np.zeros((1, 1), np.uint32)

    def see(self, part: "MapPart") -> None:
        count = np.unique(part.labels).size
        if count > self.count:
            self.count, self.pixels, self.labels = count, part.pixels, part.labels


def map_large(
    source: "FileSource",
    segmenter: Maps,
    options: ImageOptions,
    scratch: Path,
    identity: str,
    label_path: Path,
    watch: Watch,
) -> Large:
    """Map the classes of an opened 2-D image into `label_path`, a tiled pyramid.

    Labels are OME-Zarr where the path says so (of an OME-Zarr image), else OME-TIFF. `scratch` keeps what a killed run
    had done.
    """
    from pipeline.data.pyramids import LabelPyramid

    scratch.mkdir(parents=True, exist_ok=True)
    streaming = segmenter.map(source, options, scratch, identity, watch)
    overview, richest, writing = Overview(source.shape, source.dtype), _Richest(), 0.0
    multiscale = source.multiscale if label_path.suffix == ".zarr" else None
    with LabelPyramid(scratch, (source.shape[1], source.shape[2]), source.geometry, multiscale) as pyramid:
        for part in streaming.parts():
            began = time.perf_counter()
            overview.add_pixels(part.core, part.pixels)
            overview.add_labels(part.core, part.labels)
            richest.see(part)
            pyramid.put(part.core.start[0], part.core.start[1], part.labels)
            writing += time.perf_counter() - began
        began = time.perf_counter()
        sha256 = pyramid.write(label_path)
        writing += time.perf_counter() - began
    table = scratch / "objects.parquet"
    streaming.table().to_parquet(table, index=False, compression="zstd")
    return Large(
        count=0,
        area=0.0,
        intensity=0.0,
        cut=0,
        overview=Image(overview.pixels, Geometry.pixels()),
        overview_labels=overview.labels,
        sample=Image(richest.pixels, source.geometry),
        sample_labels=richest.labels,
        table=table,
        label_sha256=sha256,
        outlines_sha256="",
        confidence=streaming.confidence,
        statistics=streaming.statistics,
        seconds={**streaming.seconds, "write": writing},
        fractions=fractions(streaming.sums.pixels, streaming.classes),
        colours=streaming.colours,
    )
