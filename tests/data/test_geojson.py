"""Objects are written one by one as they are finished, in a form that QuPath opens."""

import json

import numpy as np
import pytest

from pipeline.data import geojson
from pipeline.data.geojson import EDITABLE, Piece, write_geojson, write_outlines
from pipeline.data.labels import read_geojson
from pipeline.errors import OutputError


def tree_of(path):
    return json.loads(path.read_text())


def grid(count):
    """So many objects of one pixel."""
    side = int(np.ceil(np.sqrt(count)))
    labels = np.zeros((2 * side, 2 * side), np.uint32)
    labels[::2, ::2] = np.where(np.arange(side**2) < count, np.arange(1, side**2 + 1), 0).reshape(side, side)
    return labels


def test_pieces_make_the_same_file_as_the_label_image(tmp_path):
    """Handed over one at a time, from an iterator, with scores."""
    labels = np.zeros((40, 50), np.uint32)
    labels[2:9, 3:20], labels[20:33, 1:12], labels[24:28, 4:9] = 2, 70_000, 0
    labels[35, 40] = labels[36, 41] = 4_000_000_000
    pieces = (
        Piece(label, top, left, labels[top:bottom, left:right] == label, score)
        for label, top, left, bottom, right, score in (
            (2, 2, 3, 9, 20, 0.25),
            (70_000, 20, 1, 33, 12, None),
            (4_000_000_000, 35, 40, 37, 42, 1.0),
        )
    )
    one = write_geojson(tmp_path / "a.geojson", labels, {2: 0.25, 4_000_000_000: 1.0})
    assert write_outlines(tmp_path / "b.geojson", pieces, "annotation") == one
    assert (read_geojson(tmp_path / "b.geojson", labels.shape) == np.where(labels > 10**9, 70_001, labels)).all()


def test_polygons_are_valid_for_qupath(tmp_path):
    """Closed rings; a hole is a second ring, the other way round; pieces are a MultiPolygon; whole pixels."""
    ring, apart = np.ones((3, 3), bool), np.array([[1, 0, 1]], bool)
    ring[1, 1] = False
    write_outlines(tmp_path / "a.geojson", [Piece(1, 10, 20, ring), Piece(2, 0, 5, apart, 0.5)])
    tree = tree_of(tmp_path / "a.geojson")
    assert (tree["type"], tree["format_version"]) == ("FeatureCollection", 1)
    hollow, two = tree["features"]
    assert hollow["type"] == "Feature" and hollow["properties"] == {"objectType": "detection", "name": "1"}
    assert hollow["geometry"]["type"] == "Polygon"
    outer, hole = hollow["geometry"]["coordinates"]
    assert outer == [[20, 10], [23, 10], [23, 13], [20, 13], [20, 10]]
    assert sorted(map(tuple, hole[:-1])) == [(21, 11), (21, 12), (22, 11), (22, 12)] and hole[0] == hole[-1]
    assert two["geometry"]["type"] == "MultiPolygon" and len(two["geometry"]["coordinates"]) == 2
    assert two["properties"]["measurements"] == {"score": 0.5}


def test_many_objects_are_detections(tmp_path):
    """A few are annotations, to be corrected; more than QuPath bears as such are detections."""
    for count, kind in ((1, "annotation"), (EDITABLE, "annotation"), (EDITABLE + 1, "detection")):
        write_geojson(tmp_path / "a.geojson", grid(count))
        features = tree_of(tmp_path / "a.geojson")["features"]
        assert len(features) == count
        assert {feature["properties"]["objectType"] for feature in features} == {kind}


def test_nothing_is_an_empty_collection(tmp_path):
    """An image without objects is an answer."""
    write_geojson(tmp_path / "a.geojson", np.zeros((5, 6), np.uint32))
    assert tree_of(tmp_path / "a.geojson")["features"] == []


def test_objects_are_written_while_others_are_still_to_come(tmp_path, monkeypatch):
    """The source is asked for no more than a batch ahead of what was traced, however large the objects are."""
    monkeypatch.setattr(geojson, "_BATCH", 20 * 20 * 3)
    asked, ahead = [], []

    def source():
        for number in range(30):
            asked.append(number)
            yield Piece(number + 1, 0, 20 * number, np.ones((10, 18 if number % 7 else 90), bool))

    def traced(crops):
        ahead.append(len(asked) - sum(done))
        done.append(len(crops))
        return trace_all(crops)

    done, trace_all = [], geojson.trace_all
    monkeypatch.setattr(geojson, "trace_all", traced)
    write_outlines(tmp_path / "a.geojson", source())
    assert sum(done) == 30 and len(done) > 6
    assert max(ahead) <= 6


def test_objects_that_cross_bands_of_rows_are_whole(tmp_path, monkeypatch):
    """A label image is looked at some rows at a time; boxes are joined."""
    labels = np.zeros((50, 30), np.uint32)
    labels[5:45, 2:9], labels[20:22, 12:29], labels[0, 15] = 9, 3, 5
    write_geojson(tmp_path / "whole.geojson", labels)
    monkeypatch.setattr(geojson, "_ROWS", 7)
    write_geojson(tmp_path / "bands.geojson", labels)
    assert (tmp_path / "bands.geojson").read_bytes() == (tmp_path / "whole.geojson").read_bytes()
    assert (read_geojson(tmp_path / "bands.geojson", labels.shape) == labels).all()


def test_a_source_that_fails_leaves_no_file(tmp_path):
    """Half a collection is never taken for a whole one."""

    def source():
        yield Piece(1, 0, 0, np.ones((2, 2), bool))
        raise OutputError("there", "this", "that", "so")

    with pytest.raises(OutputError):
        write_outlines(tmp_path / "a.geojson", source())
    assert list(tmp_path.iterdir()) == []
