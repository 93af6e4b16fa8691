"""A folded network answers like the one it was made from, and alike for every tile size and number of threads."""

import pytest
import torch
from torch import Tensor, fx, nn

import unet
from pipeline.config import EfficientUNet, Ensemble, GuideUNet, NetworkConfig, NucleiUNet, SwinUNETR
from unet.folding import FusedConvolution, SummedConvolution, Transposed, can_fuse, fold

KINDS = [
    GuideUNet(filters=(4, 6, 8), dropout=(0.1, 0.1, 0.2)),
    NucleiUNet(filters=(4, 6, 8), deep_supervision=True),
    EfficientUNet(filters=(4, 6, 8, 8)),
    Ensemble(member=NucleiUNet(filters=(4, 6, 8)), count=2),
]


def make(config: NetworkConfig) -> nn.Module:
    """Drawn weights, and BatchNorm statistics as a training would leave them."""
    torch.manual_seed(0)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 32, 32) * 2 + 1)
    return network.eval()


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("config", KINDS, ids=[config.kind for config in KINDS])
def test_folding_changes_nothing_but_the_last_digits(config: NetworkConfig, fuse: bool) -> None:
    """Within 1e-4 standard deviations of the logits; neither BatchNorm nor dropout is left; the original keeps its."""
    network = make(config)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    folded = unet.channels_last(fold(network, fuse=fuse))
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 48)
        wanted = network(image)
        found = folded(image.contiguous(memory_format=torch.channels_last))
    assert float((found - wanted).abs().max() / wanted.std()) < 1e-4
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Dropout) for m in folded.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == norms
    assert any(isinstance(m, FusedConvolution) for m in folded.modules()) is (fuse and can_fuse())


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("pooling", [(), [[1, 2, 2], [2, 2, 2]], [[1, 2], [2, 2]]])
def test_networks_that_do_not_trim_fold_too(pooling: list[list[int]], fuse: bool) -> None:
    """Of volumes, and of images whose axes are halved at different steps: None is where a frame would be."""
    axes = len(pooling[0]) if pooling else 3
    network = unet.build(
        "nuclei_unet", in_channels=1, out_channels=2, filters=(4, 6, 8), dimensions=axes, pooling=pooling
    )
    folded, image = fold(network.eval(), fuse=fuse), torch.rand(1, 1, *(16,) * axes)
    assert isinstance(folded, fx.GraphModule)
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image), atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("config", KINDS[:3], ids=[config.kind for config in KINDS[:3]])
def test_skips_are_summed_not_laid_side_by_side(config: NetworkConfig) -> None:
    """One sum a step up of the decoder, no concatenation left, every step up by oneDNN, where there is oneDNN."""
    assert can_fuse()
    folded = fold(make(config), fuse=True)
    kinds = [type(module) for module in folded.modules()]
    assert isinstance(folded, fx.GraphModule)
    assert (
        kinds.count(SummedConvolution)
        == kinds.count(Transposed)
        == len(config.filters) - (0 if config.kind == "efficient_unet" else 1)
    )
    assert not any(node.target is torch.cat for node in folded.graph.nodes)


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_sums_are_what_side_by_side_gives(activation: nn.Module | None, where: int) -> None:
    """Of three parts, whatever comes after, and where what is joined is wanted elsewhere too, or along another axis."""

    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 2, 1)
            self.layer = nn.Conv2d(6 if where < 2 else 2, 4, 3, padding=1)
            self.after = activation or nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            joined = torch.cat([x, 2 * x, x + 1], 1 if where < 2 else 2)
            answer: Tensor = self.after(self.layer(joined))
            return answer + joined.mean() if where == 1 else answer

    network, image = Joins().eval(), torch.randn(1, 2, 16, 16)
    folded = fold(network, fuse=True)
    summed = any(isinstance(module, SummedConvolution) for module in folded.modules())
    assert summed is (where == 0 and not isinstance(activation, nn.ReLU6) and can_fuse())
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image))


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("kind", ["vgg19_unet", "mobilenet_unet"])
def test_published_encoders_fold(kind: str, fuse: bool) -> None:
    """Encoders that are cut into slices are traced all the same: no dropout, and no BatchNorm after a convolution."""
    torch.manual_seed(0)
    network = unet.build(kind, in_channels=3, out_channels=2, filters=(4, 4, 4, 4)).eval()
    folded = fold(network, fuse=fuse)
    assert isinstance(folded, fx.GraphModule)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = network(image)
        assert float((folded(image) - wanted).abs().max() / wanted.std()) < 1e-4
    assert not any(isinstance(m, nn.Dropout) for m in folded.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == (4 if kind == "mobilenet_unet" else 0)


def test_a_network_that_cannot_be_traced_is_run_as_it_is() -> None:
    """Swin UNETR asks numpy about its input's shape: a copy of it answers."""
    network = unet.build("swin_unetr", **SwinUNETR(filters=12).model_dump(exclude={"kind"})).eval()
    folded = fold(network, fuse=True)
    assert folded is not network and not isinstance(folded, fx.GraphModule)


def test_a_block_that_is_used_twice_keeps_its_place_in_both() -> None:
    """One convolution called twice, with BatchNorm after the first call only: the second call stays as it was."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.norm(self.layer(x)))

    network = Twice()
    network(torch.randn(4, 3, 16, 16) + 3)
    network.eval()
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(fold(network, fuse=True)(image), network(image))


def test_what_cannot_be_traced_is_taken_as_it_is() -> None:
    """A network that branches on its values: a copy, with the same answer."""

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    network = Branches()
    folded = fold(network, fuse=True)
    assert folded is not network and torch.equal(folded(-torch.ones(2)), torch.ones(2))


def test_without_the_operator_the_convolutions_stay_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch was built without oneDNN: folded, not fused."""
    can_fuse.cache_clear()
    monkeypatch.setattr(FusedConvolution, "forward", lambda self, x: torch.ops.mkldnn.no_such_operator(x))
    try:
        assert not can_fuse()
        assert not any(isinstance(m, FusedConvolution) for m in fold(make(KINDS[0]), fuse=True).modules())
    finally:
        can_fuse.cache_clear()


def test_a_network_that_tracing_would_change_is_taken_as_it_is() -> None:
    """MONAI's BasicUNet asks whether the skip is a tensor, which a tracer answers with no: its skips would be lost."""
    network = unet.build("monai_basic_unet", in_channels=3, out_channels=2, filters=(4, 4, 8, 8, 8, 4)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(fold(network, fuse=True)(image), network(image))
