"""Scores on screen and on disk."""

import csv
import json

import numpy as np
import pytest

from pipeline.errors import OutputError
from pipeline.scoring.metrics import Scores, match
from pipeline.scoring.present import score_table, write_scores
from pipeline.scoring.summary import CaseScore, summarise


def cases(count, **fields):
    """Images of one object each, found in every other one."""
    truth = np.eye(2, dtype=int)[:1]
    return [
        CaseScore(f"{fields.get('group', '')}{i}", match(truth, truth if i % 2 == 0 else truth * 0), **fields)
        for i in range(count)
    ]


def test_the_table_shows_every_level():
    """All with its interval, modalities, groups, and what is not in the numbers."""
    rows = [*cases(4, group="slide a", modality="stained"), *cases(3, group="slide b", modality="fluorescence")]
    rows.append(CaseScore("lost", match(np.ones((1, 2), int), np.zeros((1, 2), int)), group="c", missing=True))
    rows.append(CaseScore("none", match(np.zeros((1, 2), int), np.zeros((1, 2), int)), group="d"))
    rows.append(CaseScore("bad", Scores(), error="case bad: got x, wanted y", hint="do z"))
    table = score_table(summarise(rows, bootstrap=20))
    lines = {line.split("  ")[0].strip() or line.split("  ")[1].strip(): line for line in table.splitlines()[1:]}
    assert lines["all"].split()[1:4] == ["9", "8", "0.556"]
    assert any(line.startswith("  95 % low, by groups") for line in table.splitlines())
    assert "  stained  " in table
    assert "  slide a  " in table
    assert "  c  " not in table
    assert "1 images without a prediction, scored as empty: lost" in table
    assert "1 images empty in truth and prediction" in table
    assert "not scored: case bad: got x, wanted y; do z" in table
    assert max(map(len, table.splitlines())) <= 110


def test_many_groups_show_the_worst():
    """A manifest of hundreds of slides does not flood the screen."""
    rows = [row for i in range(30) for row in cases(3 if i == 7 else 2, group=f"slide{i:02d}")]
    rows += [CaseScore("worst", match(np.ones((1, 2), int), np.zeros((1, 2), int)), group="slide11")] * 2
    table = score_table(summarise(rows, bootstrap=0)).splitlines()
    at = table.index("the 10 worst of 30 groups with more than one image:")
    assert len(table) == at + 12
    assert table[-1] == "of 63 objects 31 found at IoU .5, 0 merged, 0 split, 32 missed, 0 inexact; 0 extra"
    assert table[at + 1].startswith("  slide11")
    assert not any("slide07" in line for line in table)


def test_long_lists_are_cut_short():
    """Five names, then how many more."""
    errors = [CaseScore(f"bad{i}", Scores(), error=f"case bad{i}: x", hint="y") for i in range(7)]
    missing = [CaseScore(f"gone{i}", Scores(true=1), missing=True) for i in range(9)]
    table = score_table(summarise([*missing, *errors], bootstrap=0))
    assert "gone0, gone1, gone2, gone3, gone4 and 4 more" in table
    assert "... and 2 more that could not be scored" in table


def test_files_hold_the_same_numbers(tmp_path):
    """scores.json is the mapping itself; scores.csv has the images in error first, then the worst."""
    rows = [*cases(3, modality="stained"), CaseScore('bad, "x"', Scores(), error="no, sorry", hint="try again")]
    scores = summarise(rows, bootstrap=10)
    write_scores(tmp_path / "new", scores, rows)
    assert json.loads((tmp_path / "new/scores.json").read_text()) == scores
    with (tmp_path / "new/scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["case"] for row in table] == ['bad, "x"', "1", "0", "2"]
    assert [row["map"] for row in table] == ["", "0.0", "1.0", "1.0"]
    assert table[0]["error"] == "no, sorry"
    assert table[1]["objects_true"] == "1"


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        write_scores(tmp_path / "taken", summarise(cases(1)), cases(1))
