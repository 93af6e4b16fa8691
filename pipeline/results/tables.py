"""objects.parquet and images.csv: from one shard a chunk to one table a folder, the same bytes whatever the chunks.

Row order is that of the images, column order is canonical, row groups have a fixed size, and nothing in the files tells
when or in how many attempts they were made.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import OutputError
from pipeline.results.ledger import Entry
from pipeline.results.object_flags import MEASURED, Expected
from pipeline.types import FORMAT_VERSION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

IMAGE_COLUMNS = (
    *("path", "sha256", "status", "group", "objects", "area", "density", "intensity"),
    *("error", "hint", "flags", "stage"),
)
FIRST = ("image", "label", "class")
ROW_GROUP = 1 << 18
_METADATA = {b"maskline.format_version": str(FORMAT_VERSION).encode()}


def fraction_column(name: str) -> str:
    """The column of images.csv that has the part of an image's pixels that are of a class."""
    return f"fraction_{name}"


def plain_text(text: str) -> str:
    r"""A file name as text that any table can hold: bytes that are no UTF-8 are spelled out.

    >>> plain_text("Träger/\udcff.png")
    'Träger/\\udcff.png'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_shard(path: Path, frames: Sequence["pd.DataFrame"]) -> tuple[str, list[tuple[int, int]]]:
    """Write the objects of a chunk, one frame an image, to one file; returns its SHA-256 and (first row, rows) of each.

    A column that an image does not have (channels, units) is null in its rows. Raises OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = np.array([len(frame) for frame in frames], dtype=np.int64)
    table = _join(frames, lengths) if frames else pa.table({})
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = atomic_write(path, lambda stream: pq.write_table(table, stream, compression="zstd"))
    starts = np.cumsum(lengths) - lengths
    return sha256, [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]


def table_size(path: Path) -> tuple[int, tuple[str, ...]]:
    """Rows and columns of a table of objects on disk."""
    import pyarrow.parquet as pq

    head = pq.read_metadata(path)
    return head.num_rows, tuple(head.schema.to_arrow_schema().names)


def _join(frames: Sequence["pd.DataFrame"], lengths: np.ndarray[Any, np.dtype[np.int64]]) -> "pa.Table":
    """Frames of the same columns are joined at once, since a table an image is what would cost."""
    import pandas as pd
    import pyarrow as pa

    alike: dict[tuple[str, ...], list[int]] = {}
    for number, frame in enumerate(frames):
        alike.setdefault(tuple(frame.columns), []).append(number)
    tables = []
    for members in alike.values():
        full = [n for n in members if lengths[n]] or members[:1]
        joined = pd.concat([frames[n] for n in full], ignore_index=True) if len(full) > 1 else frames[full[0]]
        table = pa.Table.from_pandas(joined, preserve_index=False).replace_schema_metadata(None)
        tables.append(table.append_column("#image", pa.array(np.repeat(full, lengths[full]).astype(np.int64))))
    whole = pa.concat_tables(tables, promote_options="permissive")
    order = np.argsort(whole.column("#image").to_numpy(), kind="stable")
    return whole.take(pa.array(order)).drop_columns(["#image"])


class _Shards:
    """The shards below `folder`, the last few kept open. Raises OutputError for one that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, pa.Table] = {}

    def damaged(self, name: str, error: Exception) -> OutputError:
        where, hint = f"table shard {self.folder / name}", "run maskline verify, then segment again"
        return OutputError(where, str(error), "a shard as it was written", hint)

    def schema(self, name: str) -> "pa.Schema":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(self.folder / name)
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(name, error) from error

    def read(self, name: str) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        if name not in self.tables:
            try:
                table = pq.read_table(self.folder / name)
            except (OSError, pa.ArrowException) as error:
                raise self.damaged(name, error) from error
            self.tables = dict(list(self.tables.items())[-3:]) | {name: table}
        return self.tables[name]

    def column(self, entry: Entry, column: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """One column of all rows of an image."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            values = pq.read_table(self.folder / entry.shard, columns=[column]).column(0)
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(entry.shard, error) from error
        return np.asarray(values.slice(*entry.rows).to_numpy(), np.float64)

    def rows(self, name: str, first: int, count: int) -> "pa.Table":
        """Some rows of a shard; of one too large to be held, only the row groups they are in are read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.folder / name) as file:
                if file.metadata.num_rows <= ROW_GROUP:
                    return self.read(name).slice(first, count)
                lengths = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
                starts = np.cumsum([0, *lengths])
                groups = [k for k, n in enumerate(lengths) if starts[k] < first + count and starts[k] + n > first]
                return file.read_row_groups(groups).slice(first - int(starts[groups[0]]), count)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise self.damaged(name, error) from error


def _schema(entries: Iterable[Entry], shards: _Shards, flagged: bool) -> "pa.Schema":
    """Every column that any of the images has, in canonical order, of the widest of its types; flags come last."""
    import pyarrow as pa

    from pipeline.scoring.measure import order_columns

    wanted: dict[str, dict[tuple[str, ...], None]] = {}
    names: dict[str, None] = {}
    for entry in entries:
        wanted.setdefault(entry.shard, {})[entry.columns] = None
        names.update(dict.fromkeys(entry.columns))
    parts = []
    for shard, lists in wanted.items():
        had = {name for columns in lists for name in columns}
        parts.append(pa.schema([field for field in shards.schema(shard) if field.name in had]))
    types = {field.name: field.type for field in pa.unify_schemas(parts, promote_options="permissive")} if parts else {}
    types |= {"image": pa.string(), "label": types.get("label", pa.int64()), "class": pa.string()}
    ordered = [*FIRST, *(name for name in order_columns(names) if name not in FIRST)]
    known = [(name, pa.float64() if pa.types.is_null(types[name]) else types[name]) for name in ordered]
    return pa.schema([*known, ("flags", pa.string())] if flagged else known, metadata=_METADATA)


def _runs(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Neighbours whose rows follow each other in one shard: they are read as one slice, of a row group at most."""
    run: list[Entry] = []
    for entry in (part for whole in entries for part in _parts(whole)):
        if run and not _follows(entry, run):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _follows(entry: Entry, run: Sequence[Entry]) -> bool:
    rows = sum(one.rows[1] for one in run) + entry.rows[1]
    return entry.shard == run[-1].shard and entry.rows[0] == sum(run[-1].rows) and rows <= ROW_GROUP


