"""Engines of the CPU: tiles side by side on threads, one computing thread inside each.

A tile's answer must not depend on how many threads there are, so nothing inside a tile is split between them, except
where a single tile is all there is (a small image): then all threads work on it, or a share of them where other small
images are at theirs. All ways give the same bits with the engines that are here (tested), as each output is summed by
one thread in one order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from threading import Lock

from pipeline.inference.busy import Busy
from pipeline.inference.cores import Framed
from pipeline.inference.forward import Raw, raw_tile
from pipeline.inference.tile_sizes import largest_streamed
from pipeline.inference.tuning import tuned_core
from pipeline.inference.workers import Workers
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels


def _all(first: list[Framed], rest: Iterator[Framed]) -> Iterator[Framed]:
    while first:
        yield first.pop(0)
    yield from rest


class ThreadedEngine(ABC):
    """See `pipeline.inference.engines.Engine`; what differs is how one tile is run."""

    name: str

    def __init__(self, model: TrainedModel, threads: int) -> None:
        record = model.record
        self.threads, self.digest = threads, model.digest
        self.outputs, self.channels = len(record.outputs), record.prepare.channels
        self.halo, self.stride = record.halo, record.stride
        self._at_work = Busy()
        self._starting, self._started = Lock(), dict[int, Workers[Raw, Pixels]]()
        self._single = 0  # tiles in the works that are all there is of their image

    @abstractmethod
    def runner(self, at_once: int, inside: int) -> tuple[Callable[[Raw], Pixels], Callable[[], None] | None]:
        """What runs one tile on one of `at_once` threads with `inside` computing threads; what each begins with."""

    @cached_property
    def core(self) -> int:
        """The quickest side of a tile's core in px, measured once on this machine."""
        core = tuned_core(self)
        self.rest()  # what ran the tiles that were tried keeps the memory of the largest
        return core

    def rest(self) -> None:
        """Let go of the memory that tiles took, until more come; images in the works keep what runs theirs."""
        with self._starting:
            self._started.clear()

    @property
    def streamed(self) -> int:
        """See `pipeline.inference.cores.streamed_core`."""
        return largest_streamed(self.name)

    def start(self, at_once: int, inside: int) -> Workers[Raw, Pixels]:
        """`at_once` threads that take tiles, with `inside` computing threads each."""
        run, begin = self.runner(at_once, inside)

        def counted(raw: Raw) -> Pixels:
            with self._at_work.counted(at_once):
                return run(raw)

        return Workers(at_once, counted, begin)

    @property
    def busy(self) -> float:
        """See `pipeline.inference.busy.Timed`."""
        return self._at_work.seconds

    def _workers(self, at_once: int) -> Workers[Raw, Pixels]:
        """Started once, whoever asks first; all threads are shared by the tiles that are run at once."""
        with self._starting:
            if at_once not in self._started:
                self._started[at_once] = self.start(at_once, self.threads // at_once)
            return self._started[at_once]

    def _alone(self, tiles: list[Framed], preparation: Preparation) -> Iterator[Pixels]:
        """A small image's only tile. Side by side two need less time than with all threads on one after the other."""
        for tile in tiles:
            with self._starting:
                self._single += 1
                at_once = min(self._single, self.threads)
            try:
                (answer,) = self._workers(at_once).map([raw_tile(tile.pixels, preparation, tile.frame)])
            finally:
                with self._starting:
                    self._single -= 1
            yield answer

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities `(K, y, x)` float32 of each raw tile `(C, y, x)`, in order; threads + 1 tiles are held."""
        return self.map_cores(map(Framed, tiles), preparation)

    def map_cores(self, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
        """The same of the tiles' cores."""
        rest = iter(tiles)
        first = list(islice(rest, 2))
        if len(first) < 2:
            return self._alone(first, preparation)
        raws = (raw_tile(tile.pixels, preparation, tile.frame) for tile in _all(first, rest))
        return self._workers(self.threads).map(raws)
