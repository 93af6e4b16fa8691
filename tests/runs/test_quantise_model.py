"""An int8 copy is made from the manifest's own splits."""

from pathlib import Path

import pytest

from pipeline.config import NucleiUNet as Config
from pipeline.config import PrepareConfig, SeparatedTarget
from pipeline.data.manifest import load_data
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import InputError, ModelError
from pipeline.model.bundle import ModelRecord, load_model, save_model
from pipeline.runs import quantise_model as job
from pipeline.runs.quantise_model import quantise_model
from unet import build


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with drawn weights whose threshold nothing reaches: Dice is 0 before and after."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    config = Config(filters=(4, 6, 8))
    record = ModelRecord(
        name="t",
        network=config,
        prepare=PrepareConfig(),
        target=SeparatedTarget(),
        thresholds={"foreground": 1.0},  # type: ignore[arg-type]
        outputs=("foreground", "border", "distance"),
        stride=4,
        halo=24,
    )
    save_model(tmp_path / "model", build(config.kind, **config.model_dump(exclude={"kind"})), record)
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    simulate_dataset(tmp_path / "made", images=8, mosaic=False, broken=False)
    return tmp_path / "made"


@pytest.mark.slow
def test_the_copy_lies_beside_the_model_and_the_lines_say_so(model: Path, data: Path) -> None:
    """Training images calibrate, validation images judge; loading, every image is told."""
    seen = []
    lines = quantise_model(str(model), data, seen.append)
    validation = len(load_data(data).split("val"))
    assert f"on {validation} validation images" in lines[0] and "0.0000 in int8" in lines[0]
    assert (model / f"int8-{load_model(model).digest[:16]}.xml").is_file()
    assert {event.stage for event in seen} == {"load train", "load val"}


def test_a_split_without_images_is_an_error(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which split, and what to give; a model that is not there has its own error."""
    with pytest.raises(ModelError):
        quantise_model(str(model / "nothing"), data)
    empty = type("Manifest", (), {"split": lambda self, name: ()})()
    monkeypatch.setattr(job, "load_data", lambda path: empty)
    with pytest.raises(InputError, match="no labelled image in split train"):
        quantise_model(str(model), data)
