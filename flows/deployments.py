"""What `maskline serve` offers in Prefect: five deployments; `python -m flows.deployments` is the runner behind them.

Every flow run is a process of that runner and has its environment: MASKLINE_HOME, the addresses, no telemetry. Work
pools have no such parent; for them prefect.yaml carries the same as job variables.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.files import maskline_home

NAMES = (
    "segment-folder/segment-folder",
    "segment-folder/nightly",
    "train-nuclei/train-nuclei",
    "evaluate-model/evaluate-model",
    "ingest-folder/ingest-folder",
)


@dataclass(frozen=True)
class Nightly:
    """What the scheduled deployment does, and when; `cron` is in `timezone`."""

    folder: Path
    out: Path
    cron: str = "0 2 * * *"
    timezone: str = "UTC"

    def as_environment(self) -> dict[str, str]:
        """For the runner's process; `from_environment` is its inverse."""
        return {
            "MASKLINE_NIGHTLY_FOLDER": str(self.folder),
            "MASKLINE_NIGHTLY_OUT": str(self.out),
            "MASKLINE_NIGHTLY_CRON": self.cron,
            "MASKLINE_NIGHTLY_TIMEZONE": self.timezone,
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Nightly":
        home = maskline_home()
        return cls(
            Path(environment.get("MASKLINE_NIGHTLY_FOLDER", home / "inbox")),
            Path(environment.get("MASKLINE_NIGHTLY_OUT", home / "nightly")),
            environment.get("MASKLINE_NIGHTLY_CRON", cls.cron),
            environment.get("MASKLINE_NIGHTLY_TIMEZONE", cls.timezone),
        )


def make_deployments(nightly: Nightly) -> list[Any]:
    """The five deployments, as `prefect.serve` takes them. Flows are found by module, as installed."""
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.evaluate import evaluate_model_flow
    from flows.ingest import ingest_folder_flow
    from flows.segment import segment_folder_flow
    from flows.train import train_nuclei_flow

    shared: dict[str, Any] = {"entrypoint_type": EntrypointType.MODULE_PATH, "tags": ["maskline"], "paused": False}
    scheduled: dict[str, Any] = {
        "schedule": Cron(nightly.cron, timezone=nightly.timezone),
        "parameters": {"folder": str(nightly.folder), "out": str(nightly.out), "may_be_empty": True},
        "concurrency_limit": 1,
        "description": f"Every file in {nightly.folder} that is new or changed, on schedule; results in {nightly.out}.",
    }
    return [
        segment_folder_flow.to_deployment("segment-folder", **shared),
        segment_folder_flow.to_deployment("nightly", **shared, **scheduled),
        train_nuclei_flow.to_deployment("train-nuclei", **shared),
        evaluate_model_flow.to_deployment("evaluate-model", **shared),
        ingest_folder_flow.to_deployment("ingest-folder", **shared),
    ]


def main() -> None:
    """Register the deployments and work on their runs until told to stop."""
    from prefect import serve

    limit = int(os.environ.get("MASKLINE_RUNS_AT_ONCE", "1"))
    nightly = Nightly.from_environment(os.environ)
    serve(*make_deployments(nightly), limit=limit, pause_on_shutdown=False, print_starting_message=False)


if __name__ == "__main__":
    main()
