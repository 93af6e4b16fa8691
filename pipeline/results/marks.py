"""What runs and models are marked with: clean names, the process that owns a run, the digest of a model's files."""

import hashlib
import re
import socket
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.files import sha256_file

T = TypeVar("T")


def clean_name(name: str) -> str:
    """A name that a tracker takes: at most 250 letters and digits of any script and `_-. /`, no empty folder in it.

    MLflow takes what `[/\\w.\\- :]*` matches and is a path in its plainest form; a colon is refused on Windows.

    >>> clean_name("dice_mean//plate#1 (µm)"), clean_name("iou/дом"), clean_name("../a")
    ('dice_mean/plate_1 _µm_', 'iou/дом', 'a')
    """
    plain = re.sub(r"[^\w\-. /]", "_", unicodedata.normalize("NFC", name))
    return re.sub(r"(?:/\.{0,2})+(?=/)", "", plain).strip("/. ")[:250].rstrip("/. ") or "_"


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """The clean name of each of `names`; those that would share one end in a digest of their own.

    >>> clean_names(["a#", "a+", "b"])
    {'a#': 'a_-c1f71e', 'a+': 'a_-85e200', 'b': 'b'}
    """
    clean = {name: clean_name(name) for name in names}
    number = Counter(clean.values())
    return {name: plain if number[plain] == 1 else _told_apart(name, plain) for name, plain in clean.items()}


def _told_apart(name: str, plain: str) -> str:
    return f"{plain[:243]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as flat parameters of at most 6,000 characters each.

    >>> flatten({"optimiser": {"kind": "adamw", "lr": 0.002}, "seed": 0})
    {'optimiser.kind': 'adamw', 'optimiser.lr': '0.002', 'seed': '0'}
    """
    flat: dict[str, str] = {}
    names = clean_names(f"{prefix}{key}" for key in tree)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {names[name]: str(value)[:6000]}
    return flat


def batches(values: Mapping[str, T], size: int) -> Iterator[dict[str, T]]:
    """The mapping in parts of at most `size` items.

    >>> list(batches({"a": 1, "b": 2, "c": 3}, 2))
    [{'a': 1, 'b': 2}, {'c': 3}]
    """
    rest = iter(values.items())
    while part := dict(islice(rest, size)):
        yield part


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over the names and contents of all files below `folder`, whatever the order they are listed in."""
    named = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256("".join(f"{name} {sha256_file(p)}\n" for name, p in named).encode()).hexdigest()


def machine() -> str:
    """This host and, on Linux, its process namespace: process ids mean something only within it."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def process_mark(pid: int) -> str:
    """`pid@start`, the start in seconds, so that a number given out again is told apart; "" when it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}@{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""


def is_alive(mark: str) -> bool:
    """Whether the process that `process_mark` described still runs on this machine; clocks may have moved by 2 s.

    >>> import os
    >>> is_alive(process_mark(os.getpid())), is_alive("1@5"), is_alive("")
    (True, False, False)
    """
    pid, _, start = mark.partition("@")
    now = process_mark(int(pid)) if pid.isdigit() and start.isdigit() else ""
    return bool(now) and abs(int(now.partition("@")[2]) - int(start)) <= 2
