"""The configs that ship: each is valid as it stands, and says how it is run and what came of it."""

from pathlib import Path

import pytest

from pipeline.config import TrainConfig, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_config_is_valid_and_headed(path: Path) -> None:
    """Command, hardware, time and score stand above it."""
    assert load_config(TrainConfig, path).name
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("command:", "hardware:", "time:", "score:"):
        assert any(line.startswith(f"# {word}") for line in head), word
