"""A file is there whole or not at all."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.files import (
    atomic_write,
    folder_stat,
    maskline_home,
    move_into_place,
    remove,
    sha256_file,
    walk_files,
)
from pipeline.errors import InputError, OutputError


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("durable", [True, False])
def test_bytes_and_writers_give_the_same_file(tmp_path, durable):
    """Content or a function that writes it: the file and the digest are the same, and missing folders are made."""
    one, other = tmp_path / "x" / "y" / "one", tmp_path / "other"

    def write(file):
        file.write(b"ab")
        assert file.tell() == 2
        file.write(b"c")

    digests = {atomic_write(one, b"abc", durable=durable), atomic_write(other, write, durable=durable)}
    assert digests == {hashlib.sha256(b"abc").hexdigest()} == {sha256_file(one), sha256_file(other)}
    assert one.read_bytes() == other.read_bytes() == b"abc"
    assert [p.name for p in one.parent.iterdir()] == ["one"]


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path):
    """What the writer raises comes through; the old content stays and nothing else lies there."""
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new but half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_process_that_dies_in_the_middle_leaves_the_old_file(tmp_path):
    """Killed without a chance to tidy up, the writer has not touched the file."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = (
        "import os, sys; from pathlib import Path; from pipeline.data.files import atomic_write\n"
        "def write(file): file.write(b'new but half'); file.flush(); os._exit(7)\n"
        "atomic_write(Path(sys.argv[1]), write)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=root, check=False).returncode == 7
    assert path.read_bytes() == b"old"
    assert all(name.startswith(".") for name in names(tmp_path) if name != "a")


def test_what_cannot_be_written_or_read_says_so(tmp_path):
    """A file where a folder is needed, and a file that is missing, are errors of ours."""
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="a file that can be written"):
        atomic_write(tmp_path / "a" / "b", b"")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OutputError):
        atomic_write(tmp_path / "folder", b"")
    assert sorted(names(tmp_path)) == ["a", "folder"]
    with pytest.raises(InputError, match="a file that can be read"):
        sha256_file(tmp_path / "none")


@pytest.mark.parametrize("stem", ["x" * 240, "核" * 80, "🔬" * 60])
def test_names_as_long_as_the_file_system_allows(tmp_path, stem):
    """The temporary name is no longer than the name itself may be, in any script."""
    atomic_write(tmp_path / f"{stem}.tif", b"abc")
    assert names(tmp_path) == [f"{stem}.tif"]


def test_home(tmp_path, monkeypatch):
    """$MASKLINE_HOME where it is set, also below ~, else the platform's folder."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    assert maskline_home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MASKLINE_HOME", "~/kept")
    assert maskline_home() == tmp_path / "kept"
    monkeypatch.setenv("MASKLINE_HOME", "")
    assert maskline_home().name == "maskline" and maskline_home().is_absolute()


def test_a_folder_has_a_digest_and_a_stamp(tmp_path):
    """An image that is a folder is its names and contents: changing, renaming or removing a file changes both."""
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "1").write_text("chunk")
    seen = {(sha256_file(folder), folder_stat(folder))}
    (folder / "0" / "1").write_text("other")
    seen.add((sha256_file(folder), folder_stat(folder)))
    (folder / "0" / "1").rename(folder / "0" / "2")
    seen.add((sha256_file(folder), folder_stat(folder)))
    (folder / "0" / "2").unlink()
    seen.add((sha256_file(folder), folder_stat(folder)))
    assert len({digest for digest, _ in seen}) == len({stat for _, stat in seen}) == 4
    assert folder_stat(folder)[0] == 0


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    """What was there is gone, and so is the temporary name; a .zarr folder counts as one file, other folders do not."""
    for name in ("old.zarr", "new"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "0" / name).write_text(name)
    digest = sha256_file(tmp_path / "new")
    assert move_into_place(tmp_path / "new", tmp_path / "old.zarr") == digest == sha256_file(tmp_path / "old.zarr")
    assert [path.name for path in (tmp_path / "old.zarr/0").iterdir()] == ["new"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a.tif").touch()
    assert sorted(walk_files(tmp_path)) == [tmp_path / "old.zarr", tmp_path / "plain/a.tif"]
    for name in ("old.zarr", "plain/a.tif", "nothing"):
        remove(tmp_path / name)
    assert names(tmp_path) == ["plain"]
    with pytest.raises(OutputError, match="a file that can be written"):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").touch()
        move_into_place(tmp_path / "a", tmp_path / "b" / "c")
