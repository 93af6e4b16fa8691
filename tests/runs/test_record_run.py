"""What a run says about itself: to its log, to run.json, to MLflow."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipeline.runs.record_run import Tally, digest_data, logging_to
from pipeline.types import Done, Failed, Skipped


class Recorder:
    """Stands in for tracking: remembers what it is told."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []
        self.registered: list[tuple[str, str | None]] = []

    @contextmanager
    def start(self, name, params, tags=None, resume=""):
        run = SimpleNamespace(id=f"run{len(self.runs)}", url="http://here", params=params, tags=dict(tags or {}))
        run.metrics, run.files, run.reason, run.ended = {}, [], "", ""
        run.log_metrics = lambda values, step=0: run.metrics.update(values)
        run.set_tags = run.tags.update
        run.set_note = lambda text: run.tags.update(note=text)
        run.log_file = lambda path, folder="": run.files.append(path.name)
        run.log_picture = lambda data, name: run.files.append(name)
        run.fail = lambda reason: setattr(run, "reason", reason)
        self.runs.append(run)
        try:
            yield run
            run.ended = "FINISHED"
        except BaseException:
            run.ended = "FAILED"
            raise

    def register(self, model, name, run=None, alias=None, tags=None):
        self.registered.append((name, alias))
        return "1"


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("pipeline.results.tracking.open_tracking", lambda *_: recorder)
    return recorder


def test_a_run_is_told_of_with_numbers_digests_and_the_report(run, recorder, tmp_path):
    """Parameters, counts, stage times, ledger root, report, images.csv and run.json."""
    summary = run(track=True)
    (told,) = recorder.runs
    assert (summary.run_id, summary.run_url) == ("run0", "http://here")
    assert told.ended == "FINISHED"
    assert (told.metrics["done"], told.metrics["failed"], told.metrics["objects"]) == (6, 0, summary.objects)
    assert "seconds_measure" in told.metrics
    assert told.files == ["report.html", "images.csv", "run.json", "gallery.png"]
    assert len(told.tags["maskline.ledger_root"]) == 64
    assert told.params["model_digest"] == told.tags["maskline.model_digest"]
    assert "**6 images · " in told.tags["note"]
    assert recorder.registered == []
    assert '"run_id": "run0"' in (tmp_path / "out/run.json").read_text()


def test_nothing_new_is_not_told_of(run, recorder, images):
    """A nightly run with nothing to do, or with the same failures again, leaves no run behind."""
    (images / "broken.png").write_bytes(b"")
    run(track=True)
    run(track=True)
    assert len(recorder.runs) == 1
    (images / "other.png").write_bytes(b"")
    run(track=True)
    assert len(recorder.runs) == 2


def test_failures_that_change_are_told_of(run, recorder, images):
    """The same file fails, but for another reason: the tables are new, and so is the run."""
    (images / "broken.png").write_bytes(b"")
    run(track=True)
    (images / "broken.png").write_bytes(b"no image either")
    run(track=True)
    assert len(recorder.runs) == 2


def test_too_many_failures_are_a_failed_run(run, recorder, images):
    """What the exit code says, the run's status says."""
    for name in "abc":
        (images / f"{name}.png").write_bytes(b"")
    assert run(track=True).exit_code == 4
    assert recorder.runs[0].reason == "3 of 9 images failed"


def test_a_run_that_breaks_ends_as_failed(run, recorder):
    """No run stays open."""

    def breaks(work, chunks):
        raise RuntimeError("the cluster is gone")
        yield

    with pytest.raises(RuntimeError):
        run(track=True, run_chunks=breaks)
    assert recorder.runs[0].ended == "FAILED"


def test_the_shipped_model_is_registered_on_first_use(run, recorder, monkeypatch, tmp_path):
    """Version 1 of nuclei, champion unless there is one."""
    from squares import make_model

    from pipeline import shipped

    make_model(tmp_path / "package/nuclei")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    run(track=True, model="shipped:nuclei")
    assert recorder.registered == [("nuclei", "champion")]
    assert recorder.runs[0].tags["maskline.model_version"] == "1"


def test_untracked_runs_do_not_open_the_store(run, monkeypatch):
    """--no-track."""
    monkeypatch.setattr("pipeline.results.tracking.open_tracking", None)
    assert run().run_id == ""


def test_tally_counts_what_it_hears():
    """Done adds objects and seconds, failures are kept, the skipped are none of its business."""
    tally = Tally()
    for outcome in (Done("a", 2, {}, {}, {"read": 1.0}), Done("b", 3, {}, {}, {"read": 0.5}), Skipped("c", "done")):
        tally.add(outcome)
    tally.add(Failed("d", "open", "e", "h"))
    assert (tally.done, tally.objects, tally.seconds, len(tally.failed)) == (2, 5, {"read": 1.5}, 1)


def test_data_digest_knows_names_and_content():
    """Another name or another content is another digest."""
    rows = [({"path": "a", "sha256": "1"},), ({"path": "b", "sha256": "1"},), ({"path": "a", "sha256": "2"},), ()]
    assert len({digest_data(row) for row in rows}) == 4


def test_log_is_appended_and_let_go(tmp_path):
    """Two runs, one log; afterwards nobody holds the file; what broke a run is in it."""
    log = logging.getLogger("maskline.segment")
    before = list(logging.getLogger("maskline").handlers)
    for word in ("first", "второй"):
        with logging_to(tmp_path / "maskline.log"):
            log.info(word)
    with pytest.raises(RuntimeError), logging_to(tmp_path / "maskline.log"):
        raise RuntimeError("broken pipe dream")
    text = (tmp_path / "maskline.log").read_text(encoding="utf-8")
    assert text.index("first") < text.index("второй") < text.index("broken pipe dream")
    assert logging.getLogger("maskline").handlers == before


@pytest.mark.slow
def test_a_real_store_holds_what_was_told(run, tmp_path, monkeypatch):
    """The embedded MLflow: counts, note, report and tables of a finished run."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    summary = run(track=True)
    from mlflow import MlflowClient

    from pipeline.results.tracking import embedded_uri

    client = MlflowClient(embedded_uri())
    kept = client.get_run(summary.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["objects"] == summary.objects
    assert {file.path for file in client.list_artifacts(summary.run_id)} >= {"report.html", "images.csv", "run.json"}
