"""Tables: the same bytes whatever the chunks were, in canonical order, with nothing lost on the way."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OutputError
from pipeline.results import tables
from pipeline.results.ledger import Entry, Product
from pipeline.results.object_flags import Expected
from pipeline.results.tables import IMAGE_COLUMNS, format_images, write_objects, write_shard
from pipeline.scoring.measure_volumes import measure_volume
from pipeline.types import Geometry, Image

NOTHING = Product("", (0, 0, 0, 0))


def objects(count: int, channels: int = 1, unit: str = "", seed: int = 0) -> pd.DataFrame:
    """What `measure` gives, in small: integers, floats, booleans, columns that depend on channels and units."""
    rng = np.random.default_rng(seed)
    frame = {"label": np.arange(1, count + 1), "area_px2": rng.random(count)}
    if unit:
        frame[f"area_{unit}2"] = rng.random(count)
    frame |= {f"intensity_mean_c{c}": rng.random(count) for c in range(channels)}
    return pd.DataFrame(frame | {"touches_edge": rng.random(count) > 0.5})


def entry(path: str, shard: str, rows: tuple[int, int], frame: pd.DataFrame) -> Entry:
    return Entry(path, path, "done", NOTHING, "m", "s", shard=shard, rows=rows, columns=tuple(frame.columns))


def write_all(folder: Path, frames: dict[str, pd.DataFrame], chunks: list[list[str]]) -> bytes:
    """objects.parquet of `frames`, worked on in these chunks."""
    folder.mkdir()
    entries: dict[str, Entry] = {}
    for number, members in enumerate(chunks):
        _, places = write_shard(folder / f"{number}.parquet", [frames[name] for name in members])
        for name, rows in zip(members, places, strict=True):
            entries[name] = entry(name, f"{number}.parquet", rows, frames[name])
    write_objects(folder, folder, [entries[name] for name in sorted(entries)])
    return (folder / "objects.parquet").read_bytes()


MIXED = {
    "a": objects(3, seed=1),
    "b": objects(0, channels=3),
    "c": objects(2, channels=3, seed=2),
    "d": objects(4, unit="um", seed=3),
    "e": objects(1, seed=4),
}


@given(st.permutations(sorted(MIXED)), st.lists(st.booleans(), min_size=5, max_size=5))
@settings(max_examples=25)
def test_same_bytes_whatever_the_chunks_were(tmp_path_factory, order, cuts):
    """Any order of work and any cut into chunks gives the bytes that one chunk gives; grey, RGB and um are mixed."""
    chunks: list[list[str]] = [[]]
    for name, cut in zip(order, cuts, strict=True):
        chunks[-1].append(name)
        if cut:
            chunks.append([])
    folder = tmp_path_factory.mktemp("tables")
    whole = write_all(folder / "whole", MIXED, [sorted(MIXED)])
    assert write_all(folder / "parts", MIXED, [chunk for chunk in chunks if chunk]) == whole


def test_rows_columns_and_values(tmp_path):
    """pandas' own concat is the oracle: every object once, images in order, canonical columns, absent is null."""
    write_all(tmp_path / "t", MIXED, [["d", "a"], ["b", "c"], ["e"]])
    read = pd.read_parquet(tmp_path / "t" / "objects.parquet")
    wanted = pd.concat([frame.assign(image=name) for name, frame in MIXED.items() if len(frame)], ignore_index=True)
    assert list(read.columns) == [
        *("image", "label", "class", "area_px2", "area_um2"),
        *("intensity_mean_c0", "intensity_mean_c1", "intensity_mean_c2", "touches_edge"),
    ]
    assert read["class"].unique().tolist() == ["object"]
    pd.testing.assert_frame_equal(
        read.drop(columns="class"), wanted[[c for c in read.columns if c != "class"]], check_dtype=False
    )
    assert read["label"].dtype == np.int64


def test_no_objects_at_all_still_makes_a_table(tmp_path):
    """A folder of empty images: no rows, but the columns that objects would have."""
    write_all(tmp_path / "t", {"a": objects(0), "b": objects(0)}, [["a"], ["b"]])
    read = pq.read_table(tmp_path / "t" / "objects.parquet")
    assert read.num_rows == 0
    assert read.column_names[:4] == ["image", "label", "class", "area_px2"]


def test_no_images_at_all_still_makes_a_table(tmp_path):
    """Where every image failed there is an empty table, not none."""
    write_objects(tmp_path, tmp_path, [])
    assert pq.read_table(tmp_path / "objects.parquet").column_names == ["image", "label", "class"]


