"""`segment` on a folder: nothing lost, nothing half-written, nothing done twice, everything that changed done again."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from squares import draw, fingerprint, make_model, rows_of

from pipeline.data.labels import read_labels
from pipeline.errors import InputError, LockedError, ModelError, OutputError, UsageError
from pipeline.results.lock import hold_folder
from pipeline.runs import segment_case
from pipeline.types import Event, Failed


def stamps(out: Path) -> dict[str, int]:
    return {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in sorted((out / "labels").rglob("*.tif"))}


def test_every_image_has_labels_rows_and_a_row(run, images, tmp_path):
    """Six images in two sub-folders: six label files under the same names, every object in the table, all counted."""
    summary = run()
    out = tmp_path / "out"
    assert (summary.done, summary.skipped, summary.failed, summary.exit_code) == (6, 0, 0, 0)
    assert sorted(stamps(out)) == [f"labels/plate{n % 2}/{n:02d}.tif" for n in (0, 2, 4, 1, 3, 5)]
    rows = rows_of(out)
    assert list(rows) == sorted(p.relative_to(images).as_posix() for p in images.rglob("*.png"))
    objects = pd.read_parquet(out / "objects.parquet")
    for path, row in rows.items():
        number = int(Path(path).stem)
        labels, _ = read_labels(out / row["labels"])
        assert int(row["objects"]) == labels.max() == 1 + number % 5
        assert (objects["image"] == path).sum() == 1 + number % 5
        assert row["sha256"] == hashlib.sha256((images / path).read_bytes()).hexdigest()
        assert row["status"] == "done"
    assert summary.objects == len(objects) == sum(1 + n % 5 for n in range(6))
    assert (out / "report.html").is_file()


def test_second_run_does_nothing(run, segmenter, tmp_path):
    """All six are proven done: no image is read, no file is written, the exit code is the same."""
    run()
    out = tmp_path / "out"
    before = fingerprint(out), stamps(out), (out / "report.html").stat().st_mtime_ns, len(segmenter.seen)
    summary = run()
    assert (summary.done, summary.skipped, summary.exit_code) == (0, 6, 0)
    assert (fingerprint(out), stamps(out), (out / "report.html").stat().st_mtime_ns, len(segmenter.seen)) == before


def test_results_do_not_depend_on_the_chunks(run, tmp_path):
    """One chunk or six, in order or backwards: the same bytes."""

    def backwards(work, chunks):
        for chunk in reversed(chunks):
            yield work(chunk)

    run(out="one")
    run(out="six", chunk_seconds=0.001, run_chunks=backwards)
    assert len(list((tmp_path / "six/.maskline/ledger").iterdir())) == 6
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "six")


def test_new_and_changed_images_only(run, segmenter, images, tmp_path):
    """One image added, one replaced by another of the same size on disk: these two are done, the table has both."""
    run()
    segmenter.seen.clear()
    draw(images / "plate0/new.png", 4)
    (images / "plate0/02.png").write_bytes((images / "plate0/04.png").read_bytes())
    summary = run()
    assert sorted(segmenter.seen) == ["02.png", "new.png"]
    assert (summary.done, summary.skipped) == (2, 5)
    rows = rows_of(tmp_path / "out")
    assert rows["plate0/02.png"]["sha256"] == rows["plate0/04.png"]["sha256"]
    assert rows["plate0/02.png"]["objects"] == rows["plate0/04.png"]["objects"]
    assert len(rows) == 7
    run(out="fresh")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "fresh")


def test_touched_and_moved_images_are_not_done_again(run, segmenter, images):
    """New times and inodes, same content: still proven, by content."""
    run()
    segmenter.seen.clear()
    copies = images.with_name("copies")
    shutil.copytree(images, copies)
    shutil.rmtree(images)
    copies.rename(images)
    os.utime(images / "plate0/00.png", ns=(5, 5))
    assert run().skipped == 6
    assert segmenter.seen == []


@pytest.mark.parametrize("damage", ["delete", "truncate", "same size", "tables", "shard", "segment"])
def test_what_does_not_check_out_is_done_again(run, images, tmp_path, damage):
    """A label file, a table, a shard or a ledger segment that is missing or damaged is made anew, as it was."""
    run(chunk_seconds=0.001)
    out = tmp_path / "out"
    before = fingerprint(out)
    label = out / "labels/plate0/02.tif"
    data = label.read_bytes()
    if damage == "delete":
        label.unlink()
    elif damage == "truncate":
        label.write_bytes(data[:-10])
    elif damage == "same size":
        label.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "tables":
        (out / "images.csv").write_text("path\n")
        (out / "objects.parquet").unlink()
    elif damage == "shard":
        next((out / ".maskline/shards").iterdir()).write_bytes(b"rubbish")
    else:
        next((out / ".maskline/ledger").iterdir()).write_bytes(b"rubbish")
    summary = run()
    assert summary.done == (0 if damage == "tables" else 1)
    assert fingerprint(out) == before


@pytest.mark.parametrize("change", [{"diameter": 12.0}, {"channel": 0}, {"force": True}, {"geojson": True}])
def test_other_settings_are_done_again(run, change):
    """What decides the results is part of the proof; --force and a new kind of output redo everything as well."""
    run()
    assert run(**change).done == 6
    if "force" not in change:
        assert run(**change).skipped == 6


@pytest.mark.parametrize("change", [{"group": "(plate.)"}, {"chunk_seconds": 1.0}, {"max_failed_fraction": 0.5}])
def test_settings_that_decide_nothing_do_not(run, change):
    """Groups, chunks and limits change no image's result."""
    run()
    assert run(**change).skipped == 6


