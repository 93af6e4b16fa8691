"""Fetch a public data set, check it, unpack it, and lay it out so that maskline reads it: all of it or nothing."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.data.download import download
from pipeline.data.files import atomic_write, maskline_home
from pipeline.data.public_sets import Archive, PublicSet
from pipeline.data.unpack import unpack
from pipeline.errors import InputError, LockedError, OutputError, UsageError
from pipeline.types import FORMAT_VERSION, Watch, unwatched

RECORD = "maskline-data.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Got:
    """A data set that lies in `folder`; `files` is None where it was there already."""

    folder: Path
    wanted: PublicSet
    files: int | None
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a person is told."""
        found = "is there already" if self.files is None else f"{self.files:,} files"
        then = self.wanted.then.format(folder=shlex.quote(str(self.folder)))
        train = [f"then      {self.wanted.train}"] if self.wanted.train else []
        return [f"{self.wanted.name:<9} {self.folder}: {found}", *self.remarks, f"next      {then}", *train]


def describe_set(wanted: PublicSet) -> list[str]:
    """What a person has to know before the download: title, size, page, licence."""
    size = f", {wanted.size / 1e6:,.0f} MB" if wanted.size else ""
    return [
        f"{wanted.title}{size}",
        f"page      {wanted.page}",
        f"holds     {wanted.holds}",
        f"licence   {wanted.licence}",
        f"          {wanted.licence_url}",
    ]


