"""How long an engine was at work: what a stage takes is told from what it waits for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, runtime_checkable


class Busy:
    """Seconds added up from any thread."""

    def __init__(self) -> None:
        self.seconds, self._adding = 0.0, Lock()

    @contextmanager
    def counted(self, share: int = 1) -> Iterator[None]:
        """Add the time of the block, by one of `share` threads that do the same."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = (time.perf_counter() - start) / share
            with self._adding:
                self.seconds += passed


@runtime_checkable
class Timed(Protocol):
    """An engine that says how long it was at tiles so far: the seconds of its threads, over their number."""

    @property
    def busy(self) -> float: ...


def busy_seconds(engine: object) -> float | None:
    """None of an engine that does not say."""
    return engine.busy if isinstance(engine, Timed) else None
