"""A first look at an image larger than memory: the statistics of all of it, and a place to judge its objects' size by.

Statistics come from the smallest level of the file's pyramid that still has a megapixel, else from windows drawn by a
fixed seed; both are taken once, so that every tile is prepared alike.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import PrepareConfig
from pipeline.model.prepare import Preparation, distinct, fit, for_all, share_channels
from pipeline.types import Array, ImageSource, Window

ENOUGH = 1_000_000  # pixels of a pyramid's level that statistics may come from
MOST = 32_000_000  # pixels of a level that is read at once
WINDOWS, SIDE = 16, 1024  # drawn windows and their sides, in file pixels


@dataclass(frozen=True)
class Survey:
    """`preparation` of the whole image at zoom 1, and the drawn window `(C, y, x)` with the most in it."""

    preparation: Preparation
    busiest: Array


def survey(
    source: ImageSource, config: PrepareConfig, *, stride: int, channel: int | None = None, seed: int = 0
) -> Survey:
    """Look at an opened 2-D image; channels are taken as the model does (`share_channels`). Raises ImageError."""
    height, width = source.shape[1:]
    windows = [share_channels(source.read(w).pixels, config.channels, channel) for w in _draw(height, width, seed)]
    level = _statistics_level(source)
    if level is None:
        planes = [distinct(w) for w in windows]
        sample = for_all(config.channels, np.concatenate([w.reshape(len(w), 1, -1) for w in planes], axis=2))
    else:
        sample = share_channels(source.read(level=level).pixels, config.channels, channel)
    preparation = replace(fit(sample, config, stride=stride), shape=(height, width), original=(height, width))
    return Survey(preparation, max(windows, key=lambda w: float(np.ascontiguousarray(w).astype(np.float32).std())))


def _statistics_level(source: ImageSource) -> int | None:
    sizes = [int(np.prod(shape)) for shape in source.levels]
    fitting = [level for level, size in enumerate(sizes) if level and ENOUGH <= size <= MOST]
    return fitting[-1] if fitting else None


def _draw(height: int, width: int, seed: int) -> list[Window]:
    generator = np.random.default_rng(seed)
    windows = []
    for _ in range(WINDOWS):
        top = int(generator.integers(max(1, height - SIDE + 1)))
        left = int(generator.integers(max(1, width - SIDE + 1)))
        windows.append(Window((top, left), (min(height, top + SIDE), min(width, left + SIDE))))
    return windows
