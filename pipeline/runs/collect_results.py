"""The end of a segmentation: from ledger and shards to the tables and the report that people open.

What already stands as it would be written is left alone, so that a run with nothing to do costs nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.files import atomic_write, remove, sha256_file
from pipeline.results.ledger import Entry, Ledger, Product, read_product
from pipeline.results.lock import STATE, writing
from pipeline.runs.case_products import picture_path
from pipeline.runs.model_record import read_record
from pipeline.runs.planned_run import Plan
from pipeline.runs.segment_chunk import SHARDS
from pipeline.types import FORMAT_VERSION, Case

if TYPE_CHECKING:
    import pandas as pd

LOST = ("run", "no outcome came back for this image", "run the same command again; maskline.log says what happened")
_MARK = f"{STATE}/tables.json"
TABLES_VERSION = 2  # raised when the tables of the same results would have other columns than before


@dataclass(frozen=True)
class Collected:
    """The folder as the tables tell it. `changed` says whether anything in them is new since they were last written."""

    rows: tuple[Mapping[str, Any], ...]
    entries: tuple[Entry, ...]  # the images that are done, in the order of the tables
    diameter: float | None
    confidence: float | None
    key: str
    changed: bool
    flags: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["status"] == "failed"]

    @property
    def objects(self) -> int:
        return sum(row.get("objects") or 0 for row in self.rows if row["status"] == "done")

    def frame(self) -> "pd.DataFrame":
        """The rows, with their flags, as pandas has them."""
        import pandas as pd

        from pipeline.results.tables import IMAGE_COLUMNS

        names = list(dict.fromkeys([*IMAGE_COLUMNS, *(name for row in self.rows for name in row)]))
        texts = dict.fromkeys(("error", "hint", "stage", "flags"), "")
        return pd.DataFrame([texts | dict(row) for row in self.rows], columns=names)


def _row(case: Case, entry: Entry | None, lost: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"path": case.relative, "sha256": "", "status": "failed", "group": case.group}
    if entry is None or lost:
        stage, error, hint = LOST
        return row | {"stage": stage, "error": error, "hint": hint}
    row |= {"sha256": entry.source.sha256, "status": entry.status}
    if entry.status == "done":
        label = next(name for name in entry.outputs if name.startswith("labels/"))
        return row | dict(entry.row) | {"labels": label, "model": entry.model[:12]}
    return row | {"status": "failed", "stage": entry.stage, "error": entry.error, "hint": entry.hint}


def collect(plan: Plan, ledger: Ledger, run: str) -> Collected:
    """What the tables have to say now: one row an image, sorted by path. Reads the mark of the tables that stand."""
    lost = {planned.case.relative for planned in plan.todo} - ledger.accounted(run)
    cases = sorted((*plan.cases, *plan.others), key=lambda case: case.relative)
    rows = tuple(_row(case, ledger.entries.get(case.relative), case.relative in lost) for case in cases)
    entries = tuple(ledger.entries[row["path"]] for row in rows if row["status"] == "done")
    diameter, confidence = _expected(plan)
    places = [(entry.shard, entry.rows) for entry in entries]
    text = json.dumps([TABLES_VERSION, rows, places, diameter, confidence], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Collected(rows, entries, diameter, confidence, key, not _stand(plan.config.out, key))


def _expected(plan: Plan) -> tuple[float | None, float | None]:
    """Diameter (px of the model) and confidence of the model's usual images."""
    record = read_record(plan.model)
    return record.get("diameter"), record.get("confidence")


def read_mark(out: Path, key: str | None = None) -> dict[str, Product]:
    """The tables and the report as they were last written; nothing where they never were, or not for `key`."""
    try:
        mark = json.loads((out / _MARK).read_text(encoding="utf-8"))
        if mark["format_version"] != FORMAT_VERSION or key not in (None, mark["key"]):
            return {}
        return {name: read_product(values) for name, values in mark["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def forget_tables(out: Path) -> None:
    """Let the next run write the tables anew."""
    with writing(out):
        (out / _MARK).unlink(missing_ok=True)


def _stand(out: Path, key: str) -> bool:
    made = read_mark(out, key)
    return bool(made) and all(product.unchanged(out / name) for name, product in made.items())


def write_tables(out: Path, collected: Collected) -> "pd.DataFrame":
    """Write objects.parquet and images.csv, each whole or not at all; returns the latter as a frame."""
    from pipeline.results.object_flags import Expected
    from pipeline.results.quality import flag_images
    from pipeline.results.tables import format_images, write_objects

    frame = collected.frame()
    frame["flags"] = flag_images(frame, collected.diameter, collected.confidence)
    rows = [dict(row) | {"flags": text} for row, text in zip(collected.rows, frame["flags"], strict=True)]
    with writing(out):
        expected = Expected(collected.diameter, collected.confidence)
        write_objects(out, out / SHARDS, collected.entries, expected=expected)
        atomic_write(out / "images.csv", format_images(rows))
    return frame


def mark_tables(out: Path, key: str, run_id: str) -> None:
    """Note what was written and for which rows: the next run need not write it again. Comes last of all."""
    names = ["objects.parquet", "images.csv", "report.html"]
    with writing(out):
        made = {name: Product.of(out / name, sha256_file(out / name)) for name in names}
        files = {name: [product.sha256, *product.stamp] for name, product in made.items()}
        mark = {"format_version": FORMAT_VERSION, "key": key, "run_id": run_id, "files": files}
        atomic_write(out / _MARK, json.dumps(mark).encode())


def drop_orphans(out: Path, ledger: Ledger) -> None:
    """Remove shards that no segment vouches for: chunks that were killed before they were sealed."""
    folder = out / SHARDS
    with writing(out):
        for path in folder.glob("*.parquet") if folder.is_dir() else ():
            if path.name not in ledger.shards:
                path.unlink(missing_ok=True)


def drop_replaced(out: Path, before: Mapping[str, Entry], ledger: Ledger) -> None:
    """Remove label files that were on record `before` this run and are not now: labels are of another kind."""
    named = {name for entry in ledger.entries.values() for name in entry.outputs}
    replaced = (entry for path, entry in before.items() if ledger.entries.get(path) is not entry)
    stale = {name for entry in replaced for name in entry.outputs if name.startswith("labels/")} - named
    with writing(out):
        for name in stale:
            remove(out / name)


class Pictures(Mapping[str, bytes]):
    """The previews of a results folder by image path, read from the disk when asked for."""

    def __init__(self, out: Path, entries: Sequence[Entry]) -> None:
        self.out = out
        self.stems = {entry.path: entry.stem for entry in entries}

    def __getitem__(self, path: str) -> bytes:
        try:
            return (self.out / picture_path(self.stems[path])).read_bytes()
        except OSError:
            raise KeyError(path) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.stems)

    def __len__(self) -> int:
        return len(self.stems)


def write_folder_report(out: Path, collected: Collected, images: "pd.DataFrame", run: Mapping[str, Any]) -> None:
    """report.html over the tables that were just written."""
    import pyarrow.parquet as pq

    from pipeline.results.report import write_report

    wanted = ("image", "equivalent_diameter_px", "equivalent_diameter_um", "confidence")
    have = pq.read_schema(out / "objects.parquet").names
    objects = pq.read_table(out / "objects.parquet", columns=[c for c in wanted if c in have]).to_pandas()
    with writing(out):
        write_report(out, images, objects, Pictures(out, collected.entries), run)
