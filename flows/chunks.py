"""Chunks as Prefect tasks: the `RunChunks` of the flows.

One task a chunk. Paths cross the border, arrays never do; nothing is cached or persisted by Prefect, since the ledger
beside the outputs is the truth. Only what can pass is tried again: the ledger makes a second try cheap.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.tasks import Task

from pipeline.errors import MasklineError
from pipeline.types import Chunk, Outcome, RunChunks

Work = Callable[[Chunk], list[Outcome]]
Future = PrefectFuture[list[Outcome]]
CAN_PASS = (OSError, EOFError, MemoryError)  # ConnectionError, TimeoutError and a full disk are OSErrors
CANNOT_PASS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def passes(error: BaseException) -> bool:
    """Whether trying again can help: a share that was away, a worker that ran out of memory; never a wrong file.

    >>> passes(ConnectionResetError()), passes(FileNotFoundError()), passes(ValueError())
    (True, False, False)
    """
    return isinstance(error, CAN_PASS) and not isinstance(error, (*CANNOT_PASS, MasklineError))


def _may_retry(task: Task[..., object], run: TaskRun, state: State[object]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and passes(error)


@task(
    name="segment-chunk",
    task_run_name="chunk {chunk.number}",
    retries=2,
    retry_delay_seconds=[2.0, 15.0],
    retry_condition_fn=_may_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_chunk(work: Work, chunk: Chunk) -> list[Outcome]:
    """One chunk of images, one outcome an image."""
    return work(chunk)


def submit_chunks(at_once: int = 1) -> RunChunks:
    """A `RunChunks` that keeps `at_once` chunks running and loses none of their results.

    A chunk whose task fails for good ends the job, after those already submitted have been handed over.
    """

    def run(work: Work, chunks: Sequence[Chunk]) -> Iterator[list[Outcome]]:
        todo = iter(chunks)
        waiting: deque[Future] = deque()
        broken: BaseException | None = None
        for chunk in islice(todo, at_once):
            waiting.append(run_chunk.submit(work, chunk))
        while waiting:
            future = waiting.popleft()
            future.wait()
            error = failure(future)
            if error is not None:
                broken = broken or error
                continue
            waiting.extend(run_chunk.submit(work, following) for following in islice(todo, int(broken is None)))
            yield future.result()
        if broken is not None:
            raise broken

    return run


def failure(future: Future) -> BaseException | None:
    """The error that ended a finished task, or None."""
    if future.state.is_completed():
        return None
    error: object = future.result(raise_on_failure=False)
    if isinstance(error, BaseException):
        return error
    return RuntimeError(f"a chunk's task ended as {future.state.name}: {future.state.message}")
