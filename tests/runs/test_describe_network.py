"""What is said of a network is what torch counts and what can be counted by hand."""

import pytest
import torch
from torch import nn

import unet
from pipeline.config import DynamicUNet, Ensemble, GuideUNet, NucleiUNet, OriginalUNet
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
    assert found.sight.fields == (204, 204)  # rows going down 5, 7, 8, 9, 9; going up 9, 22, 48, 100, 204
    assert "field       204 x 204 px for the answer of one (found by a NaN probe)" in found.lines()


def test_blended_networks_and_volumes_say_so() -> None:
    """InstanceNorm has no halo; a volume has three sides, and its grid may differ between them."""
    config = DynamicUNet(filters=(4, 6, 8))
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    blended = describe_network(config, network, (16, 16)).lines()
    assert "tiles       blended: InstanceNorm or GroupNorm takes statistics of the whole image" in blended
    assert any("px for the answer of one, besides those statistics" in line for line in blended)
    thick = NucleiUNet(in_channels=1, filters=(2, 2), dimensions=3, pooling=((1, 2, 2),))
    found = describe_network(thick, unet.build(thick.kind, **thick.model_dump(exclude={"kind"})), (5, 8, 8))
    assert found.stride == (1, 2, 2) and found.halos == (6, 8, 8) and found.input == (1, 5, 8, 8)
    assert any("per Mvoxel" in line for line in found.lines())


def test_the_papers_bare_figure() -> None:
    """Unpadded: 572 px in, 388 out, no tiles; 268 px without a shape; 576 px are refused, with the next that fit."""
    config = OriginalUNet(filters=(2, 2, 2, 2, 2), borders="valid")
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    found = describe_network(config, network, (572, 572))
    assert found.answer == (2, 388, 388) and found.halos is None and found.sight.fields == (204, 204)
    assert "tiles       none: the answer is smaller than the image" in found.lines()
    assert "input       1 x 572 x 572; sides 16k + 12, at least 188" in found.lines()
    assert describe_network(config, network).answer == (2, 84, 84)
    with pytest.raises(UsageError, match="2 sides 16k \\+ 12, at least 188; give it as 588x572"):
        describe_network(config, network, (576, 572))


def test_far_is_not_everything() -> None:
    """Eight levels see 1,660 px: tiles would need more than 512, but nobody is told that it takes statistics."""
    config = NucleiUNet(filters=(1,) * 8)
    found = describe_network(config, unet.build(config.kind, **config.model_dump(exclude={"kind"})))
    assert found.halos is None and found.sight.fields == (1660, 1660)
    assert "tiles       blended: it sees farther than 512 px" in found.lines()


def test_one_pixel_has_no_statistics() -> None:
    """An image that is one pixel at the deepest level is refused with what torch says of it, not with torch's error."""
    config = DynamicUNet(filters=(4, 6, 8))
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    with pytest.raises(UsageError, match=r"an image that the network takes .*give a larger one"):
        describe_network(config, network, (4, 4))


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
