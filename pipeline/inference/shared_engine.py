"""Several devices that work as one: tile i goes to device i modulo their number, answers come back in order."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from queue import Empty, Full, Queue
from threading import Event
from typing import Generic, Protocol, TypeVar

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


def _hand_out(tiles: Iterable[Array], pipes: Sequence[_Pipe[Array]]) -> None:
    try:
        for number, tile in enumerate(tiles):
            if not pipes[number % len(pipes)].put(tile):
                return
    finally:
        for pipe in pipes:
            pipe.put(None)


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

    @property
    def core(self) -> int:
        """That of the device which takes least."""
        return min(engine.core for engine in self._engines)

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities of each tile, in order; `HELD` tiles and answers wait at each. Raises what one raised."""
        stopped, count = Event(), len(self._engines)
        inward: list[_Pipe[Array]] = [_Pipe(stopped) for _ in range(count)]
        outward: list[_Pipe[Pixels]] = [_Pipe(stopped) for _ in range(count)]
        with ThreadPoolExecutor(count + 1, thread_name_prefix="device") as pool:
            work = [pool.submit(_hand_out, tiles, inward)]
            for engine, tiles_in, answers_out in zip(self._engines, inward, outward, strict=True):
                work.append(pool.submit(_run, engine, preparation, tiles_in, answers_out))
            try:
                yield from _in_turn([iter(pipe) for pipe in outward])
            finally:
                stopped.set()
            for each in work:
                each.result()


def _in_turn(sources: Sequence[Iterator[Item]]) -> Iterator[Item]:
    """One of each in turn, until the first that has no more."""
    for source in cycle(sources):
        item = next(source, None)
        if item is None:
            return
        yield item
