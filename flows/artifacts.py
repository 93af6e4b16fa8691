"""What a person sees of a run in Prefect: a progress bar, a table of the failures, a link to the MLflow run."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows.progress import show_number
from pipeline.types import Event, Failed

EVERY = 2.0  # seconds between two updates
MOST_ROWS = 200


def artifact_key(name: str) -> str:
    """A name as Prefect takes it for an artifact: lower case letters, digits and dashes.

    >>> artifact_key("Plate 7/Träger_a")
    'plate-7-tr-ger-a'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"


class ShowProgress:
    """The `Watch` of a flow: one progress artifact a stage, and a log line every so often."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.artifacts: dict[str, UUID] = {}
        self.shown: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        ended = event.done >= event.total > 0
        if not ended and now - self.shown.get(event.stage, -EVERY) < EVERY:
            return
        self.shown[event.stage] = now
        percent = 100.0 * event.done / event.total if event.total else 0.0
        numbers = " · ".join(f"{key} {show_number(value)}" for key, value in event.fields.items())
        text = f"{event.stage}: {event.done} of {event.total}" + (f" · {numbers}" if numbers else "")
        if event.total > 1:  # what is done in one go needs no bar
            self._put(event.stage, percent, text)
        get_run_logger().info(text)

    def _put(self, stage: str, percent: float, text: str) -> None:
        if stage in self.artifacts:
            update_progress_artifact(self.artifacts[stage], progress=percent, description=text)
            return
        key = artifact_key(f"{self.job}-progress-{stage}")
        made = create_progress_artifact(progress=percent, key=key, description=text)
        self.artifacts[stage] = made if isinstance(made, UUID) else UUID(str(made))


def show_failures(job: str, failures: Sequence[Failed]) -> None:
    """A table of what went wrong and what to do; nothing where nothing did."""
    if not failures:
        return
    rows = [{"image": f.case, "stage": f.stage, "error": f.error, "what to do": f.hint} for f in failures[:MOST_ROWS]]
    more = f" (the first {MOST_ROWS}; all are in images.csv)" if len(failures) > MOST_ROWS else ""
    create_table_artifact(rows, key=artifact_key(f"{job}-failures"), description=f"{len(failures)} failed{more}")


def show_numbers(job: str, title: str, numbers: Mapping[str, Any]) -> None:
    """A small table of what came out."""
    lines = [f"| {key} | {show_number(value)} |" for key, value in numbers.items()]
    text = "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])
    create_markdown_artifact(text, key=artifact_key(f"{job}-result"), description=title)


def show_link(job: str, url: str) -> None:
    """The MLflow run; nothing where it has no address."""
    if url.startswith("http"):
        create_link_artifact(
            url,
            key=artifact_key(f"{job}-mlflow"),
            link_text="The run in MLflow",
            description="Pictures, counts and flags",
        )
