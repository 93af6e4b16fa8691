"""Tiles whose halo is looked at, but not answered: engines that know it leave out what the cores do not need."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels

Frame = Sequence[int]  # px around a core: top, left, bottom, right
ALL_CORE: Frame = (0, 0, 0, 0)


class Framed(NamedTuple):
    """A raw tile `(C, y, x)` and how much of it lies around its core: the halo or, where the image ends, less."""

    pixels: Array
    frame: Frame = ALL_CORE

    @property
    def core(self) -> tuple[slice, slice]:
        """Where the core lies, `(y, x)`."""
        top, left, bottom, right = self.frame
        return slice(top, self.pixels.shape[-2] - bottom), slice(left, self.pixels.shape[-1] - right)

    @property
    def core_shape(self) -> tuple[int, int]:
        """How large it is."""
        y, x = self.core
        return y.stop - y.start, x.stop - x.start


@runtime_checkable
class AnswersCores(Protocol):
    """An engine that does so. It keeps memory between tiles, and can let go of it."""

    def map_cores(self, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
        """As `Engine.map`, of the tiles' cores alone."""
        ...

    def rest(self) -> None: ...


class _Engine(Protocol):
    @property
    def core(self) -> int: ...

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]: ...


def streamed_core(engine: _Engine) -> int:
    """The side of a tile's core where memory is bounded: the engine's, or less where it says so (`streamed`)."""
    return min(engine.core, getattr(engine, "streamed", engine.core))


def rest(engine: object) -> None:
    """Let an engine let go of what it keeps; tiles may come again."""
    if isinstance(engine, AnswersCores):
        engine.rest()


def map_cores(engine: _Engine, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
    """Probabilities `(K, y, x)` float32 of the cores of tiles, in their order, by any engine."""
    if isinstance(engine, AnswersCores):
        return engine.map_cores(tiles, preparation)
    return _cut_out(engine, tiles, preparation)


def _cut_out(engine: _Engine, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
    cores: deque[tuple[slice, slice]] = deque()

    def whole() -> Iterator[Array]:
        for tile in tiles:
            cores.append(tile.core)
            yield tile.pixels

    for answer in engine.map(whole(), preparation):
        yield answer[(slice(None), *cores.popleft())]
