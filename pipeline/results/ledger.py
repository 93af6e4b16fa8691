"""The ledger of a results folder: what was done to which image, with the proof of it.

A run writes one *segment* a chunk: JSON lines, closed by a seal over every byte before it, and put in place by a
rename. A segment that is damaged or was not finished counts for nothing: its images are done again. Later segments go
before earlier ones. Nothing is ever changed in place, so many workers may write, and a reader needs no lock.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Literal

from pipeline.data.files import atomic_write, folder_stat, sha256_file
from pipeline.errors import InputError, OutputError
from pipeline.types import FORMAT_VERSION, Done, Failed, Outcome

Stamp = tuple[int, int, int, int]  # size, mtime in ns, ctime in ns, inode
Status = Literal["done", "failed", "withdrawn"]
SEGMENT = ".jsonl"


def stamp(path: Path | str) -> Stamp:
    """What the file system says of a file (or of an image that is a folder); who changes its content changes this."""
    stat = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, for every file of every run
    if S_ISDIR(stat.st_mode):
        return folder_stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@dataclass(frozen=True, slots=True)
class Product:
    """A file that was written: its content, and its stamp right after."""

    sha256: str
    stamp: Stamp

    @classmethod
    def of(cls, path: Path, sha256: str) -> "Product":
        return cls(sha256, stamp(path))

    def unchanged(self, path: Path | str) -> bool:
        """Whether `path` still is this file: by stamp, else (another inode or time, same size) by content."""
        try:
            now = stamp(path)
            return now == self.stamp or (now[0] == self.stamp[0] and sha256_file(Path(path)) == self.sha256)
        except (OSError, InputError):
            return False


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger knows of one input. `path` is relative to the input folder, `stem` names its label file.

    `rows` are where its objects stand in the shard `shard` (first, number), with the columns `columns` of their own.
    """

    path: str
    stem: str
    status: Status
    source: Product
    model: str
    settings: str
    outputs: Mapping[str, Product] = field(default_factory=dict)  # path below the results folder -> what was written
    row: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    shard: str = ""
    rows: tuple[int, int] = (0, 0)
    columns: tuple[str, ...] = ()
    stage: str = ""
    error: str = ""
    hint: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.status != "done":
            return Failed(self.path, self.stage, self.error, self.hint)
        outputs = {name: product.sha256 for name, product in self.outputs.items()}
        return Done(self.path, int(self.row.get("objects") or 0), outputs, self.row, self.seconds)


def _encode(entry: Entry, columns: dict[tuple[str, ...], int]) -> dict[str, Any]:
    return {
        "path": entry.path,
        "stem": entry.stem,
        "status": entry.status,
        "source": [entry.source.sha256, *entry.source.stamp],
        "model": entry.model,
        "settings": entry.settings,
        "outputs": {name: [made.sha256, *made.stamp] for name, made in entry.outputs.items()},
        "row": dict(entry.row),
        "seconds": dict(entry.seconds),
        "shard": entry.shard,
        "rows": list(entry.rows),
        "columns": columns.setdefault(entry.columns, len(columns)),
        "stage": entry.stage,
        "error": entry.error,
        "hint": entry.hint,
    }


def read_product(values: Sequence[Any]) -> Product:
    """A product as JSON keeps it: [sha256, size, mtime, ctime, inode]. Raises ValueError."""
    sha256, size, mtime, ctime, inode = values
    return Product(sha256, (size, mtime, ctime, inode))


def _decode(record: Mapping[str, Any], columns: Sequence[Sequence[str]]) -> Entry:
    return Entry(
        path=record["path"],
        stem=record["stem"],
        status=record["status"],
        source=read_product(record["source"]),
        model=record["model"],
        settings=record["settings"],
        outputs={name: read_product(made) for name, made in record["outputs"].items()},
        row=record["row"],
        seconds=record["seconds"],
        shard=record["shard"],
        rows=(record["rows"][0], record["rows"][1]),
        columns=tuple(columns[record["columns"]]),
        stage=record["stage"],
        error=record["error"],
        hint=record["hint"],
    )


def _line(value: Mapping[str, Any]) -> bytes:
    # surrogateescape: file names that are no valid UTF-8 must survive the round trip
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def seal_segment(folder: Path, name: str, entries: Iterable[Entry], shards: Mapping[str, Product] | None = None) -> str:
    """Write one segment, durably and whole or not at all; returns its seal (SHA-256). Raises OutputError.

    `shards` are the table shards that the segment vouches for, by name.
    """
    columns: dict[tuple[str, ...], int] = {}
    records = b"".join([_line(_encode(entry, columns)) for entry in entries])
    vouched = {shard: [made.sha256, *made.stamp] for shard, made in (shards or {}).items()}
    head = {"format_version": FORMAT_VERSION, "segment": name, "columns": list(columns), "shards": vouched}
    body = _line(head) + records
    seal = hashlib.sha256(body).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f"{name}{SEGMENT}", body + _line({"sealed": seal}))
    return seal


