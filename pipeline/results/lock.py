"""One run a folder: an operating-system lock that dies with its holder, and the rights to the folder itself.

The lock is the file `.maskline/lock` (flock on Linux and macOS); nothing has to be cleaned up after a killed run.
Beside it `holder.json` says who holds it; one that is found while the lock is free belonged to a run that did not end.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.data.files import atomic_write, remove
from pipeline.errors import LockedError, OutputError
from pipeline.types import FORMAT_VERSION

STATE = ".maskline"
PRODUCTS = ("labels", "objects.parquet", "images.csv", "report.html", "run.json")
_TEMPORARY = ".*.partial"  # as pipeline.data.files names them
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHTS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


def is_output_trouble(error: OSError) -> bool:
    """Whether the folder as a whole cannot be written (full, read-only, no rights), not just one name in it."""
    return error.errno in _FULL | _NO_RIGHTS


def is_full(error: OSError) -> bool:
    """Whether a disk takes no more: full, or read-only. Nothing that reading could come to."""
    return error.errno in _FULL | {errno.EROFS}


def output_error(out: Path, error: OSError) -> OutputError:
    """What to tell when the output folder cannot be written."""
    reason = error.strerror or str(error)
    return OutputError(
        f"output folder {out}",
        reason,
        "a folder that can be written",
        "free space on its disk, or repair its rights, or give another --out; then run the same command again",
    )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn any OSError of the block, also one that stands behind an OutputError, into the OutputError of `out`."""
    try:
        yield
    except OSError as error:
        raise output_error(out, error) from error
    except OutputError as error:
        if isinstance(error.__cause__, OSError):
            raise output_error(out, error.__cause__) from error
        raise


def read_holder(out: Path) -> dict[str, Any] | None:
    """Who holds (or last held, and did not let go of) the folder: pid, host, since. None after a clean end."""
    try:
        holder = json.loads((out / STATE / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def claim_folder(out: Path) -> Path:
    """Make `out` and its `.maskline/`, and return the latter.

    Raises OutputError where it cannot be written, was written by a newer maskline, or holds files of the names we write
    that are not ours: somebody's `labels/` is never written over.
    """
    state = out / STATE
    with writing(out):
        if not state.is_dir():
            foreign = [name for name in PRODUCTS if (out / name).exists()]
            if foreign:
                raise OutputError(
                    f"output folder {out}",
                    f"{foreign[0]} that maskline did not write there",
                    "an empty folder, or one of an earlier run",
                    "give another --out",
                )
            state.mkdir(parents=True, exist_ok=True)
        mark = state / "format.json"
        if not mark.is_file():
            atomic_write(mark, f'{{"format_version": {FORMAT_VERSION}}}\n'.encode())
    _check_format(mark)
    return state


def _check_format(mark: Path) -> None:
    try:
        version = json.loads(mark.read_text(encoding="utf-8"))["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = "unreadable"
    if version != FORMAT_VERSION:
        came = f"format_version {version}"
        raise OutputError(str(mark), came, str(FORMAT_VERSION), "update maskline or give another --out")


@contextmanager
def hold_folder(out: Path, mark: bool = True) -> Iterator[bool]:
    """Hold `out` for one run; yields whether the run before it ended cleanly.

    Without `mark` the holder leaves no sign of having been there: one that only looks. Raises LockedError at once when
    another run holds it, OutputError when it cannot be written.
    """
    state = claim_folder(out)
    lock = FileLock(state / "lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:  # before OSError, which it is too
        raise _locked(out) from None
    except OSError as error:
        raise output_error(out, error) from error
    try:
        clean = read_holder(out) is None
        me = {
            "format_version": FORMAT_VERSION,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if mark:
            with writing(out):
                atomic_write(state / "holder.json", json.dumps(me).encode(), durable=False)
        yield clean
        if mark:
            (state / "holder.json").unlink(missing_ok=True)
    finally:
        lock.release()


def _locked(out: Path) -> LockedError:
    holder = read_holder(out) or {}
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
    return LockedError(
        f"output folder {out}",
        f"a run that is working in it ({who})",
        "a folder that no other run is working in",
        "wait for that run to end, or give another --out",
    )


def sweep(out: Path) -> int:
    """Remove the temporary files that a killed run left behind; returns how many. Only for who holds the folder."""
    left = [path for folder in (out / STATE, out / "labels", out / "geojson") for path in folder.rglob(_TEMPORARY)]
    left += out.glob(_TEMPORARY)
    with writing(out):
        for path in left:
            remove(path)
    return len(left)
