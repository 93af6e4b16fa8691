"""Whole files or none: write under a temporary name in the same folder, flush to the disk, rename."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.errors import InputError, OutputError

_TEMPORARY = ".partial"


class _Hashing:
    """A binary file that keeps the sha256 of what was written; it cannot seek, so the digest is the content's."""

    closed = False  # pyarrow asks for this, and whether it may write

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else takes, and that a later run knows for a leftover."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")


def atomic_write(path: Path, data: bytes | Callable[[BinaryIO], None], *, durable: bool = True) -> str:
    """Write `path` so that it is there whole or not at all, and return the sha256 (hex) of its content.

    `data` is the content, or a function that writes it to the binary file it is given (write, flush and tell; no seek).
    Missing folders are made. `durable=False` leaves out the fsyncs, for caches that can be made again.
    Raises OutputError where the folder cannot be written; a half-written temporary file is removed.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            hashing = _Hashing(file)
            if callable(data):
                data(cast(BinaryIO, hashing))
            else:
                hashing.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            str(path), str(error), "a file that can be written", "check the folder, its rights and the free disk"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return hashing.digest.hexdigest()


def move_into_place(temporary: Path, path: Path) -> str:
    """Give a finished file, or folder, on the same file system its name, durably, and return its sha256 (hex).

    For writers that have to seek. A folder that has the name already is moved out of the way first: for a moment there
    is none, never a mixture. Raises OutputError.
    """
    sha256 = sha256_file(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync_files(temporary)
        if path.is_dir():
            old = temporary_name(path)
            path.rename(old)
            temporary.rename(path)
            remove(old)
        else:
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            str(path), str(error), "a file that can be written", "check the folder, its rights and the free disk"
        ) from error
    return sha256


def _sync_files(path: Path) -> None:
    """Bring a file, or everything in a folder, onto the disk."""
    for place, _, names in os.walk(path):
        for name in names:
            _sync_files(Path(place, name))
        _sync_folder(Path(place))
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in any order; a .zarr folder counts as a file."""
    for place, folders, names in os.walk(folder):
        whole = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [name for name in folders if name not in whole]
        yield from (Path(place, name) for name in (*names, *whole))


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, on the systems that can open a folder."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def folder_stat(folder: Path | str) -> tuple[int, int, int, int]:
    """What stat says of an image that is a folder: bytes of all files, latest mtime and ctime (ns), inode."""
    size, mtime, ctime = 0, 0, 0
    for place, _, names in os.walk(folder):
        for name in ("", *names):
            stat = os.stat(os.path.join(place, name) if name else place)  # noqa: PTH116, PTH118 - as many as chunks
            size += stat.st_size if name else 0
            mtime, ctime = max(mtime, stat.st_mtime_ns), max(ctime, stat.st_ctime_ns)
    return size, mtime, ctime, os.stat(folder).st_ino  # noqa: PTH116


def sha256_file(path: Path) -> str:
    """The sha256 (hex) of a file's content, or of the names and contents in an image that is a folder.

    Raises InputError where it cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
            lines = (f"{name}\0{sha256_file(file)}\n".encode(errors="surrogateescape") for name, file in files)
            return hashlib.sha256(b"".join(lines)).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(str(path), str(error), "a file that can be read", "check the path and its rights") from error


def maskline_home() -> Path:
    """Where maskline keeps its own files: `$MASKLINE_HOME`, else the platform's folder for user data."""
    home = os.environ.get("MASKLINE_HOME")
    if home:
        return Path(home).expanduser().absolute()
    from platformdirs import user_data_dir

    return Path(user_data_dir("maskline", appauthor=False))