def test_row_groups_do_not_depend_on_chunks(tmp_path, monkeypatch):
    """Row groups are cut at a fixed size, across the borders of images and shards."""
    monkeypatch.setattr(tables, "ROW_GROUP", 4)
    frames = {name: objects(3, seed=i) for i, name in enumerate("abcde")}
    one = write_all(tmp_path / "one", frames, [list("abcde")])
    assert write_all(tmp_path / "five", frames, [[name] for name in "abcde"]) == one
    metadata = pq.read_metadata(tmp_path / "one" / "objects.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 4, 3]
    assert pd.read_parquet(tmp_path / "one" / "objects.parquet")["image"].tolist() == [
        c for c in "abcde" for _ in range(3)
    ]


def test_a_shard_of_many_row_groups_is_read_in_parts(tmp_path, monkeypatch):
    """An image of very many objects never stands in memory; what is written is the same."""
    frame = objects(1000, seed=4)
    expected = write_all(tmp_path / "whole", {"a": frame}, [["a"]])
    monkeypatch.setattr(tables, "ROW_GROUP", 64)
    small = write_all(tmp_path / "small", {"a": frame}, [["a"]])
    folder = tmp_path / "parts"
    folder.mkdir()
    frame.to_parquet(folder / "0.parquet", row_group_size=37, index=False)
    monkeypatch.setattr(tables._Shards, "read", lambda *_: pytest.fail("the whole shard was read"))
    write_objects(folder, folder, [entry("a", "0.parquet", (0, 1000), frame)])
    assert (folder / "objects.parquet").read_bytes() == small
    assert pq.read_table(folder / "objects.parquet").equals(pq.read_table(tmp_path / "whole/objects.parquet"))
    assert len(expected) > 0


def measured(diameters: list[float], sure: float = 0.95, edge: bool = False) -> pd.DataFrame:
    frame = {"label": np.arange(1, len(diameters) + 1), "equivalent_diameter_px": diameters}
    return pd.DataFrame(frame | {"confidence": sure, "touches_edge": edge})


def test_each_object_has_its_flags(tmp_path):
    """In the last column, by the model's own cut and the image's median; of few objects, by the model's diameter."""
    frames = {
        "sizes": measured([10.0, 10, 10, 10, 26, 3]),
        "doubtful": measured([10.0] * 4, sure=0.8),
        "magnified": measured([10.0, 26.0], edge=True),
        "unmeasured": objects(2),
    }
    _, places = write_shard(tmp_path / "s.parquet", list(frames.values()))
    entries = [entry(n, "s.parquet", p, frames[n]) for n, p in zip(frames, places, strict=True)]
    entries[2].row["model_zoom"] = 2.0  # the model's 20 px are 10 of this file
    write_objects(tmp_path, tmp_path, entries, expected=Expected(20.0, 0.9))
    read = pd.read_parquet(tmp_path / "objects.parquet")
    assert read.columns[-1] == "flags"
    found = read.groupby("image")["flags"].apply(list)
    assert found["sizes"] == ["", "", "", "", "unusual_size", "unusual_size"]
    assert found["doubtful"] == ["low_confidence"] * 4
    assert found["magnified"] == ["touches_edge", "unusual_size;touches_edge"]
    write_objects(tmp_path, tmp_path, entries[:2], expected=Expected())
    assert pd.read_parquet(tmp_path / "objects.parquet")["flags"].tolist()[6:] == [""] * 4  # above .7


def test_classes_are_no_objects_to_flag(tmp_path):
    """The rows of a class map have empty flags, whatever their size."""
    frame = measured([10.0, 10, 10, 10, 900], sure=0.1).assign(**{"class": "cell"})
    write_shard(tmp_path / "s.parquet", [frame])
    write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 5), frame)], expected=Expected(10.0, 0.9))
    assert pd.read_parquet(tmp_path / "objects.parquet")["flags"].tolist() == [""] * 5


def test_objects_of_volumes_have_flags(tmp_path):
    """Of five boxes one is ten times as long as the others and at the edge."""
    labels = np.zeros((9, 9, 90), np.uint32)
    for number in range(4):
        labels[2:5, 2:5, 4 + 8 * number : 7 + 8 * number] = number + 1
    labels[:, :, 60:] = 5
    frame = measure_volume(labels, Image(labels[None].astype(np.uint16), Geometry.pixels(3)), np.full(5, 0.95))
    write_shard(tmp_path / "s.parquet", [frame])
    write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 5), frame)], expected=Expected())
    flags = pd.read_parquet(tmp_path / "objects.parquet")["flags"].tolist()
    assert flags == [""] * 4 + ["unusual_size;touches_edge"]


