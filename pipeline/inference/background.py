"""Tiles that hold nothing but background are not predicted, where the model's record says how to know them.

The rule is about what a tile shows, halo included: its normalised values, of all channels together, lie within
`low`..`high` and within `tolerance` of each other, so the tile is grey and flat. What the record promises of such a
tile is that its foreground stays below the threshold everywhere; it is measured once (`foreground_of_flat`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.inference.busy import busy_seconds
from pipeline.inference.cores import Framed, map_cores, rest, streamed_core
from pipeline.inference.forward import identity, precision_of
from pipeline.model.bundle import FlatBackground
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels

if TYPE_CHECKING:
    from pipeline.inference.engines import Engine


def is_background(tile: Array, preparation: Preparation, rule: FlatBackground) -> bool:
    """Whether the record's rule holds for a raw tile `(C, y, x)`."""
    axes = tuple(range(1, tile.ndim))
    ends = np.stack([tile.min(axis=axes), tile.max(axis=axes)], axis=1)[:, :, None]  # (C, 2, 1): an image of two pixels
    values = preparation.normalise(ends)[:, :, 0]
    lowest, highest = float(values.min()), float(values.max())
    return highest - lowest <= rule.tolerance and lowest >= rule.low and highest <= rule.high


class SkippingEngine:
    """An engine that answers 0 for background, at once.

    `skipped` are the pixels of tiles that were answered so, halo included; an image counts `apart` from all others.
    """

    def __init__(self, engine: "Engine", rule: FlatBackground) -> None:
        self._engine, self._rule, self.skipped = engine, rule, 0
        self.name, self.outputs, self.halo, self.stride = engine.name, engine.outputs, engine.halo, engine.stride
        self.precision = precision_of(engine)

    @property
    def core(self) -> int:
        """The other engine's."""
        return self._engine.core

    @property
    def streamed(self) -> int:
        """The other engine's."""
        return streamed_core(self._engine)

    def rest(self) -> None:
        """As the other engine does."""
        rest(self._engine)

    @property
    def busy(self) -> float:
        """The other engine's."""
        return busy_seconds(self._engine) or 0.0

    def apart(self) -> "SkippingEngine":
        """The same with a count of its own, for whoever takes all answers on one thread at a time."""
        return SkippingEngine(self._engine, self._rule)

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """As the other engine's, in order; of tiles that are skipped only the shape is held."""
        return self.map_cores(map(Framed, tiles), preparation)

    def map_cores(self, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
        """The same of the tiles' cores."""
        order: deque[_Skipped | None] = deque()  # None for a tile that is predicted

        def predicted() -> Iterator[Framed]:
            for tile in tiles:
                if is_background(tile.pixels, preparation, self._rule):
                    order.append(_Skipped(int(np.prod(tile.pixels.shape[1:])), tile.core_shape))
                else:
                    order.append(None)
                    yield tile

        for answer in map_cores(self._engine, predicted(), preparation):
            yield from self._blanks(order)
            order.popleft()
            yield answer
        yield from self._blanks(order)

    def _blanks(self, order: "deque[_Skipped | None]") -> Iterator[Pixels]:
        while order:
            tile = order[0]
            if tile is None:
                return
            order.popleft()
            self.skipped += tile.pixels  # here, as tiles may be taken on another thread, many ahead
            yield np.zeros((self.outputs, *tile.core), np.float32)


class _Skipped(NamedTuple):
    """Of a tile: its pixels, halo included, and the shape of its core."""

    pixels: int
    core: tuple[int, ...]


def count_apart(engine: "Engine") -> "Engine":
    """The engine for one image, whose skipped pixels are counted by themselves."""
    return engine.apart() if isinstance(engine, SkippingEngine) else engine


def skipped_pixels(engine: "Engine") -> int:
    """Pixels of tiles that were answered as background, halo included; 0 of an engine that skips none."""
    return engine.skipped if isinstance(engine, SkippingEngine) else 0


def foreground_of_flat(engine: "Engine", channels: int, rule: FlatBackground, side: int, steps: int = 9) -> float:
    """The largest foreground probability that an engine gives for tiles which the rule calls background.

    They are `side` px wide and as wild as the rule allows: constant, noise, stripes and a disc `tolerance` high, on
    levels from `low` to `high`, in all channels alike and in each alone, so a rule can be tried before it is recorded.
    """
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    patterns = [
        np.zeros((side, side)),
        random.random((side, side)),
        (random.random((side, side)) > 0.5) * 1.0,
        (y // 8 % 2) * 1.0,
        np.hypot(y - side / 2, x - side / 2) < 10,
        np.hypot(y % 32 - 16, x % 32 - 16) < 8,
        np.hypot(y - side / 2, x - side / 2) >= 10,
    ]
    levels = np.linspace(rule.low, max(rule.low, rule.high - rule.tolerance), steps)

    def tiles() -> Iterator[Array]:
        for level in levels:
            for pattern in patterns:
                plane = (level + rule.tolerance * pattern).astype(np.float32)
                yield np.repeat(plane[None], channels, axis=0)
                for channel in range(channels if channels > 1 else 0):
                    alone = np.full((channels, side, side), level, np.float32)
                    alone[channel] = plane
                    yield alone

    return max(float(answer[0].max()) for answer in engine.map(tiles(), identity(channels, (side, side))))
