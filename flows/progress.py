"""Live progress on a terminal, plain lines elsewhere: the `Watch` of the command line.

On a terminal a stage is one bar with its rate, the numbers of the last event and the time left; anywhere else (a log, a
pipe) it is a line at the start, every `LOG_EVERY` seconds, and at the end.
"""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from pipeline.types import Event

LOG_EVERY = 10.0
UNITS = {
    "train": "steps",
    "segment": "images",
    "ingest": "images",
    "load": "images",
    "evaluate": "images",
    "fetch": "MB",
    "unpack": "files",
}
LEFT = "seconds_left"


def show_number(value: float | int | str) -> str:
    """A number as a person writes it.

    >>> show_number(0.12345), show_number(12345), show_number(1234.5), show_number("cpu")
    ('0.1235', '12,345', '1,234.5', 'cpu')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def show_seconds(seconds: float) -> str:
    """A time as a person says it.

    >>> show_seconds(8.4), show_seconds(95), show_seconds(7260)
    ('8 s', '1 min 35 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass
class Stage:
    """What is known of one stage: when it began, and with how much of it done already."""

    name: str
    done: int
    began: float
    last: int = 0
    said: float = 0.0
    finished: bool = False
    bar: TaskID | None = None

    def rate(self, done: int, now: float) -> float:
        """Units a second since the stage began; 0.0 while nothing can be said."""
        passed = now - self.began
        return (done - self.done) / passed if passed > 0 else 0.0


def describe(event: Event, stage: Stage, now: float) -> str:
    """Rate, and the event's own numbers: `3.2 images/s · objects 1,204 · failed 1`. Rates are this run's own."""
    rate, unit = stage.rate(event.done, now), UNITS.get(event.stage.rpartition(": ")[2])
    told = {key: value for key, value in event.fields.items() if key != LEFT and not key.endswith("/s")}
    parts = [f"{rate:.3g} {unit}/s" if rate >= 0.1 else f"{60 * rate:.2g} {unit}/min"] if unit and rate > 0 else []
    parts += [f"{key.replace('_', ' ')} {show_number(value)}" for key, value in told.items()]
    return " · ".join(parts)


def time_left(event: Event, stage: Stage, now: float) -> float | None:
    """Seconds until the end: those the job itself says, else at this stage's rate so far."""
    said = event.fields.get(LEFT)
    if isinstance(said, int | float):
        return float(said)
    rate = stage.rate(event.done, now)
    return (event.total - event.done) / rate if rate > 0 and event.total else None


class LiveProgress:
    """A context manager that is itself the `Watch`: `with LiveProgress() as watch: job(..., watch=watch)`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.stages: dict[str, Stage] = {}
        self.bars = self._make_bars() if self.stream.isatty() else None

    def _make_bars(self) -> Progress:
        console = Console(file=self.stream)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        return Progress(
            *columns, TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(compact=True), console=console
        )

    def __enter__(self) -> "LiveProgress":
        if self.bars:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        stage = self.stages.get(event.stage)
        if stage is None:
            stage = self.stages[event.stage] = Stage(event.stage, event.done, began=now)
        elif event.done < stage.last:  # the stage begins again: another epoch
            stage.done, stage.began, stage.finished = event.done, now, False
        stage.last = event.done
        if self.bars:
            self._draw(self.bars, event, stage, now)
        else:
            self._log(event, stage, now)

    def _draw(self, bars: Progress, event: Event, stage: Stage, now: float) -> None:
        left = time_left(event, stage, now)
        numbers = " · ".join(
            [describe(event, stage, now), *([f"{show_seconds(left)} left"] if left and left >= 1 else [])]
        ).strip(" ·")
        if stage.bar is None:
            stage.bar = bars.add_task(event.stage, total=event.total or None, completed=event.done, numbers=numbers)
        bars.update(stage.bar, completed=event.done, total=event.total or None, numbers=numbers)

    def _log(self, event: Event, stage: Stage, now: float) -> None:
        ended = bool(event.total) and event.done >= event.total and not stage.finished
        if not ended and now - stage.said < LOG_EVERY and stage.said:
            return
        stage.said, stage.finished = now, stage.finished or ended
        left = time_left(event, stage, now)
        total = f"/{event.total:,}" if event.total else ""
        parts = [f"{event.stage} {event.done:,}{total}", describe(event, stage, now)]
        parts += [f"{show_seconds(left)} left"] if left and left >= 1 else []
        self.stream.write(" · ".join(part for part in parts if part) + "\n")
        self.stream.flush()
