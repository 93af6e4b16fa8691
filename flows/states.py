"""How a flow ends: its final state is the truth, whatever its tasks' states say."""

from typing import Any, Protocol

from prefect import State
from prefect.states import Completed, Failed

from flows.progress import show_number, show_seconds

WITH_FAILURES, TOO_MANY_FAILED = 3, 4


class Summary(Protocol):
    """What `pipeline.runs.segment_folder` answers, as far as a state needs it."""

    @property
    def done(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def objects(self) -> int | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def exit_code(self) -> int: ...


def describe_summary(summary: Summary) -> str:
    """One sentence: `12 done, 3 skipped, 1 failed; 1,204 objects in 8 s`, or `class maps in 8 s`."""
    counts = f"{summary.done:,} done, {summary.skipped:,} skipped, {summary.failed:,} failed"
    made = "class maps" if summary.objects is None else f"{show_number(summary.objects)} objects"
    return f"{counts}; {made} in {show_seconds(summary.seconds)}"


def final_state(summary: Summary) -> State[Any]:
    """Completed, Completed named CompletedWithFailures, or Failed when too many images failed."""
    message = describe_summary(summary)
    if summary.exit_code == TOO_MANY_FAILED:
        return Failed(message=f"too many failed: {message}", data=summary)
    if summary.exit_code == WITH_FAILURES:
        return Completed(name="CompletedWithFailures", message=message, data=summary)
    return Completed(message=message, data=summary)