class DamagedSegmentError(ValueError):
    """A segment whose seal does not fit; never leaves this module's callers: the images are done again."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed segment, read and found whole."""

    seal: str
    entries: list[Entry]
    shards: dict[str, Product]


def read_segment(path: Path) -> Segment:
    """Read one segment. Raises DamagedSegmentError, OSError, or OutputError for one of a newer maskline."""
    data = path.read_bytes()
    body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    try:
        seal = str(json.loads(last)["sealed"])
        if seal != hashlib.sha256(body).hexdigest():
            raise DamagedSegmentError(path.name)
        header, *lines = body.splitlines()
        head = json.loads(header)
        if head["format_version"] != FORMAT_VERSION:
            came = f"format_version {head['format_version']}"
            raise OutputError(str(path), came, str(FORMAT_VERSION), "update maskline or give another --out")
        if head["segment"] != path.name.removesuffix(SEGMENT):
            raise DamagedSegmentError(path.name)
        entries = [_decode(json.loads(line), head["columns"]) for line in lines]
        return Segment(seal, entries, {name: read_product(made) for name, made in head["shards"].items()})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedSegmentError(path.name) from error


class Ledger:
    """Every sealed segment below `folder`, read once and followed by `refresh`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}  # by input path; the newest
        self.origin: dict[str, str] = {}  # input path -> the segment its entry stands in
        self.shards: dict[str, Product] = {}
        self.seals: dict[str, str] = {}
        self.damaged: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the segments that have come since. Raises OutputError for one that a newer maskline wrote."""
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(SEGMENT))  # noqa: PTH208
        except FileNotFoundError:
            return
        for name in names:
            if name not in self.seals and name not in self.damaged:
                self._take(name)

    def _take(self, name: str) -> None:
        try:
            segment = read_segment(self.folder / name)
        except (DamagedSegmentError, OSError):
            self.damaged.append(name)
            return
        self.seals[name] = segment.seal
        self.shards.update(segment.shards)
        for entry in segment.entries:
            if name >= self.origin.get(entry.path, ""):
                self.entries[entry.path] = entry
                self.origin[entry.path] = name

    def accounted(self, run: str) -> set[str]:
        """Paths of the inputs that this run has left an entry for."""
        return {path for path, name in self.origin.items() if name.startswith(f"{run}-")}

    def next_run(self) -> str:
        """The number of the next run, as segments bear it: later runs sort after earlier ones."""
        numbers = [int(name[:6]) for name in (*self.seals, *self.damaged) if name[:6].isdigit()]
        return f"{max(numbers, default=0) + 1:06d}"

    @property
    def root(self) -> str:
        """One digest over all seals: whoever knows it notices any segment that was changed, added or taken away."""
        lines = "".join(f"{name} {seal}\n" for name, seal in sorted(self.seals.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def set_damaged_aside(self) -> tuple[str, ...]:
        """Rename damaged segments so that they are told of once; returns their names. Only for who holds the folder."""
        for name in self.damaged:
            (self.folder / name).rename(self.folder / f"{name}.damaged")
        aside, self.damaged = tuple(self.damaged), []
        return aside


def segment_name(run: str, chunk: int) -> str:
    """The name of a chunk's segment: it sorts by run, then by chunk.

    >>> segment_name("000003", 12)
    '000003-000012'
    """
    return f"{run}-{chunk:06d}"


def why_redo(entry: Entry | None, source: Path, out: Path, model: str, settings: str, wanted: Iterable[str]) -> str:
    """Why this input must be done (again); "" when it is proven done.

    Proven: the file is the one that was read, model and settings are the same, and every `wanted` output (paths below
    `out`) is there with the content on record.
    """
    if entry is None:
        return "new"
    if entry.status != "done":
        return "withdrawn by verify" if entry.status == "withdrawn" else "failed before"
    if entry.model != model:
        return "another model"
    if entry.settings != settings:
        return "other settings"
    if not entry.source.unchanged(source):
        return "the file has changed"
    missing = [name for name in wanted if name not in entry.outputs]
    if missing:
        return f"{missing[0].partition('/')[0]} not made yet"
    wrong = (name for name, made in entry.outputs.items() if not made.unchanged(f"{out}/{name}"))
    return next((f"{name} missing or changed" for name in wrong), "")
