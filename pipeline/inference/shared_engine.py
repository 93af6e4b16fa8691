"""Several devices that work as one: tiles go to them in turn, answers come back in order.

The first tile of an image goes to the device that was given fewest pixels so far: a small image is one tile.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from queue import Empty, Full, Queue
from threading import Event, Lock
from typing import Generic, Protocol, TypeVar

from pipeline.inference.busy import busy_seconds
from pipeline.inference.forward import precision_of
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels

HELD = 16  # tiles and answers waiting at each device: two full batches
_LOOK = 0.05  # s between looks at whether anybody still wants answers

Item = TypeVar("Item")


class Device(Protocol):
    """What is asked of each."""

    name: str
    outputs: int
    core: int
    halo: int | None
    stride: int

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]: ...


class _Pipe(Generic[Item]):
    """A queue between two threads that lets both go when the work is stopped; None is its end."""

    def __init__(self, stopped: Event) -> None:
        self._queue: Queue[Item | None] = Queue(HELD)
        self._stopped = stopped

    def put(self, item: Item | None) -> bool:
        """Wait for room; False where the work was stopped meanwhile."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_LOOK)
            except Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Item]:
        while not self._stopped.is_set():
            try:
                item = self._queue.get(timeout=_LOOK)
            except Empty:
                continue
            if item is None:
                return
            yield item


def _run(engine: Device, preparation: Preparation, tiles: _Pipe[Array], answers: _Pipe[Pixels]) -> None:
    try:
        for answer in engine.map(tiles, preparation):
            if not answers.put(answer):
                return
    finally:
        answers.put(None)


class SharedEngine:
    """See `pipeline.inference.engines.Engine`. Each device has a thread; one more hands the tiles out."""

    def __init__(self, engines: Sequence[Device]) -> None:
        self._engines = list(engines)
        first = self._engines[0]
        self.name, self.outputs, self.halo, self.stride = first.name, first.outputs, first.halo, first.stride
        self.precision = " and ".join(sorted({precision_of(engine) for engine in self._engines}))
        self._given, self._counting = [0] * len(self._engines), Lock()  # pixels; images may be in the works together

    @property
    def core(self) -> int:
        """That of the device which takes least."""
        return min(engine.core for engine in self._engines)

    @property
    def busy(self) -> float:
        """See `pipeline.inference.busy.Timed`: the mean of the devices'."""
        return sum(busy_seconds(engine) or 0.0 for engine in self._engines) / len(self._engines)

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities of each tile, in order; `HELD` tiles and answers wait at each. Raises what one raised."""
        source = iter(tiles)
        tile = next(source, None)
        if tile is None:
            return
        start, stopped, count = self._begin_with(tile), Event(), len(self._engines)
        inward: list[_Pipe[Array]] = [_Pipe(stopped) for _ in range(count)]
        outward: list[_Pipe[Pixels]] = [_Pipe(stopped) for _ in range(count)]
        with ThreadPoolExecutor(count + 1, thread_name_prefix="device") as pool:
            work = [pool.submit(self._hand_out, tile, source, inward, start)]
            for engine, tiles_in, answers_out in zip(self._engines, inward, outward, strict=True):
                work.append(pool.submit(_run, engine, preparation, tiles_in, answers_out))
            del tile
            try:
                yield from _in_turn([iter(outward[(start + k) % count]) for k in range(count)])
            finally:
                stopped.set()
            for each in work:
                each.result()

    def _begin_with(self, tile: Array) -> int:
        """The device that was given fewest pixels by all who ask; this tile is its own at once."""
        with self._counting:
            start = self._given.index(min(self._given))
            self._given[start] += tile.size
            return start

    def _hand_out(self, first: Array, rest: Iterator[Array], pipes: Sequence[_Pipe[Array]], start: int) -> None:
        try:
            for number, tile in enumerate(chain([first], rest), start):
                place = number % len(pipes)
                if number > start:
                    with self._counting:
                        self._given[place] += tile.size
                if not pipes[place].put(tile):
                    return
        finally:
            for pipe in pipes:
                pipe.put(None)


def _in_turn(sources: Sequence[Iterator[Item]]) -> Iterator[Item]:
    """One of each in turn, until the first that has no more."""
    for source in cycle(sources):
        item = next(source, None)
        if item is None:
            return
        yield item
