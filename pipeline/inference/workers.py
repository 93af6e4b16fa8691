"""Jobs on threads, answers in the order of the jobs, few of them in memory at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Generic, TypeVar

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Workers(Generic[Job, Answer]):
    """`threads` threads that stay; each runs `begin` once before its first job."""

    def __init__(self, threads: int, work: Callable[[Job], Answer], begin: Callable[[], None] | None = None) -> None:
        self.threads, self._work = threads, work
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        ready = Barrier(threads)

        def start() -> None:
            try:
                if begin is not None:
                    begin()
            finally:
                ready.wait()  # so that each thread takes one of these, and all have begun when we go on

        for started in [self._pool.submit(start) for _ in range(threads)]:
            started.result()

    def map(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """An answer a job, in order; at most `threads + 1` jobs are held. Raises what a job or `jobs` raised."""
        waiting: deque[Future[Answer]] = deque()
        source = iter(jobs)
        try:
            for job in source:
                waiting.append(self._pool.submit(self._work, job))
                del job
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
