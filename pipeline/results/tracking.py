"""The only module that speaks MLflow: runs, curves, pictures, reports and the model registry.

Without an address everything lies in one SQLite file and one folder below `maskline_home()/mlflow`; the variable
`MLFLOW_TRACKING_URI` is obeyed. What jobs log on the way (`Run`, `register`) never stops them: a tracker that fails is
warned of once, and dropped after three failures in a row. What a person asks for (`resolve`, `models`, `promote`)
raises TrackingError. MLflow is imported when a tracking is opened, never at module level.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

from pipeline.data.files import maskline_home
from pipeline.errors import TrackingError
from pipeline.results.marks import is_alive, machine, process_mark
from pipeline.results.registry import Registry, Version
from pipeline.results.run import Run

T = TypeVar("T")
Values = Mapping[str, Any]
log = logging.getLogger("maskline.tracking")
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",  # MLflow reads no other value
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is away costs seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on chat traces
_MAX_FAILURES = 3
_HINT = "check MLFLOW_TRACKING_URI and its server, or the free space and rights of the maskline home folder"


def embedded_uri() -> str:
    """The address of the embedded store, `sqlite:///.../mlflow/mlflow.db` below `maskline_home()`."""
    return f"sqlite:///{(maskline_home() / 'mlflow' / 'mlflow.db').as_posix()}"


def artifact_root() -> Path:
    """Where the artifacts of a store without a server lie, whatever the current folder is."""
    return maskline_home() / "mlflow" / "artifacts"


def quiet() -> None:
    """Settle MLflow's manners before it is imported: no telemetry, no chatter. What the user has set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def prepare_store(uri: str) -> None:
    """Make a SQLite store that is not there yet: once, whole or not at all, however many processes ask together.

    MLflow's own first start is neither: its migrations collide. The file is made under a temporary name while a file
    lock is held, then renamed. Other kinds of address are left alone.
    """
    if not uri.startswith("sqlite:"):
        return
    from filelock import FileLock
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    if database in (None, "", ":memory:") or Path(str(database)).exists():
        return
    quiet()
    file = Path(str(database)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=300):
        if file.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        fresh = file.with_name(f"{file.name}.new")
        fresh.unlink(missing_ok=True)  # left by one that was killed here
        make: Any = SqlAlchemyStore  # untyped
        make(f"sqlite:///{fresh.as_posix()}", artifact_root().as_uri()).engine.dispose()
        fresh.replace(file)


