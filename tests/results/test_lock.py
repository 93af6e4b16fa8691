"""The lock: one run a folder, dead with its holder, and never over somebody else's files."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline.data.files import atomic_write
from pipeline.errors import LockedError, OutputError
from pipeline.results.lock import STATE, hold_folder, is_output_trouble, output_error, read_holder, sweep

HOLD = """
import sys, time
from pathlib import Path
from pipeline.results.lock import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(out):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path):
    """kill -9 of the holder frees the folder at once, and the next holder learns that it did not end."""
    out = tmp_path / "out"
    process = start_holder(out)
    try:
        with (
            pytest.raises(LockedError, match=f"process {process.pid} on .* since .*; wait for that run"),
            hold_folder(out),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with hold_folder(out) as clean:
        assert clean is False
    with hold_folder(out) as clean:
        assert clean is True


def test_second_holder_in_the_same_process_is_refused(tmp_path):
    """Two flows in one process are two runs as well."""
    with hold_folder(tmp_path / "out"), pytest.raises(LockedError), hold_folder(tmp_path / "out"):
        pass


def test_holder_says_who_it_is_and_lets_go(tmp_path):
    """The note beside the lock names the process; after a clean end there is none."""
    with hold_folder(tmp_path):
        holder = read_holder(tmp_path)
        assert holder is not None
        assert holder["pid"] == os.getpid()
        assert holder["format_version"] == 1
    assert read_holder(tmp_path) is None


def test_a_run_that_raises_lets_go_of_the_lock_but_not_cleanly(tmp_path):
    """An error frees the folder; the next run tidies up."""
    with pytest.raises(RuntimeError), hold_folder(tmp_path):
        raise RuntimeError
    with hold_folder(tmp_path) as clean:
        assert clean is False


def test_one_that_only_looks_leaves_no_sign(tmp_path):
    """verify holds the folder, but a run that was killed before it is still known to have been."""
    with hold_folder(tmp_path, mark=False):
        assert read_holder(tmp_path) is None


@pytest.mark.parametrize("name", ["labels", "objects.parquet", "images.csv", "report.html", "run.json"])
def test_files_that_are_not_ours_are_never_written_over(tmp_path, name):
    """A data set with labels/ of its own is refused as results folder, and nothing is written into it."""
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f"{name} that maskline did not write"), hold_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_output_folder_that_is_a_file(tmp_path):
    """It says what is wrong with the folder and what to do."""
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"File exists|Not a directory"), hold_folder(tmp_path / "out"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder that nobody can write, not even root")
def test_folder_that_cannot_be_written():
    """No rights, no results: an OutputError, whoever the user is."""
    from pathlib import Path

    with (
        pytest.raises(OutputError, match=r"wanted a folder that can be written; free space"),
        hold_folder(Path("/proc/out")),
    ):
        pass


@pytest.mark.parametrize("content", ['{"format_version": 99}', "rubbish", "[]"])
def test_folder_of_another_format_is_refused_clearly(tmp_path, content):
    """Results of a later maskline are left alone."""
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / "format.json").write_text(content)
    with pytest.raises(OutputError, match=r"format_version (99|unreadable), wanted 1"), hold_folder(tmp_path):
        pass


def test_sweep_removes_only_what_a_killed_run_left(tmp_path):
    """Temporary files go, everything else stays."""
    with hold_folder(tmp_path):
        (tmp_path / "labels/plate").mkdir(parents=True)
        for name in (
            "labels/plate/.a.tif.x1.partial",
            "labels/plate/a.tif",
            ".images.csv.x2.partial",
            f"{STATE}/.b.partial",
        ):
            (tmp_path / name).write_text("")
        assert sweep(tmp_path) == 3
        assert sorted(path.name for path in (tmp_path / "labels").rglob("*.*")) == ["a.tif"]


@pytest.mark.parametrize(
    ("number", "trouble"), [("ENOSPC", True), ("EROFS", True), ("EDQUOT", True), ("ENAMETOOLONG", False)]
)
def test_which_errors_are_the_folder_s(tmp_path, number, trouble):
    """A full disk stops the run; a name that is too long is one image's trouble."""
    import errno

    error = OSError(getattr(errno, number), "reason")
    assert is_output_trouble(error) is trouble
    assert "reason" in str(output_error(tmp_path, error))


def test_sweep_knows_how_temporary_files_are_called(tmp_path):
    """What atomic_write would leave behind if it were killed is what sweep removes."""
    seen = []

    def write(stream):
        stream.write(b"half")
        seen.extend(path.name for path in (tmp_path / "labels").iterdir())

    with hold_folder(tmp_path):
        atomic_write(tmp_path / "labels" / "a.tif", write)
        (tmp_path / "labels" / seen[0]).write_bytes(b"half")
        assert sweep(tmp_path) == 1
        assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a.tif"]


def test_unreadable_holder_is_nobody(tmp_path):
    """A damaged note is no reason to fail."""
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / "holder.json").write_text("[1")
    assert read_holder(tmp_path) is None
    (tmp_path / STATE / "holder.json").write_text(json.dumps([1]))
    assert read_holder(tmp_path) is None
