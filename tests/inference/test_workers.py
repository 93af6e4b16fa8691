"""Answers come in the order of the jobs, few jobs are held, and what fails is raised where it is waited for."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.inference.workers import Workers


def test_answers_keep_the_order_of_the_jobs() -> None:
    """Early jobs take longest here, and still come first; the work is spread over three threads."""
    seen = set()

    def square(job: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.002 * (10 - job))
        return job * job

    assert list(Workers(3, square).map(range(10))) == [job * job for job in range(10)]
    assert len(seen) == 3


def test_few_jobs_are_taken_ahead() -> None:
    """When the first answer is out, at most threads + 1 jobs were asked for."""
    taken = []

    def jobs() -> Iterator[int]:
        for job in range(100):
            taken.append(job)
            yield job

    answers = Workers(2, lambda job: job).map(jobs())
    assert next(answers) == 0 and len(taken) == 3
    assert next(answers) == 1 and len(taken) == 4


def test_every_thread_begins_once() -> None:
    """Before any job."""
    begun: list[int] = []
    workers = Workers(4, lambda job: len(begun), lambda: begun.append(threading.get_ident()))
    assert len(set(begun)) == 4
    assert set(workers.map(range(20))) == {4}


def test_what_a_job_raises_is_raised_and_the_rest_is_dropped() -> None:
    """The error of job 3 arrives in its place, after the answers of 0, 1 and 2; the workers can be used again."""

    def work(job: int) -> int:
        if job == 3:
            raise ValueError("job 3")
        return job

    workers = Workers(2, work)
    answers = workers.map(range(1000))
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="job 3"):
        next(answers)
    assert list(workers.map([5, 6])) == [5, 6]


def test_what_the_jobs_source_raises_is_raised() -> None:
    """A tile that cannot be read."""

    def jobs() -> Iterator[int]:
        yield 1
        raise OSError("cannot read")

    with pytest.raises(OSError, match="cannot read"):
        list(Workers(2, lambda job: job).map(jobs()))


def test_what_begin_raises_is_raised() -> None:
    """And no thread is left waiting for the others."""

    def begin() -> None:
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        Workers(3, lambda job: job, begin)
