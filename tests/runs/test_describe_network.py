"""What is said of a network is what torch counts and what can be counted by hand."""

import pytest
import torch
from torch import nn

import unet
from pipeline.config import DynamicUNet, Ensemble, GuideUNet, NucleiUNet
from pipeline.errors import UsageError
from pipeline.runs.describe_network import PeakMemory, describe_model, describe_network
from pipeline.shipped import FOLDER


def test_the_guides_network_as_measured_before() -> None:
    """1,941,105 parameters, halo 96, 92.5 GFLOP per megapixel; every layer in order with its shape."""
    config = GuideUNet()
    found = describe_network(config, unet.build(config.kind, **config.model_dump(exclude={"kind"})), (64, 128))
    assert found.parameters == found.as_keras == 1_941_105 and found.halos == (96, 96) and found.stride == (16, 16)
    assert found.flops / 1e9 / (64 * 128 / 1e6) == pytest.approx(92.5, abs=0.1)
    assert (found.layers[0].name, found.layers[0].shape, found.layers[0].parameters) == ("down.0.0", (16, 64, 128), 448)
    assert found.layers[-1].name == "head" and found.layers[-1].shape == (1, 64, 128)
    shared = {layer.name: layer.parameters for layer in found.layers}  # the pooling layer is used four times
    assert sum(shared.values()) == 1_941_105
    assert "work        92.5 GFLOP per Mpx" in found.lines() and "tiles       exact, halo 96 x 96 px" in found.lines()


def test_blended_networks_and_volumes_say_so() -> None:
    """InstanceNorm has no halo; a volume has three sides, and its grid may differ between them."""
    config = DynamicUNet(filters=(4, 6, 8))
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    assert any("blended" in line for line in describe_network(config, network, (16, 16)).lines())
    thick = NucleiUNet(in_channels=1, filters=(2, 2), dimensions=3, pooling=((1, 2, 2),))
    found = describe_network(thick, unet.build(thick.kind, **thick.model_dump(exclude={"kind"})), (5, 8, 8))
    assert found.stride == (1, 2, 2) and found.halos == (6, 8, 8) and found.input == (1, 5, 8, 8)
    assert any("per Mvoxel" in line for line in found.lines())


def test_memory_by_hand() -> None:
    """Two convolutions of 4 and 2 channels on 1 x 8 x 8 float32: 5 planes, then 6 with the first one still held."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)).to("meta")
    image = torch.empty(1, 1, 8, 8, device="meta")
    with torch.no_grad(), PeakMemory() as memory:
        memory.see(image)
        network(image)
    assert memory.peak == (1 + 4 + 2) * 64 * 4


def test_a_shape_has_to_fit() -> None:
    """Sides that the network cannot take, or too few of them, are refused."""
    config = NucleiUNet(filters=(2, 2))
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    for shape in ((7, 8), (8,), (0, 8)):
        with pytest.raises(UsageError, match="2 sides divisible by 2 x 2"):
            describe_network(config, network, shape)


def test_the_shipped_model_is_described() -> None:
    """Its record's own halo and stride come out."""
    found = describe_model(FOLDER / "nuclei", (64, 64))
    assert found.kind == "efficient_unet" and found.halos == (112, 112) and found.stride == (16, 16)
    assert Ensemble(member=NucleiUNet(), count=2).member.dimensions == 2
