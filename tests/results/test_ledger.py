"""The ledger: what is sealed is read back, what is damaged counts for nothing, and "done" needs every proof."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.files import sha256_file
from pipeline.errors import OutputError
from pipeline.results.ledger import (
    DamagedSegmentError,
    Entry,
    Ledger,
    Product,
    read_segment,
    seal_segment,
    segment_name,
    stamp,
    why_redo,
)
from pipeline.types import Done, Failed

NOTHING = Product("", (0, 0, 0, 0))


def product(path: Path) -> Product:
    return Product.of(path, sha256_file(path))


@pytest.fixture
def done(tmp_path: Path) -> tuple[Entry, Path, Path]:
    """An image and its label file, with the entry that proves them: (entry, image, results folder)."""
    image, out = tmp_path / "a.png", tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    image.write_bytes(b"pixels")
    (out / "labels/a.tif").write_bytes(b"labels")
    outputs = {"labels/a.tif": product(out / "labels/a.tif")}
    return Entry("a.png", "a", "done", product(image), "m1", "s1", outputs, {"objects": 3}), image, out


def redo(done: tuple[Entry, Path, Path], **changes: object) -> str:
    entry, image, out = done
    asked = {"model": "m1", "settings": "s1", "wanted": ("labels/a.tif",)} | changes
    return why_redo(entry, image, out, **asked)  # type: ignore[arg-type]


def test_untouched_image_is_proven_done(done):
    """Same file, same output, same model, same settings: nothing to do."""
    assert redo(done) == ""


def test_unknown_image_is_new(tmp_path):
    """No entry, no proof."""
    assert why_redo(None, tmp_path, tmp_path, "m", "s", ()) == "new"


@pytest.mark.parametrize(
    ("changes", "reason"), [({"model": "m2"}, "another model"), ({"settings": "s2"}, "other settings")]
)
def test_other_model_or_settings_are_done_again(done, changes, reason):
    """The proof is for one model and one set of settings."""
    assert redo(done, **changes) == reason


def test_asking_for_an_output_that_was_not_made(done):
    """GeoJSON asked for later is made, although the labels stand."""
    assert redo(done, wanted=("labels/a.tif", "geojson/a.geojson")) == "geojson not made yet"


def test_changed_input_of_the_same_size_and_time_is_noticed(done):
    """Six other bytes in the same file, its modification time put back: the stamp's change time gives it away."""
    _, image, _ = done
    before = image.stat()
    image.write_bytes(b"PIXELS")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image.stat().st_size == before.st_size
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    assert redo(done) == "the file has changed"


def test_touched_or_copied_input_is_still_proven_by_its_content(done):
    """Another inode and another time, but the same bytes."""
    _, image, _ = done
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    copy.replace(image)
    os.utime(image, ns=(1, 1))
    assert redo(done) == ""


def test_missing_and_changed_outputs_are_done_again(done):
    """An output must be there with the content on record; a file of the same size is not enough."""
    _, _, out = done
    (out / "labels/a.tif").write_bytes(b"LABELS")
    assert redo(done) == "labels/a.tif missing or changed"
    (out / "labels/a.tif").unlink()
    assert redo(done) == "labels/a.tif missing or changed"


@pytest.mark.parametrize(("status", "reason"), [("failed", "failed before"), ("withdrawn", "withdrawn by verify")])
def test_what_is_not_done_is_done_again(done, status, reason):
    """Failures are tried again: what was wrong may have passed."""
    entry, image, out = done
    assert redo((replace(entry, status=status), image, out)) == reason


text = st.text(max_size=12)
numbers = st.integers(0, 2**62)
products = st.builds(Product, st.text("0123456789abcdef", max_size=64), st.tuples(numbers, numbers, numbers, numbers))
values = st.none() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | text
entries = st.builds(
    Entry,
    path=text,
    stem=text,
    status=st.sampled_from(["done", "failed", "withdrawn"]),
    source=products,
    model=text,
    settings=text,
    outputs=st.dictionaries(text, products, max_size=2),
    row=st.dictionaries(text, values, max_size=3),
    seconds=st.dictionaries(text, st.sampled_from([0.0, 0.25, 3.5]), max_size=2),
    shard=text,
    rows=st.tuples(numbers, numbers),
    columns=st.lists(text, max_size=3).map(tuple),
    stage=text,
    error=text,
    hint=text,
)


@given(st.lists(entries, max_size=4), st.dictionaries(text, products, max_size=2))
@settings(max_examples=50)
def test_sealed_segment_reads_back_as_it_was(tmp_path_factory, written, shards):
    """Any entry, names in any script: what is sealed is what is read."""
    folder = tmp_path_factory.mktemp("ledger")
    seal = seal_segment(folder, "000001-000000", written, shards)
    segment = read_segment(folder / "000001-000000.jsonl")
    assert (segment.seal, segment.entries, segment.shards) == (seal, written, shards)


