"""A tile's size is measured once, remembered whole or not at all, and never decides what comes out."""

import json
from pathlib import Path

import pytest
from made_model import make_model

from pipeline.inference import tuning
from pipeline.inference.torch_engine import TorchEngine
from pipeline.inference.tuning import choose_core, remembered_in, tuned_core


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchEngine:
    """With a home of its own, and small tiles to try."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "CORES", (30, 50))
    return TorchEngine(make_model(), 1)


def test_it_is_measured_once(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates lie on the stride's grid; the second time the file says it, damaged it is measured again."""
    core = tuned_core(engine)
    assert core in (28, 48)
    file = remembered_in(engine)
    assert json.loads(file.read_text())["core"] == core
    monkeypatch.setattr(tuning, "_rate", lambda engine, core: pytest.fail("measured again"))
    assert tuned_core(engine) == core
    monkeypatch.setattr(tuning, "_rate", lambda engine, core: float(core))
    for damaged in ("", "{", '{"format_version": 1, "core": 30}', '{"format_version": 9, "core": 28}', "[]"):
        file.write_text(damaged)
        assert tuned_core(engine) == 48


def test_a_home_that_cannot_be_written_costs_nothing_else(
    engine: TorchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands where the folder should."""
    monkeypatch.setattr(tuning, "_rate", lambda engine, core: 1.0)
    (tmp_path / "cache").write_text("")
    assert tuned_core(engine) == 28


def test_the_smaller_of_two_that_are_alike_is_taken() -> None:
    """Within 3 % of the best."""
    assert choose_core({512: 1.0, 768: 1.02, 1024: 1.02}) == 512
    assert choose_core({512: 1.0, 768: 1.10, 1024: 1.2}) == 1024


def test_blended_networks_keep_their_window(engine: TorchEngine) -> None:
    """Nothing is measured where there is no halo."""
    engine.halo = None
    assert tuned_core(engine) == 256 and not remembered_in(engine).exists()
