"""`maskline serve`: a Prefect server, the MLflow pages and the deployments, looked after by one process, on loopback.

Every child is a process group of its own, so that Ctrl-C reaches this process alone and the children are stopped in
order: first the runner, then the servers. Their output goes to files in MASKLINE_HOME/serve.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from flows.addresses import Addresses, addresses_file, read_addresses, write_addresses
from flows.deployments import NAMES, Nightly
from flows.lost import close_lost_runs, drop_missed_runs
from pipeline.data.files import maskline_home
from pipeline.errors import LockedError, MasklineError, UsageError

HOST = "127.0.0.1"
START_SECONDS = 240.0
STOP_SECONDS = 20.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class ServeOptions:
    """Ports of None are 4200 and 5000 where these are free, else any free one."""

    nightly: Nightly
    prefect_port: int | None = None
    mlflow_port: int | None = None
    runs_at_once: int = 1


@dataclass
class Child:
    """One process that is looked after."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    file: IO[bytes] = field(repr=False)

    def check(self) -> None:
        """Raises MasklineError, with the end of its log, when the process is gone."""
        code = self.process.poll()
        if code is not None:
            tail = " | ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise MasklineError(self.name, f"exit code {code} ({tail})", "a process that goes on", f"read {self.log}")

    def stop(self) -> None:
        """Ask the whole group to end, insist after a while, and wait until it has."""
        for sign, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            signal_group(self.process.pid, sign)
            try:
                self.process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        signal_group(self.process.pid, signal.SIGKILL)  # what the child itself left behind
        self.file.close()


def signal_group(pid: int, sign: int) -> None:
    """Send a signal to the process group of `pid`, if there is one."""
    try:
        os.killpg(pid, sign)
    except (ProcessLookupError, PermissionError):
        return


