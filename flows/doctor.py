"""What `maskline doctor` looks at: versions, device, servers, free disk. Each finding says what to do about it."""

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from flows.addresses import running_addresses
from flows.serve import answers
from pipeline.data.files import maskline_home

Verdict = Literal["ok", "note", "bad"]
GIB = 1024**3
SAFE = {"torch": (2, 10), "mlflow": (3, 11), "monai": (1, 5, 2)}  # below these: known vulnerabilities
WORKS = {
    "prefect": ((3, 8), (3, 9)),
    "fastapi": ((0, 100), (0, 151)),
    "sqlalchemy": ((2, 0), (2, 1)),
}  # from, up to and without
TOLD = ("maskline", "numpy", "scikit-image", "imagecodecs", "tifffile", "nibabel", "pandas")
OTHERS = ("unet", "pipeline", "flows")  # distributions on the public index that overwrite our packages


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    verdict: Verdict
    found: str
    hint: str = ""


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> parse_version("2.13.0+cpu"), parse_version("1.5.2rc1")
    ((2, 13, 0), (1, 5, 2))
    """
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def installed(name: str) -> str:
    """The installed version, "" for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check_floor(name: str, version: str) -> Check:
    """Whether a package is at least the first version without known vulnerabilities."""
    floor = ".".join(map(str, SAFE[name]))
    if not version:
        return Check(name, "bad", "not installed", "install maskline with its constraints.txt")
    if parse_version(version) < SAFE[name]:
        return Check(name, "bad", f"{version}, known to be vulnerable", f"install {name} {floor} or later")
    return Check(name, "ok", version)


def check_range(name: str, version: str) -> Check:
    """Whether a package is one that works together with the others."""
    low, high = WORKS[name]
    if low <= parse_version(version) < high:
        return Check(name, "ok", version)
    wanted = f">={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
    return Check(name, "bad", version or "not installed", f"install {name}{wanted}")


def check_names(present: frozenset[str]) -> list[Check]:
    """Foreign distributions that bring packages of the same names as ours."""
    clash = sorted(present.intersection(OTHERS))
    return (
        [
            Check(
                "packages",
                "bad",
                f"{', '.join(clash)} beside maskline",
                "they overwrite each other's files; give maskline an environment of its own",
            )
        ]
        if clash
        else []
    )


def check_disk(folder: Path) -> Check:
    """Free space where maskline keeps its files."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free / GIB
    hint = "free some, or set MASKLINE_HOME to another disk" if free < 10 else ""
    return Check("free disk", "bad" if free < 1 else "note" if free < 10 else "ok", f"{free:.1f} GiB at {folder}", hint)


def check_rights(folder: Path) -> list[Check]:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return (
        []
        if os.access(there, os.W_OK)
        else [Check("home", "bad", f"{folder} cannot be written", "set MASKLINE_HOME to a folder of yours")]
    )


def check_device() -> Check:
    """The device that `--device auto` takes."""
    from pipeline.inference.engines import choose_device

    return Check("device", "ok", choose_device("auto"))


def check_server(name: str, address: str, health: str) -> Check:
    """Whether the server that the environment or a running `serve` names answers."""
    if not address.startswith("http"):
        return Check(name, "ok", address or "no server; none is needed", "")
    if answers(health):
        return Check(name, "ok", f"{address} answers")
    return Check(name, "bad", f"{address} does not answer", "start it, or unset the variable that names it")


def _servers() -> list[Check]:
    found = running_addresses()
    prefect = os.environ.get("PREFECT_API_URL") or (found.prefect_api if found else "")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or (found.mlflow if found else "")
    return [check_server("Prefect", prefect, f"{prefect}/health"), check_server("MLflow", mlflow, f"{mlflow}/health")]


def examine() -> list[Check]:
    """Everything, in the order in which a person wants it."""
    cores = os.cpu_count() or 1
    present = frozenset(str(d.metadata["Name"]).lower() for d in metadata.distributions())
    machine = Check("python", "ok", f"{sys.version.split()[0]} on {platform.platform()}, {cores} cores")
    return [
        machine,
        *(Check(name, "ok", installed(name)) for name in TOLD),
        *(check_floor(name, installed(name)) for name in SAFE),
        *(check_range(name, installed(name)) for name in WORKS),
        *check_names(present),
        check_device(),
        *_servers(),
        check_disk(maskline_home()),
        *check_rights(maskline_home()),
    ]
