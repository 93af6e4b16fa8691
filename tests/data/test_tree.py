"""Walking a folder: names once, nothing hidden, nothing without end."""

import os

import pytest

from pipeline.data.layouts import discover_images
from pipeline.data.tree import counts, scan
from pipeline.errors import LayoutError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_names_are_sorted_and_hidden_ones_passed_over(tmp_path):
    """Files and folders in order; what starts with a dot is not there."""
    touch(
        tmp_path / "b.png", tmp_path / "a.png", tmp_path / ".c.png", tmp_path / "z" / "d.png", tmp_path / ".y" / "e.png"
    )
    tree = scan(tmp_path)
    assert list(tree.walk()) == [("", "a.png"), ("", "b.png"), ("z", "d.png")]


def test_folders_that_a_run_wrote_are_passed_over(tmp_path):
    """A folder below with .maskline in it holds outputs; where the folder itself is one, its labels are no images."""
    touch(tmp_path / "a.png", tmp_path / "run" / "labels" / "a.tif", tmp_path / "run" / ".maskline" / "ledger")
    assert [case.relative for case in discover_images(tmp_path)] == ["a.png"]
    touch(tmp_path / "labels" / "a.tif", tmp_path / ".maskline" / "ledger")
    assert [case.relative for case in discover_images(tmp_path)] == ["a.png"]


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    """Links to other folders are followed, links to a folder above are not."""
    touch(tmp_path / "here" / "a.png", tmp_path / "there" / "b.png")
    (tmp_path / "here" / "up").symlink_to(tmp_path / "here", target_is_directory=True)
    (tmp_path / "here" / "far").symlink_to(tmp_path / "there", target_is_directory=True)
    assert list(scan(tmp_path / "here").walk()) == [("", "a.png"), ("far", "b.png")]


def test_the_stamp_changes_with_every_image(tmp_path):
    """Another size, time, name, or one file more or less gives another stamp; a text file does not; order does not."""
    touch(tmp_path / "a.png", tmp_path / "b" / "c.tif")
    stamps = [scan(tmp_path, stamp=True).stamp]
    assert stamps == [scan(tmp_path, stamp=True).stamp]
    touch(tmp_path / "notes.txt")
    assert stamps == [scan(tmp_path, stamp=True).stamp]
    os.utime(tmp_path / "a.png", ns=(1, 1))
    stamps.append(scan(tmp_path, stamp=True).stamp)
    (tmp_path / "a.png").rename(tmp_path / "d.png")
    stamps.append(scan(tmp_path, stamp=True).stamp)
    touch(tmp_path / "e.geojson")
    stamps.append(scan(tmp_path, stamp=True).stamp)
    (tmp_path / "f.png").symlink_to(tmp_path / "nowhere.png")
    stamps.append(scan(tmp_path, stamp=True).stamp)
    assert len(set(stamps)) == 5
    assert scan(tmp_path).stamp == ""


@pytest.mark.parametrize("name", ["none", "a.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    """A missing folder and a file are named."""
    touch(tmp_path / "a.png")
    with pytest.raises(LayoutError, match="a folder of images"):
        scan(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    """It is not passed over in silence."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.data.tree.os.scandir", refuse)
    with pytest.raises(LayoutError, match=r"Permission denied.*check its rights"):
        scan(tmp_path)


def test_what_counts():
    """Images and outlines, whatever the case."""
    assert [name for name in ("a.PNG", "b.GeoJSON", "c.txt", "d.nii.gz", "png") if counts(name)] == [
        "a.PNG",
        "b.GeoJSON",
        "d.nii.gz",
    ]