def test_groups_appear_without_doing_anything_again(run, tmp_path):
    """The group is read from the path at the end."""
    run()
    run(group="(plate.)")
    assert {row["group"] for row in rows_of(tmp_path / "out").values()} == {"plate0", "plate1"}


def test_another_model_under_the_same_name_is_noticed(run, tmp_path):
    """The model is known by its content."""
    run()
    make_model(tmp_path / "model", "better")
    assert run().done == 6


def test_broken_files_become_rows_and_the_others_go_on(run, images, tmp_path):
    """Empty, truncated, mislabelled: one row each with stage, error and hint; exit code 3; the rest is done."""
    (images / "empty.png").write_bytes(b"")
    whole = (images / "plate0/00.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.tif").write_text("no image at all")
    summary = run(max_failed_fraction=0.4)
    assert (summary.done, summary.failed, summary.exit_code) == (6, 3, 3)
    rows = rows_of(tmp_path / "out")
    for name in ("empty.png", "cut.png", "text.tif"):
        assert rows[name]["status"] == "failed"
        assert rows[name]["stage"] in ("open", "read")
        assert rows[name]["error"]
        assert rows[name]["hint"]
        assert str(tmp_path) not in rows[name]["error"]
    assert sorted(failure.case for failure in summary.failures) == ["cut.png", "empty.png", "text.tif"]
    before = fingerprint(tmp_path / "out")
    again = run(max_failed_fraction=0.4)
    assert (again.done, again.skipped, again.failed, again.exit_code) == (0, 6, 3, 3)
    assert fingerprint(tmp_path / "out") == before
    assert not (tmp_path / "out/labels/cut.tif").exists()


def test_no_model_is_loaded_for_broken_files(run, images, monkeypatch):
    """Where only broken files are left to try, the model stays where it is."""
    whole = (images / "plate0/00.png").read_bytes()
    run()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").write_bytes(b"")
    monkeypatch.setattr(segment_case, "load_segmenter", None)
    segment_case._load.cache_clear()  # another test may have left a model in this process
    assert run().failed == 2


def test_too_many_failures_fail_the_run(run, images):
    """Three of nine is more than a fifth: exit code 4, also when the others were done before."""
    for name in "abc":
        (images / f"{name}.png").write_bytes(b"")
    assert run().exit_code == 4
    assert run().exit_code == 4


def test_image_that_broke_since_loses_its_labels(run, images, tmp_path):
    """What was true of the old file is not true of the new one."""
    run()
    (images / "plate0/00.png").write_bytes(b"")
    assert run().failed == 1
    out = tmp_path / "out"
    assert not (out / "labels/plate0/00.tif").exists()
    assert "plate0/00.png" not in set(pd.read_parquet(out / "objects.parquet")["image"])


def test_image_that_was_repaired_is_done(run, images):
    """A failure is tried again."""
    whole = (images / "plate0/00.png").read_bytes()
    (images / "plate0/00.png").write_bytes(b"")
    run()
    (images / "plate0/00.png").write_bytes(whole)
    summary = run()
    assert (summary.done, summary.failed, summary.exit_code) == (1, 0, 0)


def test_names_that_differ_by_suffix_only(run, images, tmp_path):
    """The newcomer keeps its suffix, whichever it is, and keeps its name from then on."""
    draw(images / "plate0/00.jpg", 2)
    run()
    out = tmp_path / "out"
    rows = rows_of(out)
    assert rows["plate0/00.jpg"]["labels"] == "labels/plate0/00.tif"
    assert rows["plate0/00.png"]["labels"] == "labels/plate0/00.png.tif"
    draw(images / "plate0/00.bmp", 3)
    run()
    rows = rows_of(out)
    assert rows["plate0/00.jpg"]["labels"] == "labels/plate0/00.tif"
    assert rows["plate0/00.bmp"]["labels"] == "labels/plate0/00.bmp.tif"
    (images / "plate0/00.jpg").unlink()
    run(force=True)
    assert rows_of(out)["plate0/00.png"]["labels"] == "labels/plate0/00.png.tif"


