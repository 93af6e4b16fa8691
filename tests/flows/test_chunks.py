"""Chunks as tasks: none lost, never more at once than asked, tried again only where that can help."""

import pytest
from prefect.states import Completed, Failed

from flows import chunks
from flows.chunks import passes, submit_chunks
from pipeline.errors import OutputError
from pipeline.types import Chunk, Skipped


class Future:
    """A task that is finished as soon as it is waited for."""

    running = 0
    most = 0

    def __init__(self, work, chunk):
        self.work, self.chunk = work, chunk
        Future.running += 1
        Future.most = max(Future.most, Future.running)

    def wait(self):
        Future.running -= 1
        try:
            self.answer, self.state = self.work(self.chunk), Completed()
        except (OSError, ValueError) as error:
            self.answer, self.state = error, Failed()

    def result(self, raise_on_failure=True):
        if raise_on_failure and isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def futures(monkeypatch):
    Future.running = Future.most = 0
    monkeypatch.setattr(chunks.run_chunk, "submit", Future)
    return Future


def outcomes(chunk):
    return [Skipped(str(chunk.number), "")]


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (3, 3), (50, 10)])
def test_every_chunk_comes_back_once_and_in_order(futures, at_once, most):
    """Ten chunks, ten answers, never more running than asked."""
    work = [Chunk(number, ()) for number in range(10)]
    answers = list(submit_chunks(at_once)(outcomes, work))
    assert [answer[0].case for answer in answers] == [str(number) for number in range(10)]
    assert futures.most == most


def test_a_chunk_that_fails_for_good_ends_the_job_but_loses_nothing(futures):
    """What was submitted beside it is still handed over, and nothing new is begun."""

    def work(chunk):
        if chunk.number == 1:
            raise OSError(28, "No space left on device")
        return outcomes(chunk)

    seen = []
    with pytest.raises(OSError, match="No space left"):
        for answer in submit_chunks(3)(work, [Chunk(number, ()) for number in range(10)]):
            seen.append(answer[0].case)
    assert seen == ["0", "2", "3"]  # 3 was submitted when 0 came back, before 1 failed


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(28, "No space left on device"), True),
        (MemoryError(), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (ValueError(), False),
        (OutputError("a", "b", "c", "d"), False),
    ],
)
def test_only_what_can_pass_is_tried_again(error, again):
    """A share that was away may come back; a wrong file stays wrong."""
    assert passes(error) is again
    assert chunks._may_retry(chunks.run_chunk, None, Failed(data=error)) is again


def test_tasks_hash_and_keep_nothing():
    """Paths cross the border, Prefect caches and persists nothing."""
    from prefect.cache_policies import NO_CACHE

    assert chunks.run_chunk.cache_policy == NO_CACHE
    assert chunks.run_chunk.persist_result is False
    assert chunks.run_chunk.retries == 2