def pick_port(option: str, wanted: int | None, preferred: int) -> int:
    """The port asked for, else the preferred one, else any that is free; raises UsageError where the first is taken."""
    for port in (preferred, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UsageError(option, f"port {wanted}, which is taken", "a free port", f"leave {option} out to have one chosen")


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - loopback, our own address
            return 200 <= int(reply.status) < 300
    except (urllib.error.URLError, OSError):
        return False


def child_environment(prefect_api: str, mlflow: str, options: ServeOptions) -> dict[str, str]:
    """What all children share: no telemetry, everything below MASKLINE_HOME, each other's addresses."""
    home = maskline_home()
    return {
        **os.environ,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": prefect_api,
        "PREFECT_UI_API_URL": prefect_api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": mlflow,
        "MASKLINE_HOME": str(home),
        "MASKLINE_RUNS_AT_ONCE": str(options.runs_at_once),
        "PYTHONUNBUFFERED": "1",
        "MALLOC_ARENA_MAX": "1",  # a run's process has threads before it imports `pipeline`, see `pipeline.malloc`
        **options.nightly.as_environment(),
    }


def commands(prefect_port: int, mlflow_port: int, store: str, artifacts: Path) -> dict[str, list[str]]:
    """The children in the order in which they are started."""
    python = [sys.executable, "-m"]
    where = ["--host", HOST, "--port"]
    stores = ["--backend-store-uri", store, "--artifacts-destination", str(artifacts)]
    return {
        "prefect": [*python, "prefect", "server", "start", *where, str(prefect_port)],
        "mlflow": [*python, "mlflow", "server", *where, str(mlflow_port), "--workers", "1", *stores],
        "deployments": [*python, "flows.deployments"],
    }


def start_child(name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Child:
    log = folder / f"{name}.log"
    file = log.open("wb")
    process = subprocess.Popen(  # noqa: S603 - our own commands
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
    )
    return Child(name, process, log, file)


def stop_leftovers(found: Addresses | None) -> list[int]:
    """Stop the children of a `serve` that was killed before it could; answers their process ids."""
    import psutil

    stopped = []
    for pid in found.children if found else ():
        try:
            words = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        if any(mark in words for mark in ("prefect server", "mlflow server", "flows.deployments")):
            signal_group(pid, signal.SIGTERM)
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=STOP_SECONDS)
            signal_group(pid, signal.SIGKILL)
            stopped.append(pid)
    return stopped


class Supervisor:
    """Starts the children, waits until they answer, and stops them in the opposite order."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.children: list[Child] = []
        self.asked = threading.Event()

    def ask_to_stop(self, sign: int, frame: FrameType | None) -> None:
        self.asked.set()

    def await_answer(self, url: str, child: Child) -> None:
        """Until `url` answers; raises MasklineError when the child ends, time runs out or Ctrl-C was pressed."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(url):
            child.check()
            if time.monotonic() > deadline:
                raise MasklineError(
                    child.name, f"no answer from {url} in {START_SECONDS:.0f} s", "an answer", f"read {child.log}"
                )
            if self.asked.wait(0.3):
                raise KeyboardInterrupt

    def start(self, options: ServeOptions, folder: Path) -> Addresses:
        """All three, each one healthy before what needs it."""
        from pipeline.results.tracking import artifact_root, embedded_uri, open_tracking

        ports = (
            pick_port("--prefect-port", options.prefect_port, 4200),
            pick_port("--mlflow-port", options.mlflow_port, 5000),
        )
        prefect, mlflow = (f"http://{HOST}:{port}" for port in ports)
        open_tracking("maskline", embedded_uri())  # makes the store where there is none, whole or not at all
        environment = child_environment(f"{prefect}/api", mlflow, options)
        todo = commands(*ports, embedded_uri(), artifact_root())
        for name in ("prefect", "mlflow"):
            self.children.append(start_child(name, todo[name], environment, folder))
            self._record(prefect, mlflow)
        self.await_answer(f"{prefect}/api/health", self.children[0])
        self.say(f"Prefect      {prefect}")
        close_lost_runs(f"{prefect}/api")  # of a serve that was killed
        drop_missed_runs(f"{prefect}/api")
        self.children.append(start_child("deployments", todo["deployments"], environment, folder))
        addresses = self._record(prefect, mlflow)
        self.await_answer(f"{mlflow}/health", self.children[1])
        self.say(f"MLflow       {mlflow}")
        for name in NAMES:
            self.await_answer(f"{prefect}/api/deployments/name/{name}", self.children[2])
        return addresses

    def _record(self, prefect: str, mlflow: str) -> Addresses:
        children = tuple(child.process.pid for child in self.children)
        addresses = Addresses(prefect, f"{prefect}/api", mlflow, os.getpid(), children)
        write_addresses(addresses)
        return addresses

    def look_after(self) -> None:
        """Until Ctrl-C or SIGTERM; raises MasklineError when a child ends by itself."""
        while not self.asked.wait(1.0):
            for child in self.children:
                child.check()

    def stop(self) -> None:
        found = read_addresses()
        for child in reversed(self.children):
            child.stop()
            if child.name == "deployments" and found and answers(f"{found.prefect_api}/health"):
                close_lost_runs(found.prefect_api)
        addresses_file().unlink(missing_ok=True)


def serve(options: ServeOptions, say: Say) -> None:
    """Run until Ctrl-C or SIGTERM. Raises LockedError when this MASKLINE_HOME is served already."""
    from filelock import FileLock, Timeout

    folder = maskline_home() / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    options.nightly.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "serve.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            "serve", f"{folder}, which another `maskline serve` holds", "one at a time", "see `maskline status`"
        ) from None
    supervisor = Supervisor(say)
    before = {sign: signal.signal(sign, supervisor.ask_to_stop) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop_leftovers(read_addresses())
        announce(supervisor.start(options, folder), options, say)
        supervisor.look_after()
    except KeyboardInterrupt:
        pass
    finally:
        say("stopping ...")
        supervisor.stop()
        lock.release()
        for sign, handler in before.items():
            signal.signal(sign, handler)
        say("stopped")


def announce(addresses: Addresses, options: ServeOptions, say: Say) -> None:
    """What a person can do now."""
    nightly = options.nightly
    say("Deployments  " + "  ".join(NAMES))
    say(f"Nightly      {nightly.cron} ({nightly.timezone}): {nightly.folder} -> {nightly.out}")
    say("")
    say("In another terminal:")
    say(f"  export PREFECT_API_URL={addresses.prefect_api}")
    say("  prefect deployment run segment-folder/segment-folder -p folder=/data/plate7 -p out=/data/plate7-results")
    say("")
    say("Ready; Ctrl-C stops everything.")
