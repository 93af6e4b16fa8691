"""Any history of a results folder ends where a single run over the same images ends."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from squares import draw, fingerprint, make_model
from threshold_segmenter import ThresholdSegmenter

from pipeline.config import SegmentConfig
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder

NAMES = ("a", "b/c", "b/d", "é")
names, seeds = st.sampled_from(NAMES), st.integers(0, 3)


class Stopped(Exception):
    """The run was stopped, as a kill would."""


class ResultsFolder(RuleBasedStateMachine):
    """Images come and change, runs are stopped, outputs are damaged; `settle` checks that all of it heals."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.images, self.out = self.folder / "images", self.folder / "out"
        self.model = make_model(self.folder / "model")
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(segment_case, "load_segmenter", lambda job: ThresholdSegmenter())
        draw(self.images / "first.png", 2)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            shutil.rmtree(self.folder)

    def config(self, out: Path, chunk: float = 0.001) -> SegmentConfig:
        return SegmentConfig(folder=self.images, out=out, model=str(self.model), track=False, chunk_seconds=chunk)

    def pick(self, below: str, number: int) -> Path | None:
        files = sorted(path for path in (self.out / below).rglob("*") if path.is_file())
        return files[number % len(files)] if files else None

    @rule(name=names, seed=seeds)
    def put_image(self, name: str, seed: int) -> None:
        draw(self.images / f"{name}.png", 1 + seed, seed, colour=seed == 3)

    @rule(name=names)
    def break_image(self, name: str) -> None:
        if (self.images / f"{name}.png").exists():
            (self.images / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")

    @rule(after=st.integers(0, 2))
    def stop_a_run(self, after: int) -> None:
        def stops(work, chunks):
            for number, chunk in enumerate(chunks):
                if number == after:
                    raise Stopped
                yield work(chunk)

        try:
            segment_folder(self.config(self.out), stops)
        except Stopped:
            assert (self.out / ".maskline/holder.json").exists()

    @rule(
        below=st.sampled_from(["labels", ".maskline/ledger", ".maskline/shards"]),
        number=st.integers(0, 9),
        cut=st.booleans(),
    )
    def damage(self, below: str, number: int, cut: bool) -> None:
        path = self.pick(below, number)
        if path is None or path.name.endswith(".damaged"):
            return
        if cut:
            path.write_bytes(path.read_bytes()[:-7])
        else:
            path.unlink()

    @rule(name=st.sampled_from(["images.csv", "objects.parquet", ".maskline/tables.json", "report.html"]))
    def lose_a_table(self, name: str) -> None:
        (self.out / name).unlink(missing_ok=True)

    @rule()
    def settle(self) -> None:
        segment_folder(self.config(self.out))
        assert segment_folder(self.config(self.out)).done == 0
        shutil.rmtree(self.folder / "calm", ignore_errors=True)
        segment_folder(self.config(self.folder / "calm", 30.0))
        assert fingerprint(self.out) == fingerprint(self.folder / "calm")


ResultsFolder.TestCase.settings = settings(
    max_examples=8, stateful_step_count=8, suppress_health_check=list(HealthCheck)
)


class TestResultsFolder(ResultsFolder.TestCase):
    """Collected by pytest: every example is a history."""