def _parts(entry: Entry) -> Iterator[Entry]:
    """An image of very many objects, a row group at a time."""
    first, count = entry.rows
    for start in range(first, first + count, ROW_GROUP):
        yield replace(entry, rows=(start, min(ROW_GROUP, first + count - start)))


def _slice(
    run: Sequence[Entry],
    shards: _Shards,
    schema: "pa.Schema",
    kind: str,
    expected: Expected | None,
    usual: Mapping[str, float],
) -> "pa.Table":
    import pyarrow as pa

    total = sum(entry.rows[1] for entry in run)
    rows = shards.rows(run[0].shard, run[0].rows[0], total)
    if rows.num_rows != total:
        raise shards.damaged(run[0].shard, ValueError(f"{rows.num_rows} rows instead of {total}"))
    images = np.repeat(np.arange(len(run)), [entry.rows[1] for entry in run])
    names = pa.array([plain_text(entry.path) for entry in run], pa.string()).take(pa.array(images))
    given = {"image": names}
    if "class" not in rows.column_names:  # the rows of class maps say themselves what they are
        given["class"] = pa.array([kind] * total, pa.string())
    if expected is not None:
        given["flags"] = pa.array(expected.of_rows(run, rows, usual), pa.string())
    columns = []
    for field in schema:
        column = given.get(field.name)
        if column is None and field.name in rows.column_names:
            column = rows.column(field.name).cast(field.type)
        columns.append(pa.nulls(total, field.type) if column is None else column)
    return pa.table(columns, schema=schema)


def _usual(entries: Iterable[Entry], shards: _Shards, expected: Expected) -> dict[str, float]:
    """The usual diameters of images of so many objects that their rows are not read at once."""
    many = (entry for entry in entries if entry.rows[1] > ROW_GROUP and MEASURED[1] in entry.columns)
    return {entry.path: expected.usual(shards.column(entry, MEASURED[1]), entry.row) for entry in many}


def write_objects(
    out: Path, shards: Path, entries: Sequence[Entry], kind: str = "object", expected: Expected | None = None
) -> str:
    """Write `objects.parquet`: the objects of `entries` (done images, in their order), one row an object.

    With `expected`, which is the model's, each object has `flags`. Memory holds one row group, a few shards, and one
    column of an image of very many objects. Returns the SHA-256. Raises OSError, and OutputError where a shard is
    damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = _Shards(shards)
    schema = _schema(entries, source, expected is not None)
    usual = _usual(entries, source, expected) if expected is not None else {}

    def write(stream: BinaryIO) -> None:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            pending = schema.empty_table()
            for run in _runs(entry for entry in entries if entry.rows[1]):
                pending = pa.concat_tables([pending, _slice(run, source, schema, kind, expected, usual)])
                while pending.num_rows >= ROW_GROUP:
                    writer.write_table(pending.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                    pending = pending.slice(ROW_GROUP)
            if pending.num_rows:
                writer.write_table(pending.combine_chunks(), row_group_size=ROW_GROUP)

    return atomic_write(out / "objects.parquet", write)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(plain_text(str(value)).split())


def format_images(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """images.csv as bytes: one row an input file, the columns of the contract first, then what else is known.

    >>> format_images([{"path": "a.png", "status": "done", "objects": 3, "area": 12.25}]).decode().splitlines()[1]
    'a.png,,done,,3,12.25,,,,,,'
    """
    names = list(dict.fromkeys([*IMAGE_COLUMNS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [_cell(row.get(name)) for name in names]
        cells[0] = plain_text(str(row["path"]))  # white space in a name is part of the name
        writer.writerow(cells)
    return text.getvalue().encode("utf-8")
