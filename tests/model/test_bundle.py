"""A model folder is read whole or refused with a reason; the halo is what the network really sees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import unet
from pipeline.config import GuideUNet, NetworkConfig, NucleiUNet, PrepareConfig, SeparatedTarget
from pipeline.errors import ModelError
from pipeline.model.bundle import ModelRecord, describe_network, find_model, load_model, save_model
from pipeline.model.halo import probe_halo, probe_halos

SMALL = NucleiUNet(filters=(4, 6, 8))


def network_of(config: NetworkConfig) -> nn.Module:
    torch.manual_seed(1)
    return unet.build(config.kind, **config.model_dump(exclude={"kind"}))


def saved(folder: Path, config: NetworkConfig = SMALL, half: bool = False) -> nn.Module:
    network = network_of(config)
    stride, halo = describe_network(network, 3)
    names = ("foreground", "border", "distance")
    record = ModelRecord(
        name="t",
        network=config,
        prepare=PrepareConfig(),
        target=SeparatedTarget(),
        outputs=names,
        stride=stride,
        halo=halo,
    )
    save_model(folder, network, record, half=half)
    return network


def test_weights_come_back(tmp_path: Path) -> None:
    """Saved and loaded: the same logits; saved as fp16: nearly."""
    image = torch.rand(1, 3, 32, 32)
    for half, tolerance in ((False, 0.0), (True, 0.02)):
        network = saved(tmp_path / str(half), half=half).eval()
        loaded = load_model(tmp_path / str(half))
        assert loaded.record.network == SMALL and not loaded.network.training
        with torch.inference_mode():
            np.testing.assert_allclose(loaded.network(image).numpy(), network(image).numpy(), atol=max(tolerance, 1e-5))


def test_digest_names_the_content(tmp_path: Path) -> None:
    """The same weights and record have the same digest wherever they lie; fp16 weights another."""
    for name, half in (("a", False), ("b", False), ("c", True)):
        saved(tmp_path / name, half=half)
    a, b, c = (load_model(tmp_path / name).digest for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "damage", ["no record", "no weights", "cut weights", "bad json", "version", "unknown field", "other net"]
)
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    """Each kind of damage is a ModelError, none a crash or a wrong model."""
    saved(tmp_path)
    record, weights = tmp_path / "model.json", tmp_path / "weights.safetensors"
    tree = json.loads(record.read_text())
    if damage == "no record":
        record.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "bad json":
        record.write_text("{")
    else:
        change = {"version": {"format_version": 99}, "unknown field": {"surprise": 1}}
        other = {"network": {"kind": "nuclei_unet", "filters": [4, 6, 9]}}
        record.write_text(json.dumps(tree | change.get(damage, other)))
    with pytest.raises(ModelError):
        load_model(tmp_path)


def test_missing_models_are_named() -> None:
    """A name that is nothing says what it could be."""
    with pytest.raises(ModelError, match="no such model"):
        find_model("shipped:surely-not")
    with pytest.raises(ModelError, match=r"no model\.json"):
        find_model("/surely/not/there")


@pytest.mark.parametrize(("config", "expected"), [(NucleiUNet(filters=(4, 4, 4, 4, 4)), 96), (GuideUNet(), 96)])
def test_halo_is_the_receptive_field_on_the_grid(config: NetworkConfig, expected: int) -> None:
    """Five levels of two 3x3 convolutions see 92 px beyond an aligned core: 96 on the grid of 16; the limit is 128."""
    assert describe_network(network_of(config), 3) == (16, expected)


def test_halo_of_one_convolution_by_hand() -> None:
    """A 3x3 convolution sees one pixel further; on a grid of 4 that is a halo of 4, on a grid of 1 it is 1."""
    network = nn.Conv2d(1, 1, 3, padding=1)
    assert probe_halo(network, 1, 4, limit=16) == 4
    assert probe_halo(network, 1, 1, limit=16) == 1


def test_halo_along_each_axis_by_hand() -> None:
    """A 3x5 kernel reaches 1 row and 2 columns; in a volume with thick slices each axis has its own grid."""
    assert probe_halos(nn.Conv2d(1, 1, (3, 5), padding=(1, 2)), 1, (1, 1), limit=16) == (1, 2)
    volumes = nn.Conv3d(1, 1, (1, 3, 5), padding=(0, 1, 2))
    assert probe_halos(volumes, 1, (1, 2, 2), limit=16) == (0, 2, 2)
    assert probe_halos(nn.InstanceNorm3d(1), 1, (1, 2, 2), limit=16) is None


def test_halo_of_a_network_of_volumes() -> None:
    """Levels pooled 1-2-2 then 2-2-2, by hand: 12 slices (2 + 2, 4 at half, 2 + 2); 22 rows, 24 on their grid of 4."""
    config = NucleiUNet(in_channels=1, filters=(4, 4, 4), dimensions=3, pooling=((1, 2, 2), (2, 2, 2)))
    assert probe_halos(network_of(config), 1, (2, 4, 4), limit=64) == (12, 24, 24)


def test_instance_norm_sees_everything() -> None:
    """Statistics of the whole image when evaluating: no halo is enough, windows must be blended."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2))
    assert probe_halo(network, 1, 4, limit=16) is None
