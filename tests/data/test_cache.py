"""The cache answers with what was put in, or with nothing."""

import logging

import numpy as np
import pytest

from pipeline.data import cache


def test_labels_come_back(tmp_path):
    """uint32 labels of any size and number of dimensions."""
    for number, labels in enumerate(
        (
            np.arange(12, dtype=np.uint32).reshape(3, 4),
            np.full((2, 3, 4), 70_000, np.uint32),
            np.zeros((2, 2), np.uint32),
        )
    ):
        path = tmp_path / f"{number}.labels"
        cache.write_labels_cache(path, labels)
        back = cache.read_labels_cache(path)
        assert back is not None
        assert back.dtype == np.uint32
        assert (back == labels).all()


def test_what_is_missing_is_none(tmp_path):
    """A file that was never written is no error."""
    assert cache.read_labels_cache(tmp_path / "none") is None
    assert cache.read_summary(tmp_path / "none") is None


@pytest.mark.parametrize("where", [0, 30, 64, 65, 80, -1])
def test_damage_anywhere_is_noticed(tmp_path, caplog, where):
    """One flipped bit in the checksum, the header or the body: the file counts as missing, and that is logged."""
    path = tmp_path / "a.labels"
    cache.write_labels_cache(path, np.arange(12, dtype=np.uint32).reshape(3, 4))
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        assert cache.read_labels_cache(path) is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize("length", [0, 10, 64, 65, 100])
def test_a_file_cut_short_is_noticed(tmp_path, length):
    """However early it ends."""
    path = tmp_path / "a.labels"
    cache.write_labels_cache(path, np.arange(1200, dtype=np.uint32).reshape(30, 40))
    path.write_bytes(path.read_bytes()[:length])
    assert cache.read_labels_cache(path) is None


def test_another_format_version_is_not_read(tmp_path):
    """Neither labels nor summaries of a version that is not ours."""
    cache.write_sealed(tmp_path / "a.labels", b'{"format_version": 2, "shape": [1], "dtype": "<u2"}\nx')
    cache.write_sealed(tmp_path / "a.json", b'{"format_version": 2}')
    assert cache.read_labels_cache(tmp_path / "a.labels") is None
    assert cache.read_summary(tmp_path / "a.json") is None


def test_a_cache_that_cannot_be_written_is_only_missed(tmp_path, caplog):
    """A file stands where the folder should: logged, not raised."""
    (tmp_path / "labels").write_text("")
    cache.write_labels_cache(tmp_path / "labels" / "a", np.zeros((2, 2), np.uint32))
    assert "not cached" in caplog.text


def test_the_cache_lies_in_masklines_home(tmp_path, monkeypatch):
    """Unless a config names another folder."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    assert cache.cache_folder(None) == tmp_path / "cache"
    assert cache.cache_folder(tmp_path / "other") == tmp_path / "other"