@dataclass
class Tracking:
    """A connection to one experiment of one MLflow store; `open_tracking` makes it."""

    experiment: str
    uri: str
    client: Any = None
    experiment_id: str = ""
    trouble: str = field(default="", init=False)
    failures: int = field(default=0, init=False)

    @property
    def served(self) -> bool:
        """Whether a server stands at `uri`, which then also decides where artifacts lie."""
        return self.uri.startswith(("http:", "https:"))

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """What `action` answers, or None after one warning: the border that no failure of the tracker passes."""
        if self.failures >= _MAX_FAILURES:
            return None
        try:
            answer = action()
        except Exception as error:  # noqa: BLE001 - the tracker's border
            self.failures += 1
            if not self.trouble:
                self.trouble = f"could not {what}: {type(error).__name__}: {str(error)[:500]}"
                log.warning("tracking: %s; the job goes on without; %s", self.trouble, _HINT)
            return None
        self.failures = 0
        return answer

    def connect(self) -> None:
        """Open the store and enter the experiment, which is made or restored where need be."""
        quiet()
        prepare_store(self.uri)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self.uri)
        found: Any = client.get_experiment_by_name(self.experiment)
        if found is None:
            folder = artifact_root() / hashlib.sha256(self.experiment.encode()).hexdigest()[:12]
            place = None if self.served else folder.as_uri()
            try:
                client.create_experiment(self.experiment, artifact_location=place, tags=_KIND)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was faster
                    raise
            found = client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        self.client, self.experiment_id = client, str(found.experiment_id)

    def address(self, run_id: str) -> str:
        """The page of a run on the server; "" where there is none."""
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}" if self.served else ""

    def metrics(self, run_id: str, values: Mapping[str, float], now: int, step: int) -> None:
        """Write at most 1,000 metrics; `now` in ms."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Write at most 100 parameters; what a resumed run has already said stays, for it cannot be said otherwise."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        self.client.log_batch(run_id, params=[Param(k, v) for k, v in values.items() if k not in known])

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Write at most 100 tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def reap(self) -> None:
        """Mark as KILLED the runs that dead processes of this machine left RUNNING."""
        for run in self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
            mark = run.data.tags.get("maskline.process", "")
            if not mark or run.data.tags.get("maskline.machine") != machine() or is_alive(mark):
                continue
            now = self.client.get_run(run.info.run_id)  # it may have ended, or been resumed, between list and look
            if now.info.status == "RUNNING" and now.data.tags.get("maskline.process") == mark:
                self.client.set_tag(run.info.run_id, "maskline.failure", f"process {mark} died without a word")
                self.client.set_terminated(run.info.run_id, "KILLED")

    @contextmanager
    def start(self, name: str, params: Values, tags: Values | None = None, resume: str = "") -> Iterator[Run]:
        """A run that ends as its block does: FINISHED, FAILED where it raises, KILLED by Ctrl-C.

        The machine's load and memory are logged beside it. `resume` is the id of an earlier run to go on with.
        """
        run = Run(self, self.attempt("start a run", lambda: self._begin(name, tags or {}, resume)) or "")
        run.log_params(params)
        monitor = self.attempt("watch the machine", lambda: _watch_machine(run.id, self.uri)) if run.id else None
        try:
            yield run
        except BaseException as error:
            run.status = "FAILED" if isinstance(error, Exception) else "KILLED"
            run.set_tags({"maskline.failure": f"{type(error).__name__}: {error}"})
            raise
        finally:
            if monitor is not None:
                self.attempt("stop watching the machine", lambda: _unwatch(monitor))
            self._end(run)

    def _begin(self, name: str, tags: Values, resume: str) -> str:
        marks = {"maskline.machine": machine(), "maskline.process": process_mark(os.getpid())}
        if resume:
            self.client.update_run(resume, status="RUNNING")
            self.tags(resume, marks)
        run = resume or str(self.client.create_run(self.experiment_id, run_name=name, tags=marks).info.run_id)
        Run(self, run).set_tags(tags)
        return run

    def _end(self, run: Run) -> None:
        if run.id:
            self.failures = min(self.failures, _MAX_FAILURES - 1)  # tried even where logging was dropped
            self.attempt("end the run", lambda: self.client.set_terminated(run.id, run.status))

    def register(
        self, model: Path, name: str, run: Run | None = None, alias: str | None = None, tags: Values | None = None
    ) -> str:
        """The number of the version of `name` that holds exactly the files of `model`, made where there is none.

        The files are kept with `run` (one of its own where None). `alias` is set only while nobody holds it: moving
        it is `promote`'s. Answers "" where the tracker has failed.
        """

        def run_id() -> str:
            if run is not None and run.id:
                return run.id
            with self.start(f"register {name}", {"model": model}) as own:
                return own.id

        create = partial(self._registry.create, model, name, run_id, tags or {}, alias)
        return self.attempt(f"register {name}", create) or ""

    def _ask(self, where: str, action: Callable[[], T]) -> T:
        from mlflow.exceptions import MlflowException

        if self.client is None:
            raise TrackingError(where, self.trouble, f"a store at {self.uri}", _HINT)
        try:
            return action()
        except (MlflowException, OSError) as error:
            raise TrackingError(where, str(error), f"an answer from {self.uri}", _HINT) from error

    @property
    def _registry(self) -> Registry:
        return Registry(self.client, self._fetch)

    def models(self) -> list[Version]:
        """Every registered version: name, version, aliases, created (ms), run_id, source, digest, tags."""
        return self._ask("models", lambda: self._registry.versions())

    def promote(self, name: str, version: str, alias: str = "champion") -> None:
        """Give `alias` to a version, taking it from the one that held it."""
        found = self._ask(f"model {name}", lambda: self._registry.find(name, version))
        self._ask(f"model {name}", lambda: self.client.set_registered_model_alias(name, alias, found["version"]))

    def resolve(self, name: str, which: str = "champion") -> Path:
        """The local folder of a version, by alias or number: fetched once, checked against its digest."""
        return self._ask(f"model {name}", lambda: self._registry.folder(name, which))

    def fetch_artifact(self, run_id: str, name: str, folder: Path) -> None:
        """Fetch a file that a run keeps into `folder`; raises TrackingError where run or file are not known."""
        self._ask(f"run {run_id}", lambda: self.client.download_artifacts(run_id, name, str(folder)))

    def _fetch(self, source: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        if source.startswith("file:"):
            return Path(url2pathname(urlparse(source).path))
        kept = folder / hashlib.sha256(f"{self.uri} {source}".encode()).hexdigest()[:16]
        if not kept.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                got = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=self.uri)
                Path(got).rename(kept)
        return kept


def _watch_machine(run_id: str, uri: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    watch: Any = SystemMetricsMonitor  # untyped
    monitor = watch(run_id, sampling_interval=5, resume_logging=True, tracking_uri=uri)
    monitor.collect_metrics()
    monitor.publish_metrics(monitor.aggregate_metrics())  # so that the shortest run has a point too
    monitor.start()
    return monitor


def _unwatch(monitor: Any) -> None:
    monitor.finish()
    monitor.collect_metrics()
    monitor.publish_metrics(monitor.aggregate_metrics())
    monitor.mlflow_logger.flush()


def open_tracking(experiment: str, uri: str | None = None) -> Tracking:
    """Connect to `uri`, else MLFLOW_TRACKING_URI, else the embedded store; what fails is warned of, never raised."""
    tracking = Tracking(experiment, uri or os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri())
    tracking.attempt(f"open the store at {tracking.uri}", tracking.connect)
    if tracking.client is None:
        tracking.failures = _MAX_FAILURES
    tracking.attempt("close the runs of dead processes", tracking.reap)
    return tracking
