"""The parts of `maskline serve` that need no server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import serve as serving
from flows.addresses import (
    Addresses,
    addresses_file,
    read_addresses,
    running_addresses,
    use_running_servers,
    write_addresses,
)
from flows.deployments import Nightly
from flows.serve import (
    HOST,
    Supervisor,
    answers,
    child_environment,
    commands,
    pick_port,
    serve,
    start_child,
    stop_leftovers,
)
from pipeline.errors import LockedError, MasklineError, UsageError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def options(own_home):
    return serving.ServeOptions(Nightly(own_home / "inbox", own_home / "nightly"))


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    import socket

    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_when_asked_for_and_avoided_otherwise(taken):
    """Who names a port gets it or an error; who does not gets another one."""
    with pytest.raises(UsageError, match="taken"):
        pick_port("--prefect-port", taken, 4200)
    assert pick_port("--prefect-port", None, taken) not in {0, taken}


def test_nobody_answers_at_a_closed_port():
    """A refused connection is no answer, not an error."""
    assert answers(f"http://{HOST}:9/health") is False


def test_everything_listens_on_loopback_only(tmp_path):
    """No command binds another address, and every store is a whole path."""
    todo = commands(4200, 5000, "sqlite:////home/mlflow.db", tmp_path)
    for name in ("prefect", "mlflow"):
        assert todo[name][todo[name].index("--host") + 1] == "127.0.0.1"
    assert todo["mlflow"][-1] == str(tmp_path)
    assert list(todo) == ["prefect", "mlflow", "deployments"]


def test_children_know_home_and_each_other_and_tell_nobody(options, own_home):
    """MASKLINE_HOME, addresses and the nightly folder are handed on; telemetry is off."""
    environment = child_environment("http://127.0.0.1:4200/api", "http://127.0.0.1:5000", options)
    assert environment["MASKLINE_HOME"] == str(own_home)
    assert Path(environment["PREFECT_HOME"]).is_relative_to(own_home)
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert Nightly.from_environment(environment) == options.nightly


def test_stopping_reaches_grandchildren(tmp_path):
    """A child's own children are stopped with it."""
    code = f"import subprocess, sys; p = subprocess.Popen({SLEEPER!r}); print(p.pid, flush=True); p.wait()"
    child = start_child("parent", [sys.executable, "-c", code], os.environ, tmp_path)
    while not child.log.read_text().strip():
        time.sleep(0.05)
    grandchild = int(child.log.read_text())
    child.stop()
    assert child.process.poll() is not None
    import psutil

    _, alive = psutil.wait_procs([psutil.Process(grandchild)] if psutil.pid_exists(grandchild) else [], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_child_that_ends_is_reported_with_the_end_of_its_log(tmp_path):
    """Exit code and last lines are in the message, the log's path in the hint."""
    child = start_child(
        "mlflow", [sys.executable, "-c", "print('no such table'); raise SystemExit(7)"], os.environ, tmp_path
    )
    child.process.wait()
    with pytest.raises(MasklineError, match=r"mlflow: got exit code 7 \(no such table\)") as caught:
        child.check()
    assert str(child.log) in caught.value.hint
    child.stop()


def test_a_server_that_never_answers_is_reported(tmp_path, monkeypatch):
    """Waiting has an end."""
    monkeypatch.setattr(serving, "START_SECONDS", 0.0)
    supervisor = Supervisor(lambda line: None)
    child = start_child("prefect", SLEEPER, os.environ, tmp_path)
    try:
        with pytest.raises(MasklineError, match="no answer from"):
            supervisor.await_answer(f"http://{HOST}:9/health", child)
    finally:
        child.stop()


def test_ctrl_c_while_waiting_stops_waiting(tmp_path):
    """Nobody has to wait for a server only to stop it."""
    supervisor = Supervisor(lambda line: None)
    child = start_child("prefect", SLEEPER, os.environ, tmp_path)
    supervisor.ask_to_stop(signal.SIGINT, None)
    try:
        with pytest.raises(KeyboardInterrupt):
            supervisor.await_answer(f"http://{HOST}:9/health", child)
    finally:
        child.stop()


def test_a_home_is_served_once(options, own_home):
    """The second `serve` is refused, and does not disturb the first one's addresses."""
    from filelock import FileLock

    (own_home / "serve").mkdir(parents=True)
    write_addresses(Addresses("http://a", "http://a/api", "http://b", os.getpid()))
    with FileLock(own_home / "serve" / "serve.lock"), pytest.raises(LockedError, match="another `maskline serve`"):
        serve(options, lambda line: None)
    assert addresses_file().is_file()


def test_when_a_server_cannot_start_the_others_are_stopped(options, monkeypatch):
    """An error while starting leaves no process and no addresses behind."""
    started = []

    def broken(*ports_and_stores):
        return {"prefect": SLEEPER, "mlflow": [sys.executable, "-c", "raise SystemExit(3)"], "deployments": SLEEPER}

    def keep(*arguments):
        started.append(start_child(*arguments))
        return started[-1]

    monkeypatch.setattr(serving, "commands", broken)
    monkeypatch.setattr(serving, "start_child", keep)
    monkeypatch.setattr(serving, "answers", lambda url: False)
    monkeypatch.setattr(serving, "START_SECONDS", 1.0)
    monkeypatch.setattr("pipeline.results.tracking.open_tracking", lambda *arguments: None)
    with pytest.raises(MasklineError, match="no answer"):
        serve(options, lambda line: None)
    assert len(started) == 2
    assert all(child.process.poll() is not None for child in started)
    assert not addresses_file().exists()


def test_addresses_are_read_back_and_a_damaged_file_says_nothing():
    """Written, read; anything else is as good as none."""
    addresses = Addresses("http://a", "http://a/api", "http://b", 1, (2, 3))
    write_addresses(addresses)
    assert read_addresses() == addresses
    for damaged in ("", "{}", '{"format_version": 99}', '{"format_version": 1, "children": []}'):
        addresses_file().write_text(damaged)
        assert read_addresses() is None


def test_addresses_of_a_dead_serve_are_not_used(monkeypatch):
    """A file that a killed `serve` left behind sends nobody to a server that is gone."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_addresses(Addresses("http://a", "http://a/api", "http://b", dead.pid))
    assert running_addresses() is None
    use_running_servers()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_clients_use_a_running_serve_unless_told_otherwise(monkeypatch):
    """The environment goes first, then the running servers."""
    monkeypatch.setattr(
        "flows.addresses.running_addresses", lambda: Addresses("http://a", "http://a/api", "http://b", 1)
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab")
    use_running_servers()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://lab"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    use_running_servers()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://b"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def test_leftovers_are_stopped_and_strangers_are_not(tmp_path):
    """After kill -9 the next `serve` stops the old servers; a process that got their number since is left alone."""
    ours = start_child("ours", [*SLEEPER, "mlflow server"], os.environ, tmp_path)
    stranger = start_child("stranger", SLEEPER, os.environ, tmp_path)
    try:
        left = Addresses("http://a", "http://a/api", "http://b", 1, (ours.process.pid, stranger.process.pid, 2**22 - 1))
        assert stop_leftovers(left) == [ours.process.pid]
        assert ours.process.wait(10) is not None
        assert stranger.process.poll() is None
    finally:
        ours.stop()
        stranger.stop()
    assert stop_leftovers(None) == []
