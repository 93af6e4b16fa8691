"""What a run says about itself: run.json, maskline.log and the MLflow run."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.files import atomic_write
from pipeline.results.lock import writing
from pipeline.runs.collect_results import Collected
from pipeline.runs.model_record import class_key, read_record
from pipeline.runs.planned_run import Plan
from pipeline.types import FORMAT_VERSION, Done, Failed, Outcome

if TYPE_CHECKING:
    from pipeline.results.run import Run
    from pipeline.results.tracking import Tracking

log = logging.getLogger("maskline")
_PACKAGES = ("maskline", "torch", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pandas", "pyarrow")
SHIPPED = "shipped:nuclei"


class _LogFile(logging.FileHandler):
    """A log that cannot be written is silent: that the disk is full is the run's to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        return


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the `maskline` loggers say (from DEBUG on) to `path` while the block runs."""
    with writing(path.parent):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    except Exception:
        log.exception("the run did not finish")
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        handler.close()


@dataclass
class Tally:
    """What this run has done so far."""

    done: int = 0
    objects: int = 0
    failed: list[Failed] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            self.done += 1
            self.objects += outcome.objects
            for stage, seconds in outcome.seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        elif isinstance(outcome, Failed):
            self.failed.append(outcome)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """What this machine is, as far as it matters to speed."""
    import psutil

    found: dict[str, Any] = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
    torch = sys.modules.get("torch")  # not loaded only to say so
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def digest_data(rows: tuple[Mapping[str, Any], ...]) -> str:
    """Digest of which files there were and what was in them."""
    lines = "".join(f"{json.dumps(row['path'])} {row['sha256']}\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()


def describe_run(
    plan: Plan,
    collected: Collected,
    tally: Tally,
    started: datetime,
    ledger_root: str,
    exit_code: int,
    run: "Run | None",
) -> dict[str, Any]:
    """The content of run.json."""
    seconds = (datetime.now(UTC) - started).total_seconds()
    config = plan.config.model_dump(mode="json")
    record = read_record(plan.model)
    classes = class_key(record)
    return {
        "format_version": FORMAT_VERSION,
        "folder": str(plan.config.folder),
        "out": str(plan.config.out),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "exit_code": exit_code,
        "images": len(plan.cases),
        "done": tally.done,
        "skipped": len(plan.skipped),
        "failed": sum(row["status"] == "failed" for row in collected.rows),
        "objects": None if classes else collected.objects,
        "model": {"name": plan.config.model, "path": str(plan.model), "digest": plan.model_digest},
        "thresholds": record.get("thresholds", {}),
        "classes": classes,
        "config": config,
        "config_digest": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "settings_digest": plan.settings,
        "data_digest": digest_data(collected.rows),
        "ledger_root": ledger_root,
        "statistics": {
            "megapixels": round(sum(_size(row) for row in collected.rows), 6),
            "images_per_second": round(tally.done / seconds, 4) if seconds > 0 else 0.0,
            "stage_seconds": {stage: round(value, 4) for stage, value in sorted(tally.seconds.items())},
        },
        "seeds": {},  # nothing is drawn when segmenting
        "versions": _versions(),
        "hardware": hardware(),
        "mlflow": {"run_id": run.id, "url": run.url} if run is not None else {},
    }


def _size(row: Mapping[str, Any]) -> float:
    return float(row.get("height", 0) * row.get("width", 0) * row.get("planes", 1)) / 1e6


def write_run(out: Path, description: Mapping[str, Any]) -> None:
    """Write run.json."""
    with writing(out):
        atomic_write(out / "run.json", json.dumps(description, indent=2, ensure_ascii=True).encode() + b"\n")


class Tracked:
    """The MLflow run of a segmentation: begun when there is something to tell, and not at all otherwise."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run: Run | None = None
        self.tracking: Tracking | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Tracked":
        self._stack.__enter__()
        if any(planned.reason != "failed before" for planned in self.plan.todo):
            self.begin()
        return self

    def __exit__(self, *what: Any) -> None:
        self._stack.__exit__(*what)

    def begin(self) -> None:
        """Start the run unless it is started, or the config says not to."""
        if self.run is not None or not self.plan.config.track:
            return
        from pipeline.results.tracking import open_tracking

        config, plan = self.plan.config, self.plan
        self.tracking = open_tracking("maskline-segmentation")
        params = config.model_dump(mode="json") | {"model_digest": plan.model_digest, "settings_digest": plan.settings}
        tags = {"maskline.job": "segment", "maskline.folder": config.folder, "maskline.model_digest": plan.model_digest}
        self.run = self._stack.enter_context(self.tracking.start(f"segment {config.folder.name}", params, tags))

    def publish(self, description: Mapping[str, Any], out: Path, exit_code: int) -> None:
        """Numbers, failures, tables and the report of what is finished."""
        run, tracking = self.run, self.tracking
        if run is None or tracking is None:
            return
        shipped = description["model"]["name"] == SHIPPED  # version 1 of nuclei, unless there is one already
        version = tracking.register(self.plan.model, "nuclei", run, "champion") if shipped else ""
        names = ("images", "done", "skipped", "failed", "objects", "seconds")
        counts = {name: description[name] for name in names if description[name] is not None}
        statistics = description["statistics"]
        speeds = {name: statistics[name] for name in ("megapixels", "images_per_second")}
        run.log_metrics(counts | speeds | {f"seconds_{k}": v for k, v in statistics["stage_seconds"].items()})
        digests = {f"maskline.{name}": description[name] for name in ("ledger_root", "data_digest", "config_digest")}
        run.set_tags(digests | ({"maskline.model_version": version} if version else {}))
        run.set_note(_note(description))
        for path in (out / "report.html", *sorted(out.glob("report-*.html"))[:8], out / "images.csv", out / "run.json"):
            if path.is_file():
                run.log_file(path)
        if exit_code == 4:
            run.fail(f"{description['failed']} of {description['images']} images failed")


def _note(description: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{description[name]:,} {name}" for name in ("done", "skipped", "failed"))
    objects = description["objects"]
    made = "class maps" if objects is None else f"{objects:,} objects"
    return (
        f"**{description['images']:,} images of `{description['folder']}`**: {counts}; "
        f"{made} in {description['seconds']:.0f} s.\n\n"
        "Pictures, counts and flags: *Artifacts*, `report.html`. One row an image: `images.csv`."
    )
