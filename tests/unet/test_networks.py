"""The networks are the ones their sources describe."""

import numpy as np
import pytest
import torch
from torch import nn

import unet
from pipeline.config import EfficientUNet, Ensemble, GuideUNet, MonaiBasicUNet, NetworkConfig, NucleiUNet

KINDS = [
    GuideUNet(),
    NucleiUNet(),
    NucleiUNet(deep_supervision=True),
    EfficientUNet(),
    EfficientUNet(deep_supervision=True),
    MonaiBasicUNet(),
    Ensemble(member=NucleiUNet(filters=(4, 4, 4, 4, 4)), count=2),
]


def make(config: NetworkConfig) -> nn.Module:
    torch.manual_seed(0)
    return unet.build(config.kind, **config.model_dump(exclude={"kind"}))


def test_guide_network_has_the_published_number_of_parameters() -> None:
    """1,941,105 on three channels, as Keras' summary of the guide's model prints."""
    assert sum(p.numel() for p in make(GuideUNet()).parameters()) == 1_941_105


def test_guide_network_has_its_layers() -> None:
    """Nine levels of two 3x3 convolutions, four 2x2 transposed ones, a 1x1 head, dropout .1 .1 .2 .2 .3 and back."""
    modules = list(make(GuideUNet()).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in convolutions] == [(3, 3)] * 18 + [(1, 1)]
    assert [m.kernel_size for m in modules if isinstance(m, nn.ConvTranspose2d)] == [(2, 2)] * 4
    assert [m.p for m in modules if isinstance(m, nn.Dropout)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1]


def test_guide_network_is_initialised_as_he_normal() -> None:
    """A large layer's weights have the deviation sqrt(2 / fan_in) and none beyond two of the uncut normal's."""
    weight = make(GuideUNet()).down[4][3].weight.detach()  # 256 x 256 x 3 x 3
    he = (2 / (9 * 256)) ** 0.5
    assert weight.std().item() == pytest.approx(he, rel=0.01)
    assert weight.abs().max().item() <= 2 * he / 0.8796


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}{getattr(c, 'deep_supervision', '')}")
def test_output_has_the_input_size(config: NetworkConfig) -> None:
    """Logits have the image's height and width and the configured channels, in evaluation mode as one tensor."""
    network = make(config).eval()
    channels = getattr(config, "member", config).out_channels
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 48, 64)).shape == (2, channels, 48, 64)
    assert network.stride == 16


def test_every_configured_kind_builds_and_every_kind_is_configured() -> None:
    """The config's union and the networks' table name the same kinds."""
    assert {config.kind for config in KINDS} == set(unet.network_kinds())
    with pytest.raises(KeyError):
        unet.build("unknown")


@pytest.mark.parametrize(
    "config",
    [NucleiUNet(deep_supervision=True), EfficientUNet(deep_supervision=True)],
    ids=lambda c: c.kind,
)
def test_deep_supervision_gives_each_level_its_logits(config: NetworkConfig) -> None:
    """While training: finest first, each level half the size of the one before."""
    network = make(config).train()
    shapes = [tuple(level.shape) for level in network(torch.zeros(2, 3, 64, 64))]
    assert shapes == [(2, 3, 64, 64), (2, 3, 32, 32), (2, 3, 16, 16)]


@pytest.mark.parametrize("config", [NucleiUNet(), EfficientUNet()], ids=lambda c: c.kind)
def test_evaluation_does_not_look_at_the_rest_of_the_batch(config: NetworkConfig) -> None:
    """No test-time statistics: an image's logits are the same alone and beside another."""
    network = make(config).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        together, alone = network(images)[:1], network(images[:1])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-5)


def test_the_efficient_encoder_has_the_published_stages() -> None:
    """EfficientNet-B0's table 1 without squeeze and excitation, to stride 16: channels, strides, and every tensor."""
    encoder = make(EfficientUNet()).encoder
    features = encoder.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (80, 4, 6)]
    kernels = [block._depthwise_conv.kernel_size[0] for block in encoder._blocks]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3]
    assert encoder._blocks[7]._expand_conv.weight.shape == (480, 80, 1, 1)


def test_the_efficient_network_takes_three_channels_only() -> None:
    """Its encoder's first layer was published for colour images."""
    with pytest.raises(ValueError, match="in_channels is 1"):
        unet.build("efficient_unet", in_channels=1, out_channels=1, filters=(8, 8, 8, 8))


def test_an_ensemble_answers_with_the_mean() -> None:
    """Its logits are the mean of the members' logits, and the members differ."""
    config = NucleiUNet(filters=(4, 4, 4, 4, 4))
    ensemble = make(Ensemble(member=config, count=3)).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = sum(member(image) for member in ensemble.members) / 3
        torch.testing.assert_close(ensemble(image), expected)
    assert len({member.head.weight.sum().item() for member in ensemble.members}) == 3
