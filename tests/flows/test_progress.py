"""Progress: lines where there is no terminal, a bar where there is."""

import io

import pytest

from flows import progress
from flows.progress import LiveProgress, Stage, describe, time_left
from pipeline.types import Event


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time as the test says it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock):
    """One line at the start, one every ten seconds, one at the end, whatever the number of events."""
    stream = io.StringIO()
    with LiveProgress(stream) as watch:
        for done in range(101):
            watch(Event("segment", done, 100, {"objects": 10 * done, "failed": 0}))
            clock[0] += 0.25
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # at 0 s, 10 s, 20 s and at the end after 25 s
    assert lines[0] == "segment 0/100 · objects 0 · failed 0"
    assert lines[1] == "segment 40/100 · 4 images/s · objects 400 · failed 0 · 15 s left"
    assert lines[-1] == "segment 100/100 · 4 images/s · objects 1,000 · failed 0"


def test_what_was_done_before_does_not_count_for_the_rate(clock):
    """A resumed run starts at 50 of 100: the rate is that of this run."""
    stage = Stage("segment", 50, began=100.0)
    event = Event("segment", 60, 100)
    assert describe(event, stage, 110.0) == "1 images/s"
    assert time_left(event, stage, 110.0) == 40.0


def test_an_unknown_total_is_not_shown(clock):
    """A server that does not say how long a file is."""
    stream = io.StringIO()
    LiveProgress(stream)(Event("fetch", 3, 0, {"file": "a.zip"}))
    assert stream.getvalue() == "fetch 3 · file a.zip\n"


def test_slow_rates_are_said_by_the_minute():
    """Less than one in ten seconds is nothing a person reads as a rate."""
    assert describe(Event("segment", 2, 30), Stage("segment", 0, began=0.0), 60.0) == "2 images/min"
    assert describe(Event("report", 1, 2), Stage("report", 0, began=0.0), 60.0) == ""


def test_what_the_job_says_of_the_time_left_is_believed():
    """A training knows its budget; its own rate fields are not told twice."""
    event = Event("train", 5, 10, {"epoch": 2, "images/s": 9.0, "seconds_left": 90})
    stage = Stage("train", 0, began=0.0)
    assert time_left(event, stage, 10.0) == 90
    assert describe(event, stage, 10.0) == "0.5 steps/s · epoch 2"


def test_a_stage_that_begins_again_keeps_its_bar(clock):
    """Ten epochs are one bar, and one line each where there is no terminal."""
    for stream, shown in ((Terminal(), 1), (io.StringIO(), 0)):
        with LiveProgress(stream) as watch:
            for epoch in range(10):
                for step in range(1, 4):
                    watch(Event("train", step, 3, {"epoch": epoch}))
            assert len(watch.bars.tasks if watch.bars else []) == shown
        if not shown:
            assert [line.split(" ")[1] for line in stream.getvalue().splitlines()] == ["1/3", *["3/3"] * 10]


def test_a_bar_where_there_is_a_terminal():
    """The bar shows stage, how far, and the numbers."""
    stream = Terminal()
    with LiveProgress(stream) as watch:
        watch(Event("segment", 0, 8))
        watch(Event("segment", 8, 8, {"objects": 77}))
    shown = stream.getvalue()
    assert "segment" in shown and "8/8" in shown and "objects 77" in shown
