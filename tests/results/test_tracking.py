"""Runs, curves and models reach the store that was asked for, and the store never stops a job."""

import doctest
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.results import marks
from pipeline.results import tracking as module
from pipeline.results.marks import folder_digest, is_alive, process_mark
from pipeline.results.run import Run
from pipeline.results.tracking import Tracking, embedded_uri, open_tracking, prepare_store


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """A store made once, for copying: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{file.as_posix()}")
    return file


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A maskline home without a store; whatever the test does, the current folder must stay empty."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path / "home"
    assert list(here.iterdir()) == []


@pytest.fixture
def home(empty_home, fresh_store):
    """A maskline home with an empty store in it."""
    (empty_home / "mlflow").mkdir(parents=True)
    shutil.copy(fresh_store, empty_home / "mlflow" / "mlflow.db")
    return empty_home


def make_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "model.json").write_text('{"format_version": 1}')
    return folder


def start_python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )


def test_a_file_that_a_run_keeps_is_given_back(home, tmp_path):
    """Into a folder; a run or a file that is not there is said."""
    tracking = open_tracking("evaluation")
    with tracking.start("one", {}) as run:
        run.log_text("kept", "counts.json")
    tracking.fetch_artifact(run.id, "counts.json", tmp_path)
    assert (tmp_path / "counts.json").read_text() == "kept"
    for run_id, name in ((run.id, "other.json"), ("0" * 32, "counts.json")):
        with pytest.raises(TrackingError):
            tracking.fetch_artifact(run_id, name, tmp_path)


def test_run_is_kept_with_all_it_said(home, tmp_path):
    """A run's settings, numbers, texts, pictures and files are found in the store under the home folder."""
    tracking = open_tracking("segment")
    report = tmp_path / "report.html"
    report.write_text("<html>")
    with tracking.start("plate7", {"model": {"name": "nuclei", "version": 1}}, {"maskline.manifest": "abc"}) as run:
        run.log_metrics({"objects": 7, "images#done": 2, "iou/дом": 0.5, "iou/лес": 0.25})
        run.set_note("**2 images**")
        run.log_file(report)
        run.log_text("all well", "notes/log.txt")
        run.log_picture(b"\x89PNG", "gallery.png")
    found = tracking.client.get_run(run.id)
    assert tracking.uri == embedded_uri() and (home / "mlflow" / "mlflow.db").exists()
    assert found.info.status == "FINISHED" and found.info.run_name == "plate7"
    assert found.data.params == {"model.name": "nuclei", "model.version": "1"}
    assert (found.data.metrics["objects"], found.data.metrics["images_done"]) == (7, 2)
    assert (found.data.metrics["iou/дом"], found.data.metrics["iou/лес"]) == (0.5, 0.25)
    assert found.data.tags["mlflow.note.content"] == "**2 images**" and found.data.tags["maskline.manifest"] == "abc"
    folder = Path(found.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(home / "mlflow" / "artifacts")
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"report.html", "notes/log.txt", "gallery.png"}
    assert run.url == ""  # nobody serves a file


def test_experiment_opens_on_runs(home):
    """The experiment is of the kind that MLflow's pages show as runs, and two names never share a folder."""
    one, two = open_tracking("segment"), open_tracking("train")
    found = [t.client.get_experiment(t.experiment_id) for t in (one, two)]
    assert found[0].tags["mlflow.experimentKind"] == "custom_model_development"
    assert found[0].artifact_location != found[1].artifact_location


def test_machine_is_watched(home):
    """Even the shortest run tells how busy the machine was."""
    tracking = open_tracking("segment")
    with tracking.start("short", {}) as run:
        pass
    metrics = tracking.client.get_run(run.id).data.metrics
    assert "system/cpu_utilization_percentage" in metrics and "system/system_memory_usage_megabytes" in metrics


def test_epoch_is_one_batch(home, monkeypatch):
    """All numbers of an epoch go out in one call, in their order of epochs; what is not finite stays away."""
    tracking = open_tracking("train")
    calls = []
    with tracking.start("a", {}) as run:
        send = tracking.client.log_batch
        monkeypatch.setattr(tracking.client, "log_batch", lambda *a, **k: (calls.append(k), send(*a, **k)))
        run.log_metrics({"loss": 0.5, "dice": 0.25, "broken": float("nan"), "endless": float("inf")}, step=0)
        run.log_metrics({"loss": 0.25, "dice": 0.5}, step=1)
        assert len(calls) == 2
    history = tracking.client.get_metric_history(run.id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.25)]
    assert "broken" not in tracking.client.get_run(run.id).data.metrics


