"""Which stage an image is in, and how long each stage took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.types import Image, ImageSource, Window

clock = time.perf_counter  # a benchmark may prefer processor time


@dataclass
class Stages:
    """Which stage an image is in (`at`, for the row of one that fails), and how long each took by itself."""

    at: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    _inner: float = 0.0

    @property
    def rounded(self) -> dict[str, float]:
        """To microseconds, as the ledger keeps them; without loading the model, which is no image's."""
        return {name: round(value, 6) for name, value in self.seconds.items() if name != "load"}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        outer, self._inner = self._inner, 0.0
        before, self.at = self.at, name
        start = clock()
        try:
            yield
            self.at = before
        finally:
            passed = clock() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._inner
            self._inner = outer + passed


class Watched:
    """An opened image whose reading is a stage of its own, whoever reads it."""

    def __init__(self, source: ImageSource, stages: Stages) -> None:
        self.path, self.shape, self.dtype, self.axes = source.path, source.shape, source.dtype, source.axes
        self.channels, self.geometry = source.channels, source.geometry
        self.levels, self.block = source.levels, source.block
        self._source, self._stages = source, stages

    def read(self, window: Window | None = None, level: int = 0) -> Image:
        with self._stages.stage("read"):
            return self._source.read(window, level)

    def again(self) -> "Watched":
        return Watched(self._source.again(), self._stages)
