"""Fetch a large file over HTTP: resumed where it broke off, tried again where that may help, whole or not at all.

`NAME.part` grows beside the target, `NAME.part.json` says what it is a part of: the address, and the ETag or date by
which the server knows that version of the file. Only a part of that version is gone on with (RFC 9110, If-Range).
Proxies are taken from the environment.
"""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from pipeline.data.files import atomic_write
from pipeline.errors import InputError, OutputError
from pipeline.types import FORMAT_VERSION, Event, Watch, unwatched

ATTEMPTS = 6  # in a row without a byte
_CHUNK = 1 << 14  # what may be lost where a connection breaks
_TIMEOUT = (15, 60)  # to connect, and between two bytes; seconds
_LATER = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE = 60.0
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_HINT = "try again later: what has come is kept; or fetch it elsewhere and give it with --from"


class _BrokenOff(Exception):  # noqa: N818 - it is no error until it has happened too often
    """What may go better when it is tried again; `pause` is how long the server wants to be left alone."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class _Part:
    """The beginning of a file, and what it is the beginning of."""

    path: Path
    url: str

    @property
    def mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> str:
        """What to ask for this very version by; "" where nothing is there that can be gone on with."""
        try:
            mark = json.loads(self.mark.read_text(encoding="utf-8"))
            return str(mark["version"]) if mark["url"] == self.url and self.size else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, version: str) -> None:
        """Begin again with what the server has now."""
        self.path.unlink(missing_ok=True)
        mark = {"format_version": FORMAT_VERSION, "url": self.url, "version": version}
        atomic_write(self.mark, json.dumps(mark).encode(), durable=False)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)


def download(url: str, target: Path, *, size: int | None = None, watch: Watch = unwatched, pause: float = 1.0) -> None:
    """Fetch `url` to `target`, which is there whole or not at all; a target that exists is left as it is.

    Parameters
    ----------
    size : bytes that the file has to have, where that is known.
    watch : told of `fetch` in megabytes.
    pause : seconds before the second attempt, doubled from one to the next.

    Raises
    ------
    InputError
        The server refuses, has a file of another size, or broke off `ATTEMPTS` times in a row without a byte.
    OutputError
        The disk cannot take it.
    """
    if target.exists():
        return
    part = _Part(target.with_name(f"{target.name}.part"), url)
    failures = 0
    try:
        part.path.parent.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            while True:
                before = part.size
                try:
                    _attempt(session, part, size, watch)
                    break
                except (requests.RequestException, _BrokenOff) as error:
                    failures = failures + 1 if part.size <= before else 1
                    if failures >= ATTEMPTS:
                        came = f"{ATTEMPTS} failures in a row, the last: {_short(error)}"
                        raise InputError(url, came, "the whole file", _HINT) from None
                    wait = min(max(getattr(error, "pause", 0.0), pause * 2 ** (failures - 1)), _LONGEST_PAUSE)
                    told = {"file": target.name, "broken_off": _short(error), "again_in": f"{wait:.0f} s"}
                    watch(Event("fetch", _megabytes(part.size), _megabytes(size or 0), told))
                    time.sleep(wait)
        part.path.replace(target)
        part.remove()
    except OSError as error:
        raise OutputError(str(target), str(error), "a folder to download to", "check rights and free disk") from error


def _short(error: Exception) -> str:
    """What went wrong, without the wrappings of those who passed it on."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return (str(inner).splitlines() or [type(error).__name__])[0][:200]


def _attempt(session: requests.Session, part: _Part, size: int | None, watch: Watch) -> None:
    """Ask once and take what comes; returns where the file is whole."""
    version, have = part.version(), part.size
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes: ranges are of those
    if version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with session.get(part.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416 and _whole(answer, have, size):
            return
        _check_answer(answer, part)
        going_on = answer.status_code == 206 and _starts_at(answer, have)
        if not going_on:
            have = 0
            part.begin(_version(answer))
        left = answer.headers.get("Content-Length", "")
        total = have + int(left) if left.isdecimal() else None
        _check_size(part, total, size, have)
        _take(answer, part, total, watch)
    if size is not None and part.size != size:
        raise _BrokenOff(f"{part.size:,} of {size:,} bytes")


def _whole(answer: requests.Response, have: int, size: int | None) -> bool:
    """Whether "nothing beyond that" means that all has come."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return bool(found and found[2] == str(have) and size in (None, have))


def _starts_at(answer: requests.Response, have: int) -> bool:
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return bool(found and found[1] == str(have))


def _version(answer: requests.Response) -> str:
    """A strong ETag, else the date of the last change; "" where the server gives neither."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _check_answer(answer: requests.Response, part: _Part) -> None:
    if part.url.startswith("https:") and not answer.url.startswith("https:"):
        raise InputError(part.url, f"a way to {answer.url}", "https to the end", "fetch it elsewhere, and check it")
    if answer.status_code in (200, 206):
        return
    told = f"HTTP {answer.status_code} {answer.reason}".rstrip()
    if answer.status_code == 416:
        part.remove()
        raise _BrokenOff(told)
    if answer.status_code in _LATER:
        wait = answer.headers.get("Retry-After", "")
        raise _BrokenOff(told, float(wait) if wait.isdecimal() else 0.0)
    raise InputError(part.url, told, "the file", "look at the set's page; fetch it by hand and give it with --from")


def _check_size(part: _Part, total: int | None, size: int | None, have: int) -> None:
    if total is None:
        return
    if size is not None and total != size:
        part.remove()
        raise InputError(part.url, f"{total:,} bytes", f"{size:,}", "it is not the file on record: look at its page")
    free = shutil.disk_usage(part.path.parent).free
    if total - have > free:
        wanted = f"{(total - have) / 1e6:,.0f} MB free"
        raise OutputError(str(part.path.parent), f"{free / 1e6:,.0f} MB free", wanted, "make room, or choose --out")


def _take(answer: requests.Response, part: _Part, total: int | None, watch: Watch) -> None:
    done, told = part.size, -1
    with part.path.open("ab") as file:
        chunks: Any = answer.iter_content(_CHUNK)
        for chunk in chunks:
            file.write(chunk)
            done += len(chunk)
            if _megabytes(done) > told:
                told = _megabytes(done)
                watch(Event("fetch", told, _megabytes(total or 0), {"file": part.path.name.removesuffix(".part")}))
    if total is not None and done != total:
        raise _BrokenOff(f"{done:,} of {total:,} bytes")


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)
