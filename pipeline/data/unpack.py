"""Unpack archives from elsewhere: plain files and folders only, below one folder, within limits.

Members are written here as plain files, whatever mode, owner or kind the archive claims. What leads out of the folder
(absolute names, `..`, links) and what would fill the disk is refused before anything of it is written.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import InputError, OutputError
from pipeline.types import Event, Watch, unwatched

MOST_FILES = 1_000_000
GROWTH, ALWAYS = 20, 200_000_000  # unpacked, an archive may be so many times its size, or have so many bytes
_CHUNK = 1 << 20
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, NotImplementedError, UnicodeDecodeError),
)
_HINT = "do not use this file; fetch it again from the set's own page"


@dataclass(frozen=True)
class _Member:
    """What an archive claims of a member; `kind` is file, folder, or what else it is."""

    name: str
    size: int
    kind: str
    info: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: Path, folder: Path, watch: Watch = unwatched) -> int:
    """Unpack a .zip or .tar (.gz, .bz2, .xz) into `folder`; answers how many files there were.

    What macOS leaves in archives (`._*`, `.DS_Store`, `__MACOSX`) is passed over. Raises InputError where the archive
    is damaged, or a member is not to be trusted, and OutputError where the disk cannot take it.
    """
    files = total = 0
    most = max(ALWAYS, GROWTH * archive.stat().st_size)
    free = shutil.disk_usage(folder.parent).free
    with _opened(archive) as opened:
        known = len(opened.infolist()) if isinstance(opened, zipfile.ZipFile) else 0  # a tar has no list to look at
        for done, member in enumerate(_members(opened), start=1):
            files, total = files + (member.kind == "file"), total + member.size
            _check(archive, member, files, total, most)
            if total > free:
                told = f"{free / 1e6:,.0f} MB free"
                raise OutputError(str(folder.parent), told, f"more than {total / 1e6:,.0f} MB", "make room")
            if _is_litter(member.name):
                continue
            _write(opened, member, folder)
            watch(Event("unpack", done, known, {"file": archive.name}))
    if not files:
        raise InputError(str(archive), "an archive without files", "images and labels", _HINT)
    return files


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """The archive, opened; what is wrong with it while it is read becomes an InputError."""
    wanted = "a whole .zip or .tar"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                yield opened
        else:
            with tarfile.open(archive) as opened_tar:
                yield opened_tar
    except _DAMAGED as error:
        raise InputError(str(archive), f"a damaged archive ({error})", wanted, "fetch it again") from None
    except FileExistsError as error:
        raise InputError(str(archive), f"a name twice: {error.filename}", "names that differ", _HINT) from None
    except OSError as error:
        came, hint = str(error), "check the file, the rights and the free disk"
        raise OutputError(str(archive), came, "an archive that can be unpacked", hint) from error


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Member]:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            yield _Member(info.filename, info.file_size, _kind(info), info)
        return
    for member in opened:
        kind = "file" if member.isreg() else "folder" if member.isdir() else "link" if _is_link(member) else "device"
        yield _Member(member.name, member.size, kind, member)


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "file with a password"
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    return "folder" if info.is_dir() else "file"


def _check(archive: Path, member: _Member, files: int, total: int, most: int) -> None:
    """Raise InputError for a member that is not to be written."""
    parts = member.name.replace("\\", "/").split("/")
    where = f"{archive}: {member.name[:100]!r}"
    if member.name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in member.name:
        raise InputError(where, "a name that leads out of its folder", "names below it", _HINT)
    if member.kind not in ("file", "folder"):
        raise InputError(where, f"a {member.kind}", "plain files and folders", _HINT)
    if files > MOST_FILES:
        raise InputError(str(archive), f"more than {MOST_FILES:,} files", "fewer", _HINT)
    if total > most:
        came = f"more than {most / 1e6:,.0f} MB from {archive.stat().st_size / 1e6:,.3g} MB"
        raise InputError(str(archive), came, f"at most {GROWTH} times as much", _HINT)


def _is_litter(name: str) -> bool:
    """Whether macOS left it there.

    >>> _is_litter("a/._b.png"), _is_litter("__MACOSX/a.png"), _is_litter("a/b.png")
    (True, True, False)
    """
    parts = name.rstrip("/").split("/")
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def _write(opened: zipfile.ZipFile | tarfile.TarFile, member: _Member, folder: Path) -> None:
    target = folder.joinpath(*[part for part in member.name.replace("\\", "/").split("/") if part not in ("", ".")])
    if member.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source: IO[bytes] | None
    if isinstance(opened, zipfile.ZipFile) and isinstance(member.info, zipfile.ZipInfo):
        source = opened.open(member.info)
    else:
        assert isinstance(opened, tarfile.TarFile) and isinstance(member.info, tarfile.TarInfo)
        source = opened.extractfile(member.info)
    assert source is not None  # a plain file
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