def test_file_names_that_are_no_text_survive(tmp_path):
    """A name of arbitrary bytes, as Linux allows them, comes back as the same name."""
    name = os.fsdecode(b"tr\xe4ger.png")
    seal_segment(tmp_path, "000001-000000", [Entry(name, name, "failed", NOTHING, "m", "s")])
    assert list(Ledger(tmp_path).entries) == [name]


@given(st.data())
@settings(max_examples=60)
def test_any_changed_byte_breaks_the_seal(tmp_path_factory, data):
    """Whatever byte is changed and wherever the file is cut, the segment is refused and its images count as new."""
    folder = tmp_path_factory.mktemp("ledger")
    seal_segment(folder, "000001-000000", [Entry("a.png", "a", "done", NOTHING, "m", "s", row={"objects": 1})])
    path = folder / "000001-000000.jsonl"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 2))  # the last byte is a line end, which may miss
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 127))]) + whole[at + 1 :])
    with pytest.raises(DamagedSegmentError):
        read_segment(path)
    ledger = Ledger(folder)
    assert ledger.entries == {}
    assert ledger.damaged == ["000001-000000.jsonl"]


def test_segment_under_another_name_is_refused(tmp_path):
    """A copy of a segment must not speak for another chunk."""
    seal_segment(tmp_path, "000001-000000", [])
    (tmp_path / "000001-000000.jsonl").rename(tmp_path / "000002-000000.jsonl")
    assert Ledger(tmp_path).damaged == ["000002-000000.jsonl"]


def test_segment_of_a_newer_version_is_refused_clearly(tmp_path, monkeypatch):
    """What a later maskline wrote is no damage; it is refused by name."""
    monkeypatch.setattr("pipeline.results.ledger.FORMAT_VERSION", 99)
    seal_segment(tmp_path, "000001-000000", [])
    monkeypatch.undo()
    with pytest.raises(OutputError, match="format_version 99, wanted 1; update maskline"):
        Ledger(tmp_path)


def test_damaged_segments_are_set_aside_once(tmp_path):
    """They are told of once, kept for whoever wants to look, and their run numbers are not given out again."""
    (tmp_path / "000007-000000.jsonl").write_text("rubbish\n")
    ledger = Ledger(tmp_path)
    assert ledger.next_run() == "000008"
    assert ledger.set_damaged_aside() == ("000007-000000.jsonl",)
    assert [path.name for path in tmp_path.iterdir()] == ["000007-000000.jsonl.damaged"]
    assert Ledger(tmp_path).damaged == []


def test_later_segments_go_before_earlier_ones(tmp_path):
    """The newest entry of an image is the one that counts, also when a reader meets the segments in two steps."""
    early, late = (Entry("a.png", "a", status, NOTHING, "m", "s") for status in ("done", "failed"))
    seal_segment(tmp_path, segment_name("000002", 0), [late])
    ledger = Ledger(tmp_path)
    seal_segment(tmp_path, segment_name("000001", 9), [early])
    ledger.refresh()
    assert ledger.entries["a.png"].status == "failed"
    assert ledger.accounted("000002") == {"a.png"}
    assert ledger.accounted("000001") == set()
    assert Ledger(tmp_path).entries == ledger.entries


def test_root_digest_tells_of_any_change(tmp_path):
    """A segment added or taken away changes the root; reading it again does not."""
    seal_segment(tmp_path, "000001-000000", [])
    first = Ledger(tmp_path).root
    assert Ledger(tmp_path).root == first
    seal_segment(tmp_path, "000001-000001", [])
    second = Ledger(tmp_path).root
    (tmp_path / "000001-000000.jsonl").unlink()
    assert len({first, second, Ledger(tmp_path).root}) == 3


def test_no_folder_is_an_empty_ledger(tmp_path):
    """A dry run over a folder that does not exist yet."""
    ledger = Ledger(tmp_path / "none")
    assert (ledger.entries, ledger.next_run()) == ({}, "000001")


def test_entry_as_outcome():
    """What the ledger knows is what the worker answers."""
    kept = Entry("a", "a", "done", NOTHING, "m", "s", {"labels/a.tif": NOTHING}, {"objects": 2}, {"read": 1.0})
    assert kept.outcome == Done("a", 2, {"labels/a.tif": ""}, {"objects": 2}, {"read": 1.0})
    failed = Entry("a", "a", "failed", NOTHING, "m", "s", stage="open", error="e", hint="h")
    assert failed.outcome == Failed("a", "open", "e", "h")


def test_segment_is_json_lines_with_a_version(tmp_path):
    """Anyone can read a ledger with nothing but a JSON parser."""
    seal_segment(tmp_path, "000001-000000", [Entry("a", "a", "failed", NOTHING, "m", "s")])
    lines = [json.loads(line) for line in (tmp_path / "000001-000000.jsonl").read_text().splitlines()]
    assert lines[0]["format_version"] == 1
    assert lines[1]["path"] == "a"
    assert list(lines[2]) == ["sealed"]


def test_stamp_of_a_missing_file_is_an_error(tmp_path):
    """Nothing stands for a file that is not there."""
    with pytest.raises(FileNotFoundError):
        stamp(tmp_path / "none")
