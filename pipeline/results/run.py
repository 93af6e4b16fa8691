"""What a job says about itself while it runs. Nothing here raises: the tracker stands between."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.results.marks import batches, clean_names, flatten


class Tracker(Protocol):
    """What a run needs of the tracking it belongs to."""

    client: Any

    def attempt(self, what: str, action: Callable[[], Any]) -> Any: ...

    def address(self, run_id: str) -> str: ...

    def metrics(self, run_id: str, values: Mapping[str, float], now: int, step: int) -> None: ...

    def params(self, run_id: str, values: Mapping[str, str]) -> None: ...

    def tags(self, run_id: str, values: Mapping[str, str]) -> None: ...


@dataclass
class Run:
    """One tracked run. `id` is "" and every call does nothing where the tracker has failed."""

    tracker: Tracker
    id: str
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED"

    @property
    def url(self) -> str:
        """Where to look at the run; "" for a store without a server."""
        return self.tracker.address(self.id) if self.id else ""

    def _do(self, what: str, action: Callable[[], object]) -> None:
        if self.id:
            self.tracker.attempt(what, action)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """All numbers of one epoch in one batched call (of at most 1,000); those that are not finite are left out."""
        now = int(time.time() * 1000)
        names = clean_names(values)
        finite = {names[name]: float(value) for name, value in values.items() if math.isfinite(value)}
        for part in batches(finite, 1000):
            self._do("log metrics", partial(self.tracker.metrics, self.id, part, now, step))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings, nested or flat."""
        for part in batches(flatten(params), 100):
            self._do("log parameters", partial(self.tracker.params, self.id, part))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags of at most 8,000 characters each."""
        names = clean_names(tags)
        for part in batches({names[name]: str(value)[:8000] for name, value in tags.items()}, 100):
            self._do("set tags", partial(self.tracker.tags, self.id, part))

    def set_note(self, markdown: str) -> None:
        """The description that the run's page opens with (at most 8,000 characters)."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, as artifacts below `folder`."""

        def action() -> None:
            keep = self.tracker.client.log_artifacts if path.is_dir() else self.tracker.client.log_artifact
            keep(self.id, str(path), folder or None)

        self._do(f"keep {path.name}", action)

    def log_picture(self, picture: bytes, name: str) -> None:
        """Keep bytes, as a rule an encoded PNG or JPEG, as the artifact `name`: `samples/epoch-010.png`."""

        def action() -> None:
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch, Path(name).name)
                file.write_bytes(picture)
                self.tracker.client.log_artifact(self.id, str(file), name.rpartition("/")[0] or None)

        self._do(f"keep {name}", action)

    def log_text(self, text: str, name: str) -> None:
        """Keep text (UTF-8) as the artifact `name`."""
        self.log_picture(text.encode(), name)

    def fail(self, reason: str) -> None:
        """Let the run end as FAILED although nothing is raised: too many images failed, say."""
        self.status = "FAILED"
        self.set_tags({"maskline.failure": reason})
