"""What a run shows in Prefect, without a server."""

import logging
from uuid import uuid4

import pytest

from flows import artifacts
from flows.artifacts import ShowProgress, artifact_key, show_failures, show_link, show_numbers
from pipeline.types import Event, Failed


@pytest.fixture
def made(monkeypatch):
    """Stand-ins for Prefect's artifacts: what was made, and with what."""
    calls = []

    def stand_in(kind):
        def make(*arguments, **named):
            calls.append((kind, arguments, named))
            return uuid4()

        return make

    for kind in ("link", "markdown", "progress", "table"):
        monkeypatch.setattr(artifacts, f"create_{kind}_artifact", stand_in(kind))
    monkeypatch.setattr(artifacts, "update_progress_artifact", stand_in("update"))
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("maskline.test"))
    return calls


@pytest.mark.parametrize(
    ("name", "key"), [("Plate 7/a_b", "plate-7-a-b"), ("--", "run"), ("segment-failures", "segment-failures")]
)
def test_keys_are_what_prefect_takes(name, key):
    """Lower case letters, digits and dashes, never empty."""
    assert artifact_key(name) == key


def test_progress_is_updated_now_and_then_and_always_at_the_end(made, monkeypatch):
    """A hundred events within a second are two updates: the first, and the last."""
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: 10.0)
    watch = ShowProgress("segment")
    for done in range(1, 101):
        watch(Event("segment", done, 100, {"objects": done}))
    assert [kind for kind, _, _ in made] == ["progress", "update"]
    assert made[0][2]["progress"] == 1.0
    assert made[1][2] == {"progress": 100.0, "description": "segment: 100 of 100 · objects 100"}


def test_a_stage_of_one_step_has_no_bar(made):
    """Writing the report is said in the log, not drawn."""
    watch = ShowProgress("segment")
    watch(Event("report", 0, 1))
    watch(Event("report", 1, 1))
    assert made == []


def test_failures_are_a_table_that_stays_small(made):
    """Nothing failed: no table. Many failed: the first of them, and where all are."""
    show_failures("segment", [])
    assert made == []
    show_failures(
        "segment", [Failed(f"{n}.png", "read", "cut off", "copy again") for n in range(artifacts.MOST_ROWS + 1)]
    )
    ((kind, (rows,), named),) = made
    assert kind == "table" and len(rows) == artifacts.MOST_ROWS
    assert rows[0] == {"image": "0.png", "stage": "read", "error": "cut off", "what to do": "copy again"}
    assert "images.csv" in named["description"]


def test_numbers_are_a_table_and_a_run_without_an_address_is_no_link(made):
    """MLflow without a server has nothing to link to."""
    show_numbers("train", "Trained", {"epochs": 12, "val_map": 0.51234})
    assert "| epochs | 12 |" in made[0][1][0] and "| val_map | 0.5123 |" in made[0][1][0]
    show_link("train", "")
    show_link("train", "http://127.0.0.1:5000/#/runs/1")
    assert [kind for kind, _, _ in made] == ["markdown", "link"]
