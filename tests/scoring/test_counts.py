"""The counts of an evaluation come back from their file exactly."""

import json

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.scoring.class_metrics import ClassCase, confusion
from pipeline.scoring.counts import COUNTS, read_counts, truth_of, write_counts
from pipeline.scoring.metrics import Scores, match
from pipeline.scoring.summary import CaseScore

TRUTH = np.array([[1, 1, 1, 0, 2, 2]])
OBJECTS = [
    CaseScore("a", match(TRUTH, np.array([[1, 1, 0, 0, 2, 2]])), group="plate 1"),
    CaseScore("b", Scores(), error="case b: cannot be read"),
]
CLASSES = [
    ClassCase("a", confusion(np.array([0, 1, 255]), np.array([1, 1, 1]), 2), "patient 1"),
    ClassCase("b", np.zeros((2, 2), np.int64), error="case b: cannot be read"),
]


def test_objects_come_back_as_they_were(tmp_path):
    """Every count, the sums of IoUs to the last bit; an image in error has no numbers and stays one."""
    write_counts(tmp_path, OBJECTS)
    counted = read_counts(tmp_path)
    assert (counted.kind, counted.names) == ("objects", ())
    assert counted.images[0].scores == OBJECTS[0].scores
    assert counted.images[0].group == "plate 1"
    assert list(counted.scored) == ["a"]
    assert counted.images[1].error == OBJECTS[1].error


def test_classes_come_back_as_they_were(tmp_path):
    """The confusion matrix of every image, and the names of the classes."""
    write_counts(tmp_path, CLASSES, ["none", "box"])
    counted = read_counts(tmp_path)
    assert (counted.kind, counted.names) == ("classes", ("none", "box"))
    assert counted.images[0].counts.tolist() == [[0, 1], [0, 1]]
    assert list(counted.scored) == ["a"]


def test_the_truth_is_known_by_its_counts():
    """Two objects of five pixels; a pixel of either class, the ignored one in none."""
    assert truth_of(OBJECTS[0]) == (2, 5)
    assert truth_of(CLASSES[0]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no counts.json"),
        ("{", "readable counts"),
        ("[]", "format version list"),
        ('{"format_version": 99}', "format version 99"),
        ('{"format_version": 1, "names": []}', "KeyError"),
        (
            '{"format_version": 1, "names": ["x", "y"], "images": [{"case": "a", "group": "", "counts": [1]}]}',
            "reshape",
        ),
    ],
)
def test_what_is_no_counts_is_said(tmp_path, text, message):
    """Missing, damaged, of another version, or incomplete: what to do is told."""
    if text is not None:
        (tmp_path / COUNTS).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_counts(tmp_path)
    assert "maskline score" in caught.value.hint


def test_it_is_plain_json(tmp_path):
    """Other programs may read it; its version stands in it."""
    write_counts(tmp_path, OBJECTS)
    assert json.loads((tmp_path / COUNTS).read_text())["format_version"] == 1
