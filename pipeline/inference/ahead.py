"""What one thread makes, another takes: a few things ahead."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")
_END = object()


def ahead(things: Iterable[Thing], most: int) -> Generator[Thing, None, None]:
    """The same things in the same order, made on a thread of their own, at most `most` of them waiting.

    Raises what `things` raised.

    >>> list(ahead(range(5), most=2))
    [0, 1, 2, 3, 4]
    """
    source = iter(things)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as maker:
        waiting = deque(maker.submit(next, source, _END) for _ in range(most))
        try:
            while (thing := waiting.popleft().result()) is not _END:
                waiting.append(maker.submit(next, source, _END))
                yield thing  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