def test_names_in_any_script(run, images, tmp_path):
    """Cyrillic, Chinese, spaces and quotes come through to labels and tables."""
    names = ["пластина/образец 1.png", "板/细胞.png", 'it\'s a "cell", №1.png']
    for name in names:
        draw(images / name, 2)
    assert run().failed == 0
    rows = rows_of(tmp_path / "out")
    for name in names:
        assert (tmp_path / "out" / rows[name]["labels"]).is_file()
    assert set(names) <= set(pd.read_parquet(tmp_path / "out/objects.parquet")["image"])


def test_name_that_is_too_long_to_write_is_one_image_s_trouble(run, images, tmp_path):
    """250 bytes of name fit the input, not the temporary file beside the label: a row, not the end of the run."""
    draw(images / ("x" * 250 + ".png"), 2)
    summary = run()
    assert summary.done + summary.failed == 7
    assert summary.done >= 6
    assert len(rows_of(tmp_path / "out")) == 7


def test_images_without_objects_are_first_class(run, images, tmp_path):
    """An empty image has labels, a row that says 0, and a flag."""
    draw(images / "empty.png", 0)
    run()
    row = rows_of(tmp_path / "out")["empty.png"]
    assert (row["status"], row["objects"], row["area"], row["flags"]) == ("done", "0", "", "no_objects")
    assert (tmp_path / "out/labels/empty.tif").is_file()


def test_part_of_the_folder_then_the_rest(run, tmp_path):
    """--limit and --include do their part; what was done before stays in the tables; the end is that of one run."""
    assert run(limit=2).done == 2
    assert run(include=("plate1/*",)).done == 3
    assert len(rows_of(tmp_path / "out")) == 5
    run()
    run(out="once")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "once")


def test_images_taken_away_leave_the_tables_but_keep_their_labels(run, images, tmp_path):
    """images.csv is the state of the folder; nothing that was made is deleted."""
    run()
    (images / "plate0/00.png").unlink()
    assert run().skipped == 5
    assert "plate0/00.png" not in rows_of(tmp_path / "out")
    assert (tmp_path / "out/labels/plate0/00.tif").is_file()


def test_results_inside_the_image_folder_are_no_images(run, images):
    """`segment plate --out plate/results` twice: labels are never taken for images."""
    assert run(out=str(images / "results")).done == 6
    assert run(out=str(images / "results")).skipped == 6
    with pytest.raises(UsageError, match="the folder of the images, wanted another one"):
        run(out=str(images))


def test_another_folder_is_not_mixed_in(run, images, tmp_path):
    """Results of one folder are not written over by another with the same names; a moved folder is the same one."""
    run()
    other = tmp_path / "other"
    draw(other / "plate0/00.png", 5, seed=9)
    with pytest.raises(OutputError, match=r"the results of .*images, wanted one of its own"):
        run(folder=other)
    images.rename(tmp_path / "moved")
    assert run(folder=tmp_path / "moved").skipped == 6


def test_second_run_into_the_folder_is_refused(run, tmp_path):
    """The lock is held for the whole run."""
    with hold_folder(tmp_path / "out"), pytest.raises(LockedError):
        run()


def test_what_cannot_work_writes_nothing(run, images, tmp_path):
    """No folder, no images, no model: told before the results folder is made."""
    for changes, error in (
        ({"folder": tmp_path / "none"}, InputError),
        ({"folder": images / "plate0/00.png"}, InputError),
        ({"include": ("*.bmp",)}, InputError),
        ({"model": "shipped:none"}, ModelError),
    ):
        with pytest.raises(error):
            run(**changes)
    assert not (tmp_path / "out").exists()


def test_model_that_does_not_load_ends_the_run(run, monkeypatch):
    """It is no image's fault: no rows, but the model's error."""

    def load(job):
        raise ModelError("model", "rubbish", "a model", "restore it")

    monkeypatch.setattr(segment_case, "load_segmenter", load)
    with pytest.raises(ModelError, match="rubbish"):
        run()


def test_full_disk_ends_the_run_and_loses_nothing(run, monkeypatch, tmp_path):
    """ENOSPC at the fourth label: OutputError, no table is touched; with space again only what is missing is done."""
    from pipeline.data import labels

    real, calls = labels.write_labels, []

    def full(path, *rest):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return real(path, *rest)

    monkeypatch.setattr(labels, "write_labels", full)
    with pytest.raises(OutputError, match="No space left on device, wanted a folder that can be written; free space"):
        run(chunk_seconds=0.001)
    assert not (tmp_path / "out/images.csv").exists()
    assert run(chunk_seconds=0.001).done == 3
    run(out="fresh")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "fresh")


