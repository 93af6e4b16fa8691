"""A model is made to skip background only where it was measured to find none there."""

import numpy as np
import pytest
import torch

from pipeline.config import NucleiUNet as Config
from pipeline.config import PrepareConfig, SeparatedTarget
from pipeline.errors import ModelError, OutputError, UsageError
from pipeline.inference.background import SkippingEngine
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import FlatBackground, ModelRecord, describe_network, load_model, save_model
from pipeline.runs.skip_background import skip_background
from unet import build


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Drawn weights; the bias of the last layer decides what flat tiles are answered with."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))

    def make(bias, **changes):
        config = Config(filters=(4, 6, 8))
        torch.manual_seed(0)
        network = build(config.kind, **config.model_dump(exclude={"kind"})).eval()
        last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        with torch.no_grad():
            last.weight *= 0.1
            last.bias[:] = bias
        stride, halo = describe_network(network, 3)
        record = ModelRecord(
            name="t",
            network=config,
            prepare=PrepareConfig(),
            target=SeparatedTarget(),
            outputs=("foreground", "border", "distance"),
            stride=stride,
            halo=halo,
        )
        save_model(tmp_path / "model", network, record.model_copy(update=changes))
        (tmp_path / "model/CARD.md").write_text("card")
        (tmp_path / "model/int8-0123.xml").write_text("another's")
        return str(tmp_path / "model")

    return make


def test_a_model_that_finds_nothing_in_flat_tiles_skips_them(model, tmp_path):
    """Logits around -5: the copy has the rule, a digest of its own, all but the int8 graph, and skips a flat image."""
    name, out = model(-5.0), tmp_path / "skips"
    lines = skip_background(name, out, -0.5, 0.3, 0.02)
    assert lines[0].startswith("largest answer to flat tiles 0.0")
    copy = load_model(out)
    assert copy.record.background == FlatBackground(low=-0.5, high=0.3, tolerance=0.02)
    assert copy.digest != load_model(tmp_path / "model").digest
    assert sorted(path.name for path in out.iterdir()) == ["CARD.md", "model.json", "weights.safetensors"]
    segmenter = Segmenter(copy, "cpu", "torch", threads=1)
    assert isinstance(segmenter.engine, SkippingEngine)
    x = np.zeros((1, 3, 64, 64), np.float32)
    first, second = (load_model(folder).network(torch.from_numpy(x)) for folder in (tmp_path / "model", out))
    assert torch.equal(first, second)
    with pytest.raises(OutputError, match="something there already"):
        skip_background(name, out, -0.5, 0.3, 0.02)


@pytest.mark.slow
def test_a_model_that_may_find_something_is_refused_with_the_number(model, tmp_path):
    """Logits around 0: half of everything is foreground, and nothing is written."""
    with pytest.raises(ModelError, match=r"0\.\d+ as the largest answer to flat tiles, wanted less than 0.400"):
        skip_background(model(0.0), tmp_path / "skips", -0.5, 1.5, 0.02)
    assert not (tmp_path / "skips").exists()


@pytest.mark.parametrize("rule", [(0.3, 0.3, 0.02), (0.0, 1.0, 0.0), (0.0, 0.1, 0.2)])
def test_a_rule_without_a_range_is_refused(tmp_path, rule):
    """Nothing lies in it, or more than all of it."""
    with pytest.raises(UsageError, match="a range and what lies in it"):
        skip_background("any", tmp_path / "skips", *rule)


def test_models_whose_windows_are_blended_are_refused(model, tmp_path):
    """They have no tiles to be skipped one by one."""
    with pytest.raises(ModelError, match="another kind of model"):
        skip_background(model(-5.0, halo=None), tmp_path / "skips", -0.5, 1.5, 0.02)