@pytest.mark.parametrize(
    ("raised", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_run_ends_as_its_block(home, raised, status):
    """An error makes the run FAILED, Ctrl-C makes it KILLED, and both go on to the caller."""
    tracking = open_tracking("train")
    with pytest.raises(raised), tracking.start("a", {}) as run:
        raise raised("no")
    found = tracking.client.get_run(run.id)
    assert found.info.status == status
    assert raised.__name__ in found.data.tags["maskline.failure"]


def test_run_can_be_called_failed(home):
    """Too many failed images end a run as FAILED, with the reason, though nothing is raised."""
    tracking = open_tracking("segment")
    with tracking.start("a", {}) as run:
        run.fail("3 of 4 images failed")
    found = tracking.client.get_run(run.id)
    assert (found.info.status, found.data.tags["maskline.failure"]) == ("FAILED", "3 of 4 images failed")


def test_run_is_resumed(home):
    """A resumed training goes on in its own run; settings said before stay as they were said."""
    tracking = open_tracking("train")
    with tracking.start("a", {"seed": 1}) as first:
        first.log_metrics({"loss": 1.0}, step=0)
    with tracking.start("a", {"seed": 1, "epochs": 3}, resume=first.id) as second:
        second.log_metrics({"loss": 0.5}, step=1)
        assert tracking.client.get_run(first.id).info.status == "RUNNING"
    found = tracking.client.get_run(first.id)
    assert second.id == first.id and found.info.status == "FINISHED"
    assert found.data.params == {"seed": "1", "epochs": "3"}
    assert [m.step for m in tracking.client.get_metric_history(first.id, "loss")] == [0, 1]


def test_address_in_the_environment_is_obeyed(home, tmp_path, monkeypatch, fresh_store):
    """MLFLOW_TRACKING_URI names the store; artifacts still never land in the current folder."""
    other = tmp_path / "lab" / "lab.db"
    other.parent.mkdir()
    shutil.copy(fresh_store, other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other.as_posix()}")
    tracking = open_tracking("segment")
    with tracking.start("a", {}) as run:
        run.log_text("x", "x.txt")
    assert tracking.uri.endswith("lab.db")
    assert "/home/mlflow/artifacts/" in tracking.client.get_run(run.id).info.artifact_uri
    assert open_tracking("segment", uri=embedded_uri()).client.search_runs(["0", "1"]) == []


def test_deleted_experiment_is_restored(home):
    """Somebody who deletes the experiment in the UI does not break the next run."""
    first = open_tracking("segment")
    first.client.delete_experiment(first.experiment_id)
    again = open_tracking("segment")
    assert again.experiment_id == first.experiment_id and again.trouble == ""
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


def test_store_is_made_once(empty_home, monkeypatch):
    """However many ask together, one makes the store, under another name, and the others wait."""
    from mlflow.store.tracking import sqlalchemy_store

    made = []

    class SlowStore:
        def __init__(self, uri: str, root: str) -> None:
            made.append(uri)
            time.sleep(0.2)
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"store")
            self.engine = self

        def dispose(self) -> None:
            assert not (empty_home / "mlflow" / "mlflow.db").exists()

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", SlowStore)
    threads = [threading.Thread(target=prepare_store, args=(embedded_uri(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and made[0].endswith("mlflow.db.new")
    assert (empty_home / "mlflow" / "mlflow.db").read_bytes() == b"store"


@pytest.mark.slow
def test_eighteen_processes_start_together(empty_home):
    """On a fresh home, 18 processes that start at once each get their run; MLflow alone loses 17 of them."""
    code = "from pipeline.results.tracking import open_tracking\nt = open_tracking('e')\nwith t.start('r', {}): pass"
    processes = [start_python(code) for _ in range(18)]
    said = [p.communicate(timeout=280)[1] for p in processes]
    assert [p.returncode for p in processes] == [0] * 18
    assert [text for text in said if "tracking:" in text] == []
    tracking = open_tracking("e")
    runs = tracking.client.search_runs([tracking.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 18


def test_run_of_a_killed_process_is_closed(home):
    """kill -9 leaves a run RUNNING; the next start on this machine marks it KILLED, and leaves the living alone."""
    code = (
        "import time\nfrom pipeline.results.tracking import open_tracking\n"
        "with open_tracking('e').start('r', {}) as run:\n    print(run.id, flush=True)\n    time.sleep(300)"
    )
    process = start_python(code)
    assert process.stdout is not None
    killed = process.stdout.readline().strip()
    tracking = open_tracking("e")
    assert tracking.client.get_run(killed).info.status == "RUNNING"  # alive: not to be touched
    with tracking.start("mine", {}) as mine:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        open_tracking("e")
        assert tracking.client.get_run(mine.id).info.status == "RUNNING"
    found = tracking.client.get_run(killed)
    assert found.info.status == "KILLED" and "died" in found.data.tags["maskline.failure"]


def test_run_that_ends_while_it_is_looked_for_stays_as_it_ended(home, monkeypatch):
    """A list of running runs is old when it is read: one whose process has finished since is not marked KILLED."""
    code = (
        "from pipeline.results.tracking import open_tracking\nwith open_tracking('e').start('r', {}) as r: print(r.id)"
    )
    finished = start_python(code)
    run = finished.communicate()[0].split()[-1]
    tracking = open_tracking("e")
    stale = tracking.client.get_run(run)
    assert stale.info.status == "FINISHED"
    stale.info._status = "RUNNING"
    monkeypatch.setattr(tracking.client, "search_runs", lambda *a, **k: [stale])
    tracking.reap()
    assert tracking.client.get_run(run).info.status == "FINISHED"


def test_doctests_hold():
    """The examples in the module are true."""
    assert doctest.testmod(marks).failed == 0 and doctest.testmod(marks).attempted > 3


def test_digest_is_of_names_and_contents(tmp_path):
    """Equal folders agree wherever they lie; another byte, another name or another place below is another digest."""
    one, same = make_model(tmp_path / "a"), make_model(tmp_path / "b")
    assert folder_digest(one) == folder_digest(same)
    digests = {folder_digest(one)}
    for change in (
        lambda: (same / "model.json").write_text("{}"),
        lambda: (same / "model.json").rename(same / "card.json"),
        lambda: (same / "sub").mkdir() or (same / "card.json").rename(same / "sub" / "card.json"),
    ):
        change()
        digests.add(folder_digest(same))
    assert len(digests) == 4


def test_process_number_given_out_again_is_told_apart():
    """A mark is the process's number and start: another process with that number is not taken for it."""
    mine = process_mark(os.getpid())
    pid, _, start = mark = mine.partition("@")
    assert is_alive(mine) and mark
    assert not is_alive(f"{pid}@{int(start) - 3600}")
    assert not is_alive("nonsense")


def test_tracker_that_is_away_stops_nothing(empty_home, monkeypatch, caplog, tmp_path):
    """Without a server behind the address the job runs to its end, warned once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, logger="maskline.tracking"):
        tracking = open_tracking("segment", uri="http://127.0.0.1:9")
        with tracking.start("a", {"b": 1}) as run:
            run.log_metrics({"loss": 1.0})
            run.log_text("x", "x.txt")
            run.fail("too many")
        assert tracking.register(make_model(tmp_path / "model"), "nuclei") == ""
    assert run.id == "" and run.url == ""
    assert [r.name for r in caplog.records if r.name == "maskline.tracking"] == ["maskline.tracking"]
    for ask in (tracking.models, lambda: tracking.promote("nuclei", "1"), lambda: tracking.resolve("nuclei")):
        with pytest.raises(TrackingError, match="could not open the store"):
            ask()


class Broken:
    """A client whose every call fails, but for the end of a run."""

    def __init__(self) -> None:
        self.calls = 0
        self.ended: list[tuple[str, str]] = []

    def log_batch(self, *args: object, **kwargs: object) -> None:
        self.calls += 1
        raise ConnectionError("gone")

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended.append((run_id, status))


def test_tracker_that_fails_on_the_way_is_dropped(caplog):
    """After three failures in a row nothing more is sent, with one warning; the end of the run is tried."""
    broken = Broken()
    tracking = Tracking("e", "sqlite:///x", client=broken)
    run = Run(tracking, "r1")
    with caplog.at_level(logging.WARNING, logger="maskline.tracking"):
        for step in range(10):
            run.log_metrics({"loss": 1.0}, step)
        tracking._end(run)
    assert broken.calls == 3 and broken.ended == [("r1", "FINISHED")]
    assert len(caplog.records) == 1 and "log metrics" in caplog.text


def test_models_are_registered_by_content(home, tmp_path):
    """The same files are the same version; other files are the next one; an alias is given only while it is free."""
    tracking = open_tracking("train")
    first, second = make_model(tmp_path / "a"), make_model(tmp_path / "b", b"other")
    assert tracking.register(first, "nuclei", alias="champion", tags={"map": 0.5}) == "1"
    assert tracking.register(first, "nuclei", alias="champion") == "1"
    with tracking.start("training", {}) as run:
        assert tracking.register(second, "nuclei", run, alias="champion") == "2"
    one, two = tracking.models()
    assert (one["version"], one["aliases"], one["digest"]) == ("1", ["champion"], folder_digest(first))
    assert (two["version"], two["aliases"], two["run_id"]) == ("2", [], run.id)
    assert one["tags"]["map"] == "0.5"
    tracking.promote("nuclei", "2")
    assert [m["aliases"] for m in tracking.models()] == [[], ["champion"]]


def test_resolved_folder_holds_the_registered_files(home, tmp_path):
    """A version is found by number or alias, also after the folder it came from is gone; nothing in it is a pickle."""
    tracking = open_tracking("train")
    model = make_model(tmp_path / "a")
    digest = folder_digest(model)
    tracking.register(model, "nuclei", alias="champion")
    shutil.rmtree(model)
    for which in ("1", "champion"):
        folder = tracking.resolve("nuclei", which)
        assert folder_digest(folder) == digest
        assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_unknown_models_are_refused(home, tmp_path):
    """An error names what is there; nothing else is answered instead."""
    tracking = open_tracking("train")
    with pytest.raises(TrackingError, match="wanted a registered model"):
        tracking.resolve("nuclei")
    tracking.register(make_model(tmp_path / "a"), "nuclei", alias="champion")
    with pytest.raises(TrackingError, match="one of: 1 @champion"):
        tracking.resolve("nuclei", "7")
    with pytest.raises(TrackingError, match="'7'"):
        tracking.promote("nuclei", "7")
    with pytest.raises(TrackingError, match="got "):
        tracking.promote("nuclei", "1", alias="not an alias!")


def test_damaged_models_are_refused(home, tmp_path):
    """Files that changed or vanished after the registration are noticed."""
    tracking = open_tracking("train")
    tracking.register(make_model(tmp_path / "a"), "nuclei", alias="champion")
    folder = tracking.resolve("nuclei")
    (folder / "model.safetensors").write_bytes(b"tampered")
    with pytest.raises(TrackingError, match="other files in"):
        tracking.resolve("nuclei")
    shutil.rmtree(folder)
    with pytest.raises(TrackingError, match="no folder"):
        tracking.resolve("nuclei")


def test_importing_tracking_does_not_import_mlflow():
    """`maskline --help` must not pay for MLflow."""
    code = "import sys, pipeline.results.tracking; sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    process = start_python(code)
    assert process.wait(timeout=60) == 0, process.communicate()[1]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite://", "sqlite:///:memory:", "postgresql://lab/mlflow"])
def test_only_missing_sqlite_files_are_made(empty_home, uri):
    """Servers and stores in memory are left alone."""
    prepare_store(uri)
    assert not empty_home.exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_real_server(home, tmp_path, monkeypatch):
    """Against a real MLflow server runs have an address, and models come back byte for byte through it."""
    port = free_port()
    module.quiet()
    server = tmp_path / "server"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", embedded_uri(), "--artifacts-destination", server.as_uri()]
    with (tmp_path / "server.log").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=tmp_path, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        tracking = open_tracking("segment")
        model = make_model(tmp_path / "model")
        with tracking.start("a", {"b": 1}) as run:
            run.log_text("x", "x.txt")
            assert tracking.register(model, "nuclei", run, alias="champion") == "1", tracking.trouble
        assert run.url == f"http://127.0.0.1:{port}/#/experiments/{tracking.experiment_id}/runs/{run.id}"
        folder = tracking.resolve("nuclei")
        assert folder.is_relative_to(home / "models") and folder_digest(folder) == folder_digest(model)
        assert tracking.resolve("nuclei", "1") == folder
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
