"""Where the servers of `maskline serve` answer: one small file in MASKLINE_HOME, there while they run.

Clients use these addresses, not the SQLite files underneath. What the environment says goes first.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.data.files import atomic_write, maskline_home
from pipeline.types import FORMAT_VERSION


@dataclass(frozen=True)
class Addresses:
    """Where everything answers, and which processes do; `pid` is the one that looks after the others."""

    prefect: str  # the web page
    prefect_api: str
    mlflow: str
    pid: int
    children: tuple[int, ...] = ()


def addresses_file() -> Path:
    return maskline_home() / "serve" / "addresses.json"


def write_addresses(addresses: Addresses) -> None:
    file = addresses_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(
        file, json.dumps({"format_version": FORMAT_VERSION, **asdict(addresses)}, indent=2).encode(), durable=False
    )


def read_addresses() -> Addresses | None:
    """What the file says, whether or not anybody still answers there; None where there is none to be read."""
    try:
        tree = json.loads(addresses_file().read_text(encoding="utf-8"))
        if tree.pop("format_version") != FORMAT_VERSION:
            return None
        return Addresses(**{**tree, "children": tuple(tree["children"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a file of another version or a damaged one says nothing; `serve` writes it anew


def running_addresses() -> Addresses | None:
    """The addresses of a `maskline serve` that is alive."""
    found = read_addresses()
    if found is None:
        return None
    import psutil

    try:
        words = psutil.Process(found.pid).cmdline()
    except psutil.Error:
        return None
    return found if any("maskline" in word or "flows" in word for word in words) and "serve" in words else None


def use_running_servers() -> None:
    """Let this process log to the MLflow of a running `maskline serve`, unless MLFLOW_TRACKING_URI says another."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return
    found = running_addresses()
    if found is not None:
        os.environ["MLFLOW_TRACKING_URI"] = found.mlflow
