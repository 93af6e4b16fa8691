"""An alias moves only to what is known to be better, or when a person insists."""

import json
from types import SimpleNamespace

import pytest

from pipeline.errors import ModelError
from pipeline.runs.promote_model import judge, promote_model


@pytest.fixture
def tracking(tmp_path):
    """A registry of three versions of `nuclei`; version 1 is the champion."""
    scores = {"1": ("a", 0.50), "2": ("a", 0.55), "3": ("a", 0.45), "4": ("b", 0.90)}
    for version, (digest, score) in scores.items():
        folder = tmp_path / version
        folder.mkdir()
        (folder / "model.json").write_text(json.dumps({"provenance": {"manifest_digest": digest, "val_map": score}}))
    rows = [{"name": "nuclei", "version": v, "aliases": ["champion"] if v == "1" else []} for v in scores]
    moved = []
    return SimpleNamespace(
        models=lambda: rows,
        resolve=lambda name, which: tmp_path / which,
        promote=lambda name, version, alias: moved.append((name, version, alias)),
        moved=moved,
    )


def test_a_better_model_takes_the_alias(tracking):
    """Version 2 scores higher on the same validation images."""
    assert promote_model(tracking, "nuclei", "2", "champion") == ["nuclei/2 is now @champion, which was nuclei/1"]
    assert tracking.moved == [("nuclei", "2", "champion")]


@pytest.mark.parametrize(("version", "why"), [("3", "0.4500"), ("4", "different data")])
def test_what_is_not_known_to_be_better_is_refused_unless_insisted(tracking, version, why):
    """A worse score, or one from other images, moves nothing without --anyway."""
    with pytest.raises(ModelError, match=why):
        promote_model(tracking, "nuclei", version, "champion")
    assert tracking.moved == []
    promote_model(tracking, "nuclei", version, "champion", anyway=True)
    assert tracking.moved == [("nuclei", version, "champion")]


def test_an_alias_nobody_holds_is_given_at_once(tracking):
    """There is nothing to compare with."""
    assert promote_model(tracking, "nuclei", "3", "gpu") == ["nuclei/3 is now @gpu"]


def test_the_holder_keeps_it(tracking):
    """Promoting the champion changes nothing."""
    assert promote_model(tracking, "nuclei", "1", "champion") == ["nuclei/1 is @champion already"]
    assert tracking.moved == []


def test_scores_that_are_not_on_record_decide_nothing():
    """A model without a score is not known to be better."""
    dice = [{"manifest_digest": "a", "val_dice": value} for value in (0.8, 0.9)]
    assert judge(dice[1], dice[0]) == "" and "val_dice is 0.8000" in judge(*dice)
    assert judge({}, {"val_map": 0.5}) == "val_map or val_dice is not on record for both"
