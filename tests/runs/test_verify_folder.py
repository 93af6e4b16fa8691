"""`verify` hashes everything, says what is wrong, and sees to it that the next run puts it right."""

from pathlib import Path

import pytest
from squares import fingerprint

from pipeline.errors import LockedError, OutputError
from pipeline.results.lock import hold_folder
from pipeline.runs.verify_folder import verify_folder


def test_untouched_folder_is_as_it_was_written(run, tmp_path):
    """Six labels, one shard, two tables and the report."""
    run()
    verified = verify_folder(tmp_path / "out")
    assert verified.ok
    assert (verified.exit_code, verified.images, verified.checked, verified.findings) == (0, 6, 6 + 1 + 3, ())
    assert verified.lines()[-1].startswith("10 files of 6 images checked: everything is as it was written")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("labels/plate0/02.tif", "output_changed"),
        ("objects.parquet", "table_changed"),
        ("images.csv", "table_changed"),
        (".maskline/shards", "shard_changed"),
        (".maskline/ledger", "segment_damaged"),
    ],
)
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_silent_damage_is_found_and_healed(run, tmp_path, monkeypatch, name, code, how):
    """A bit that flips under an unchanged stamp is what only `verify` can see; after it, `segment` heals it."""
    out = tmp_path / "out"
    run(chunk_seconds=0.001)
    before = fingerprint(out)
    path = out / name if not (out / name).is_dir() else sorted((out / name).iterdir())[0]
    if how == "delete":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    if how == "delete" and code == "segment_damaged":
        run()  # an image that no segment knows is new, and its label file a stranger's
        assert fingerprint(out) == before
        return
    verified = verify_folder(out)
    assert not verified.ok
    assert verified.exit_code == 3
    assert code in {finding.code for finding in verified.findings}
    assert "not as written" in verified.lines()[-1]
    assert run().done == (0 if code == "table_changed" else 1)
    assert fingerprint(out) == before
    assert verify_folder(out).ok


def test_damage_that_stamps_do_not_show(run, tmp_path, monkeypatch):
    """Stamps that lie (here: all are made equal) are overruled by what verify has put on record."""
    from pipeline.results.ledger import Product

    out = tmp_path / "out"
    run()
    before = fingerprint(out)
    label, table = out / "labels/plate0/02.tif", out / "images.csv"
    for path in (label, table):
        path.write_bytes(b"x" * path.stat().st_size)
    real = Product.unchanged
    monkeypatch.setattr(Product, "unchanged", lambda self, path: Path(path).exists())
    assert run().done == 0
    assert len(verify_folder(out).findings) == 2
    assert run().done == 1
    monkeypatch.setattr(Product, "unchanged", real)
    assert fingerprint(out) == before


def test_label_that_nobody_knows_is_a_note(run, tmp_path):
    """A stranger's file is named, but nothing is wrong."""
    run()
    (tmp_path / "out/labels/mine.tif").write_bytes(b"")
    verified = verify_folder(tmp_path / "out")
    assert [finding.code for finding in verified.findings] == ["not_on_record"]
    assert verified.ok


def test_not_a_results_folder(tmp_path):
    """Nothing there, and a folder of something else."""
    with pytest.raises(OutputError, match="got nothing there"):
        verify_folder(tmp_path / "none")
    with pytest.raises(OutputError, match="got no results of maskline"):
        verify_folder(tmp_path)


def test_folder_that_a_run_works_in(run, tmp_path):
    """What is being written cannot be verified."""
    run()
    with hold_folder(tmp_path / "out"), pytest.raises(LockedError):
        verify_folder(tmp_path / "out")


def test_archive_that_cannot_be_written(run, tmp_path, monkeypatch):
    """A read-only folder is verified all the same, and left as it is."""
    from contextlib import contextmanager

    from pipeline.runs import verify_folder as module

    run()
    out = tmp_path / "out"
    (out / "labels/plate0/02.tif").unlink()

    @contextmanager
    def refuse(out, mark=True):
        raise OutputError(str(out), "Read-only file system", "a folder that can be written", "repair its rights")
        yield

    monkeypatch.setattr(module, "hold_folder", refuse)
    before = sorted(path for path in out.rglob("*"))
    assert [finding.what for finding in verify_folder(out).findings] == ["it is missing"]
    assert sorted(path for path in out.rglob("*")) == before


def test_watcher_hears_of_every_image(run, tmp_path):
    """done of total."""
    run()
    events = []
    verify_folder(tmp_path / "out", events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("verify", n, 6) for n in range(1, 7)]