def test_error_of_any_kind_in_one_image_stays_with_it(run, segmenter, monkeypatch, tmp_path):
    """MemoryError, a bug in a library: a row with a hint; the other five are done."""
    real = type(segmenter).segment

    def fails(self, source, *asked):
        if source.path.name == "00.png":
            raise MemoryError("too large")
        if source.path.name == "01.png":
            raise ZeroDivisionError("division by zero")
        return real(self, source, *asked)

    monkeypatch.setattr(type(segmenter), "segment", fails)
    summary = run(max_failed_fraction=1.0)
    assert (summary.done, summary.failed) == (4, 2)
    rows = rows_of(tmp_path / "out")
    assert rows["plate0/00.png"]["error"] == "MemoryError: too large"
    assert "free memory" in rows["plate0/00.png"]["hint"]
    assert rows["plate1/01.png"]["stage"] == "segment"
    assert "maskline.log" in rows["plate1/01.png"]["hint"]
    assert "ZeroDivisionError" in (tmp_path / "out/maskline.log").read_text()


def test_file_that_grows_while_it_is_read_is_not_believed(run, segmenter, monkeypatch, images):
    """A file still being copied fails now and is done by the next run."""
    real = type(segmenter).segment

    def grows(self, source, *asked):
        answer = real(self, source, *asked)
        if source.path.name == "00.png" and len(self.seen) <= 6:
            with source.path.open("ab") as file:
                file.write(b"more")
        return answer

    monkeypatch.setattr(type(segmenter), "segment", grows)
    summary = run()
    assert [failure.error.partition(": ")[2] for failure in summary.failures] == [
        "got a file that changed while it was read, wanted a file that is finished"
    ]
    assert run().failed == 0


def test_chunks_that_bring_nothing_back_are_not_lost(run, tmp_path):
    """An orchestrator that drops a chunk: its images are rows that say so, and the next run does them."""

    def drops(work, chunks):
        for chunk in chunks[1:]:
            yield work(chunk)

    summary = run(chunk_seconds=0.001, run_chunks=drops, max_failed_fraction=0.5)
    assert (summary.done, summary.failed, summary.exit_code) == (5, 1, 3)
    assert rows_of(tmp_path / "out")["plate0/00.png"]["error"] == "no outcome came back for this image"
    assert run().done == 1


def test_a_chunk_that_is_tried_again_asks_the_ledger_first(run, segmenter):
    """Every chunk is run twice, as after a lost answer; every image is segmented once."""

    def twice(work, chunks):
        for chunk in chunks:
            first = work(chunk)
            assert work(chunk) == first
            yield first

    assert run(run_chunks=twice).done == 6
    assert len(segmenter.seen) == 6


def test_jobs_and_chunks_cross_to_other_processes(run):
    """What is handed to `run_chunks` pickles: paths and settings, no arrays, no closures."""
    import pickle

    def through_pickle(work, chunks):
        for chunk in chunks:
            again_work, again_chunk = pickle.loads(pickle.dumps((work, chunk)))
            assert len(pickle.dumps((work, chunk))) < 20_000
            yield again_work(again_chunk)

    assert run(run_chunks=through_pickle).done == 6


def test_watcher_hears_of_every_image(run, images):
    """done of total, with rate, objects and failures."""
    (images / "broken.png").write_bytes(b"")
    events: list[Event] = []
    run(watch=events.append)
    told = [event for event in events if event.stage == "segment"]
    assert [event.done for event in told] == list(range(8))
    assert {event.total for event in told} == {7}
    assert told[-1].fields["failed"] == 1
    assert told[-1].fields["objects"] == sum(1 + n % 5 for n in range(6))
    assert {"images/s", "skipped"} <= set(told[-1].fields)


def test_run_json_says_what_was_done(run, images, tmp_path):
    """Counts, digests, versions, hardware; the data digest knows the files' content."""
    run()
    out = tmp_path / "out"
    first = json.loads((out / "run.json").read_text())
    assert first["format_version"] == 1
    assert (first["images"], first["done"], first["failed"], first["exit_code"]) == (6, 6, 0, 0)
    for key in ("started", "finished", "seconds", "config", "settings_digest", "ledger_root", "statistics", "versions"):
        assert first[key]
    assert first["hardware"]["cpus"]
    run()
    second = json.loads((out / "run.json").read_text())
    assert second["data_digest"] == first["data_digest"]
    assert second["ledger_root"] == first["ledger_root"]
    draw(images / "plate0/00.png", 1, seed=77)
    run()
    assert json.loads((out / "run.json").read_text())["data_digest"] != first["data_digest"]


def test_failures_keep_their_type(run, images):
    """The summary carries the failures for whoever prints them."""
    (images / "broken.png").write_bytes(b"")
    assert all(isinstance(failure, Failed) for failure in run().failures)