def test_flags_do_not_depend_on_row_groups(tmp_path, monkeypatch):
    """An image of more objects than are read at once is judged by the median of all of them."""
    frame = measured([*range(1, 41)])
    write_shard(tmp_path / "s.parquet", [frame])
    whole, parts = [], []
    for found, rows in ((whole, 1 << 18), (parts, 8)):
        monkeypatch.setattr(tables, "ROW_GROUP", rows)
        write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 40), frame)], expected=Expected())
        found += pd.read_parquet(tmp_path / "objects.parquet")["flags"].tolist()
    assert whole == parts == ["unusual_size"] * 8 + [""] * 32
    (tmp_path / "s.parquet").write_bytes(b"rubbish")
    with pytest.raises(OutputError, match="run maskline verify, then segment again"):
        write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 40), frame)], expected=Expected())


def test_images_left_out_are_left_out(tmp_path):
    """Rows of images that are not asked for stay in their shard and out of the table."""
    frames = {name: objects(2, seed=i) for i, name in enumerate("abc")}
    _, places = write_shard(tmp_path / "s.parquet", list(frames.values()))
    entries = [entry(n, "s.parquet", p, frames[n]) for n, p in zip(frames, places, strict=True)]
    write_objects(tmp_path, tmp_path, [entries[0], entries[2]])
    read = pd.read_parquet(tmp_path / "objects.parquet")
    assert read["area_px2"].tolist() == [*frames["a"]["area_px2"], *frames["c"]["area_px2"]]


@pytest.mark.parametrize("damage", ["missing", "rubbish"])
def test_damaged_shard_says_what_to_do(tmp_path, damage):
    """A table is never written from half of its shards."""
    frame = objects(2)
    write_shard(tmp_path / "s.parquet", [frame])
    if damage == "missing":
        (tmp_path / "s.parquet").unlink()
    else:
        (tmp_path / "s.parquet").write_bytes(b"rubbish")
    with pytest.raises(OutputError, match="run maskline verify, then segment again"):
        write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 2), frame)])
    assert not (tmp_path / "objects.parquet").exists()


def test_shard_with_fewer_rows_than_the_ledger_says(tmp_path):
    """Rows that the ledger vouches for cannot go missing silently."""
    frame = objects(2)
    write_shard(tmp_path / "s.parquet", [frame])
    with pytest.raises(OutputError, match="2 rows instead of 3"):
        write_objects(tmp_path, tmp_path, [entry("a", "s.parquet", (0, 3), frame)])


def test_table_carries_its_version(tmp_path):
    """Every file we write says which format it is."""
    write_objects(tmp_path, tmp_path, [])
    assert pq.read_schema(tmp_path / "objects.parquet").metadata[b"maskline.format_version"] == b"1"


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"))))


def test_images_csv_begins_with_the_columns_of_the_contract():
    """Eleven columns by name and order; then whatever else is known."""
    data = format_images([{"path": "a.png", "zoom": 1.5, "status": "done"}])
    header = data.decode().splitlines()[0].split(",")
    contract = [
        "path",
        "sha256",
        "status",
        "group",
        "objects",
        "area",
        "density",
        "intensity",
        "error",
        "hint",
        "flags",
    ]
    assert header[: len(contract)] == contract
    assert header == [*IMAGE_COLUMNS, "zoom"]


def test_names_in_any_script_commas_quotes_and_line_ends():
    """A name comes back as it was; an error text is brought to one line."""
    names = ["пластина/образец 1.png", "板/細胞,1.tif", 'a "b".png', "two  spaces.png", "line\nend.png"]
    data = format_images([{"path": name, "error": "first\nsecond"} for name in names])
    assert [row["path"] for row in rows_of(data)] == names
    assert {row["error"] for row in rows_of(data)} == {"first second"}


def test_numbers_absent_values_and_booleans():
    """What is not known is empty; integers stay integers; floats have six digits."""
    row = rows_of(
        format_images([{"path": "a", "objects": 0, "area": float("nan"), "density": None, "intensity": 1 / 3}])
    )[0]
    assert (row["objects"], row["area"], row["density"], row["intensity"]) == ("0", "", "", "0.333333")


def test_no_rows_is_a_header():
    """Even then the file can be read."""
    assert format_images([]).decode() == ",".join(IMAGE_COLUMNS) + "\n"
