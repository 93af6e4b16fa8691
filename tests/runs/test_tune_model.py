"""Thresholds are chosen anew on labelled images, and kept in a copy only where they are better."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config import EvaluateConfig, MaskTarget, PrepareConfig
from pipeline.config import TwoConvolutions as Config
from pipeline.data.manifest import load_data
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import InputError, ModelError, OutputError
from pipeline.model.bundle import ModelRecord, load_model, save_model
from pipeline.runs.evaluate_model import evaluate_model
from pipeline.runs.tune_model import tune_model
from unet import build


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logits are 20 times (grey - 0.5) of the prepared image; a threshold of 0.9999 asks for more than it has to."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    config = Config()
    network = build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    with torch.no_grad():
        for layer, weight in ((network.first[0], 1 / 3), (network.second[0], 1.0)):
            layer.weight.zero_()
            layer.weight[0, : 3 if weight < 1 else 1, 1, 1] = weight
        network.head.weight.zero_()
        network.head.weight[0, 0], network.head.bias[0] = 20.0, -10.0
    record = ModelRecord(
        name="bright",
        network=config,
        prepare=PrepareConfig(),
        target=MaskTarget(),
        thresholds={"foreground": 0.9999, "minimum_area": 1},  # type: ignore[arg-type]
        outputs=("foreground",),
        stride=1,
        halo=2,
        provenance={"manifest_digest": "of the training", "val_map": 0.9},
    )
    save_model(tmp_path / "model", network, record)
    (tmp_path / "model" / "int8-0123.xml").write_text("another's")
    (tmp_path / "model" / "CARD.md").write_text("# mine\n\nIts thresholds are 0.7.\n")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    simulate_dataset(tmp_path / "made", images=24, mosaic=False, broken=False)
    return tmp_path / "made"


def test_the_copy_has_thresholds_that_score_better(model: Path, data: Path, tmp_path: Path) -> None:
    """By the numbers of `evaluate` on the images it was tuned on; the network and where it came from stay."""
    seen, out = [], tmp_path / "tuned"
    lines = tune_model(str(model), data, out, seen.append)
    before, after = load_model(model), load_model(out)
    assert after.thresholds.foreground <= 0.7 and after.digest != before.digest
    assert all(torch.equal(a, b) for a, b in zip(before.network.parameters(), after.network.parameters(), strict=True))
    assert sorted(path.name for path in out.iterdir()) == ["CARD.md", "model.json", "weights.safetensors"]
    title, note, rest = (out / "CARD.md").read_text().split("\n\n")
    assert (title, rest) == ("# mine", "Its thresholds are 0.7.\n")
    assert note.startswith("> Thresholds were chosen anew for this copy on 4 validation images")
    manifest = load_data(data)
    where = after.record.provenance
    assert where["manifest_digest"] == "of the training" and after.record.confidence is not None
    assert "val_map" not in where  # nobody knows it, with these thresholds on the training's own images
    tuned = where["tuned"]
    assert tuned == {"manifest_digest": manifest.digest, "images": 4, "val_map": tuned["val_map"]}
    assert f"{tuned['val_map']:.4f} now, on 4 validation images" in lines[0]
    assert {event.stage for event in seen} == {"load val", "tune"}
    maps = []
    for folder in (model, out):
        told = {"data": data, "model": str(folder), "split": "val", "out": tmp_path / f"ev-{folder.name}"}
        config = EvaluateConfig(**told, diameter="native", device="cpu", engine="torch", track=False)
        maps.append(evaluate_model(config)["map"])
    assert maps[1] > maps[0] and maps[1] == pytest.approx(tuned["val_map"], abs=1e-3)
    with pytest.raises(OutputError, match="something there already"):
        tune_model(str(model), data, out)


def test_thresholds_that_cannot_be_bettered_stay(model: Path, data: Path, tmp_path: Path) -> None:
    """What was tuned on the same images: nothing is written. On its training's images the score is the new one."""
    tree = json.loads((model / "model.json").read_text())
    tree["provenance"]["manifest_digest"] = load_data(data).digest
    (model / "model.json").write_text(json.dumps(tree))
    tune_model(str(model), data, tmp_path / "tuned")
    where = load_model(tmp_path / "tuned").record.provenance
    assert where["val_map"] == where["tuned"]["val_map"] != 0.9
    with pytest.raises(ModelError, match=r"none better than its own \(map 0\.\d+\)"):
        tune_model(str(tmp_path / "tuned"), data, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_too_few_images_are_refused(model: Path, tmp_path: Path) -> None:
    """Two in the validation split: any thresholds would fit them."""
    simulate_dataset(tmp_path / "few", images=8, mosaic=False, broken=False)
    with pytest.raises(InputError, match="in split val, wanted 4 at least"):
        tune_model(str(model), tmp_path / "few", tmp_path / "tuned")