def is_there(wanted: PublicSet, out: Path) -> bool:
    """Whether `out` holds the set; raises OutputError where it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        name = json.loads((out / RECORD).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = "other files"
    if name != wanted.name:
        raise OutputError(str(out), str(name), f"nothing there, or {wanted.name}", "choose another --out")
    return True


def get_data(
    wanted: PublicSet,
    out: Path,
    *,
    accepted: bool = False,
    files: Sequence[Path] = (),
    watch: Watch = unwatched,
) -> Got:
    """Put a public data set into the folder `out`.

    Parameters
    ----------
    out : Path
        The data set's own folder. A download that broke off is kept beside it, as `.NAME.download`, and gone on with.
    accepted : bool
        Whether its licence is.
    files : archives that a person has downloaded, instead of downloading: as named in the table, or in its order.

    Raises
    ------
    UsageError
        The licence is not accepted, or not as many files are given as the set has archives.
    InputError
        The set takes an account; an archive cannot be fetched, is not the one on record, or is not to be trusted.
    OutputError
        `out` holds something else, or the disk cannot take it.
    LockedError
        Another process is at it.
    """
    out = out.absolute()
    if is_there(wanted, out):
        return Got(out, wanted, None)
    if files and len(files) != len(wanted.archives):
        names = ", ".join(archive.name for archive in wanted.archives)
        raise UsageError("--from", f"{len(files)} files", f"{len(wanted.archives)}: {names}", "repeat --from")
    if wanted.manual and not files:
        archive = wanted.archives[0].name
        hint = f"download {archive} from {wanted.page}, then `maskline data get {wanted.name} --from FILE`"
        raise InputError(f"data get {wanted.name}", "a set that takes an account", "a file that you downloaded", hint)
    if not accepted:
        came, hint = f"no acceptance of its licence ({wanted.licence})", f"read {wanted.licence_url} first"
        raise UsageError(f"data get {wanted.name}", came, "--accept-licence, or a yes at a terminal", hint)
    with _locked(out):
        return _get(wanted, out, files, watch)


def _get(wanted: PublicSet, out: Path, files: Sequence[Path], watch: Watch) -> Got:
    downloads, fresh = out.with_name(f".{out.name}.download"), out.with_name(f".{out.name}.unpacking")
    given = _given(wanted, files)
    shutil.rmtree(fresh, ignore_errors=True)  # left by one that was killed here
    remarks, rows = [], []
    try:
        for archive in wanted.archives:
            path = given.get(archive.name) or _fetch(archive, downloads, watch)
            row, remark = _checked(archive, path, given=bool(files))
            remarks += remark
            rows.append(row)
            (fresh / "archive").mkdir(parents=True, exist_ok=True)
            unpack(path, fresh / "archive", watch)
        wanted.arrangement.fill(fresh / "archive", fresh / "set", watch)
        count = sum(path.is_file() for path in (fresh / "set").rglob("*"))
        _write_record(wanted, fresh / "set", rows)
        if out.exists():
            out.rmdir()  # empty, as `is_there` has seen
        (fresh / "set").replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            downloads.rmdir()  # unless there is something in it to go on with
    shutil.rmtree(downloads, ignore_errors=True)
    return Got(out, wanted, count, tuple(remarks))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout:
        raise LockedError(str(out), "another process at it", "one at a time", "wait until it has finished") from None


def _given(wanted: PublicSet, files: Sequence[Path]) -> dict[str, Path]:
    """The files that a person gave, by the names of the archives they are."""
    names = [archive.name for archive in wanted.archives]
    by_name = {path.name: path for path in files}
    return by_name if set(by_name) == set(names) else dict(zip(names, files, strict=False))


def _fetch(archive: Archive, downloads: Path, watch: Watch) -> Path:
    path = downloads / archive.name
    download(archive.url, path, size=archive.size, watch=watch)
    return path


def _checked(archive: Archive, path: Path, *, given: bool) -> tuple[dict[str, Any], list[str]]:
    """What the record says of an archive, and what a person has to be told; raises InputError for another file."""
    digests = _digests(path)
    kind, _, told = (archive.checksum or "").partition(":")
    remarks = []
    if archive.checksum and digests[kind] != told:
        _refuse(path, kind, digests[kind], told, f"{archive.vouched} has another file on record", given)
    if not archive.checksum:
        remarks += [f"checksum  {archive.name}: sha256 {digests['sha256']}", _believed(archive, path, digests, given)]
    row = {"file": archive.name, "url": archive.url, "bytes": path.stat().st_size, **digests}
    return row | {"published": archive.checksum, "published_by": archive.vouched}, remarks


def _believed(archive: Archive, path: Path, digests: Mapping[str, str], given: bool) -> str:
    """What is to be said of a file that nobody has published a checksum of; a first download is believed."""
    if given:
        return "          nobody has published one to compare with"
    known = _remembered().get(archive.url)
    if known is None:
        _remember(archive.url, digests["sha256"])
        return "          nobody has published one to compare with; it is kept for the next time"
    if known != digests["sha256"]:
        _refuse(path, "sha256", digests["sha256"], known, "what was fetched from there before was another", given)
    return "          nobody has published one; it is what was fetched before"


def _refuse(path: Path, kind: str, came: str, wanted: str, why: str, given: bool) -> None:
    """Raise InputError; what was downloaded is removed, what a person gave is not."""
    if not given:
        path.unlink(missing_ok=True)
    hint = (
        "give the file from the set's own page" if given else "fetch it again; if it stays so, look at the set's page"
    )
    raise InputError(str(path), f"{kind} {came}", f"{wanted}: {why}", hint)


def _digests(path: Path) -> dict[str, str]:
    """sha256 and md5 (as some publish it) of a file, read once; raises InputError where it cannot be read."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                md5.update(chunk)
    except OSError as error:
        raise InputError(str(path), str(error), "a file that can be read", "check the path and its rights") from error
    return {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()}


def _memory() -> Path:
    return maskline_home() / "downloads.json"


def _remembered() -> Mapping[str, str]:
    """sha256 by address, of what was fetched before and had no published checksum."""
    try:
        found = json.loads(_memory().read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(url): str(digest) for url, digest in found.items()} if isinstance(found, dict) else {}


def _remember(url: str, sha256: str) -> None:
    tree = {"format_version": FORMAT_VERSION, "sha256": {**_remembered(), url: sha256}}
    atomic_write(_memory(), json.dumps(tree, indent=2).encode() + b"\n")


def _write_record(wanted: PublicSet, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    record = {
        "format_version": FORMAT_VERSION,
        "name": wanted.name,
        "title": wanted.title,
        "page": wanted.page,
        "licence": wanted.licence,
        "licence_url": wanted.licence_url,
        "licence_accepted": datetime.now(UTC).isoformat(timespec="seconds"),
        "archives": list(rows),
    }
    atomic_write(folder / RECORD, json.dumps(record, indent=2).encode() + b"\n")
