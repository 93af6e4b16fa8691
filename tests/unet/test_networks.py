"""The networks are the ones their sources describe."""

import numpy as np
import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from pydantic import ValidationError
from torch import nn

import unet
from pipeline.config import (
    AttentionUNet,
    DenseUNet,
    DynamicUNet,
    EfficientUNet,
    Ensemble,
    GuideUNet,
    HalfUNet,
    MobileNetUNet,
    MonaiBasicUNet,
    NetworkConfig,
    NucleiUNet,
    OriginalUNet,
    ResidualUNet,
    SegResNet,
    SwinUNETR,
    TwoConvolutions,
    TwoLevelUNet,
    UNetPlusPlus,
    VGG19UNet,
    VNet,
)
from pipeline.model.halo import probe_halo
from unet.depthwise import Depthwise

SLIM = (4, 6, 8, 10, 12)
KINDS: list[NetworkConfig] = [
    GuideUNet(),
    NucleiUNet(),
    NucleiUNet(deep_supervision=True),
    EfficientUNet(),
    EfficientUNet(deep_supervision=True),
    OriginalUNet(filters=SLIM),
    HalfUNet(filters=SLIM),
    TwoConvolutions(),
    TwoLevelUNet(),
    VGG19UNet(),
    MobileNetUNet(),
    DenseUNet(),
    MonaiBasicUNet(),
    VNet(),
    UNetPlusPlus(deep_supervision=True),
    AttentionUNet(),
    ResidualUNet(),
    DynamicUNet(deep_supervision=True),
    SegResNet(),
    SwinUNETR(),
    Ensemble(member=NucleiUNet(filters=(4, 4, 4, 4, 4)), count=2),
]
VOLUMES: list[NetworkConfig] = [
    NucleiUNet(filters=(4, 8, 8), dimensions=3, in_channels=1),
    DenseUNet(layers=(2, 2, 2), growth=4, stem=4, dimensions=3, in_channels=1),
    VNet(dimensions=3),
    UNetPlusPlus(filters=(*SLIM, 4), dimensions=3, in_channels=1),
    AttentionUNet(filters=SLIM, dimensions=3, in_channels=1),
    ResidualUNet(filters=SLIM, dimensions=3, in_channels=1),
    DynamicUNet(filters=SLIM, dimensions=3, in_channels=1),
    SegResNet(filters=8, dimensions=3, in_channels=1),
    SwinUNETR(filters=12, dimensions=3, in_channels=1),
]
STEPS = ((1, 2, 2), (2, 2, 2))


def make(config: NetworkConfig) -> nn.Module:
    torch.manual_seed(0)
    return unet.build(config.kind, **config.model_dump(exclude={"kind"}))


def named(config: NetworkConfig) -> str:
    return f"{config.kind}{'-deep' if getattr(config, 'deep_supervision', False) else ''}"


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GuideUNet(), 1_941_105),
        (OriginalUNet(), 31_030_658),
        (HalfUNet(), 8_640_471),
        (TwoConvolutions(head=False), 38_720),
        (TwoConvolutions(), 38_785),
        (TwoLevelUNet(), 297_025),
        (VGG19UNet(), 31_164_865),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_networks_have_the_published_numbers_of_parameters(config: NetworkConfig, parameters: int) -> None:
    """As the summaries in their sources print."""
    assert unet.count_parameters(make(config)) == parameters
    assert unet.count_as_keras(make(config)) == parameters  # none of them has moving statistics


def test_the_mobile_network_is_as_large_as_keras_says() -> None:
    """6,504,227 with moving statistics, of which 1,841,984 are MobileNetV2 up to block 16's projection."""
    network = make(MobileNetUNet())
    assert unet.count_as_keras(network) == 6_504_227
    assert unet.count_as_keras(network.features) == 1_841_984
    assert unet.count_parameters(network) == 6_504_227 - 32_832


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


@pytest.mark.parametrize("config", KINDS, ids=named)
def test_output_has_the_input_size(config: NetworkConfig) -> None:
    """Logits have the image's height and width and the configured channels, in evaluation mode as one tensor."""
    network, single = make(config).eval(), getattr(config, "member", config)
    with torch.inference_mode():
        answer = network(torch.zeros(2, single.in_channels, 64, 96))
    assert answer.shape == (2, single.out_channels, 64, 96)
    assert 96 % int(unet.stride_of(network)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("config", VOLUMES, ids=named)
def test_volumes_go_in_and_out(config: NetworkConfig) -> None:
    """`(N, C, Z, Y, X)` in, `(N, K, Z, Y, X)` out, each side a multiple of the stride."""
    side = 2 * int(unet.stride_of(make(config)))  # type: ignore[arg-type]
    with torch.inference_mode():
        answer = make(config).eval()(torch.zeros(1, 1, side, side, side))
    assert answer.shape == (1, 3, side, side, side)


@pytest.mark.parametrize("kind", [NucleiUNet, AttentionUNet, ResidualUNet, DynamicUNet], ids=lambda kind: kind.__name__)
def test_thick_slices_are_pooled_less(kind: type) -> None:
    """With pooling 1-2-2 then 2-2-2 the stride is (2, 4, 4), and a volume of (6, 8, 12) goes through as it is."""
    network = make(kind(filters=(4, 6, 8), dimensions=3, in_channels=1, pooling=STEPS)).eval()
    assert unet.stride_of(network) == (2, 4, 4)
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 6, 8, 12)).shape == (1, 3, 6, 8, 12)


def test_pooling_has_to_fit_the_levels() -> None:
    """One step between two levels, one factor an axis: refused in the config and by the network."""
    with pytest.raises(ValidationError, match="3 levels take 2 steps of 3 factors"):
        NucleiUNet(filters=(4, 6, 8), dimensions=3, pooling=((1, 2, 2),))
    with pytest.raises(ValueError, match="3 levels take 2 steps of 2 factors"):
        unet.build("nuclei_unet", in_channels=1, out_channels=1, filters=(4, 6, 8), pooling=STEPS)


def test_every_configured_kind_builds_and_every_kind_is_configured() -> None:
    """The config's union and the networks' table name the same kinds."""
    assert {config.kind for config in KINDS} == set(unet.network_kinds())
    with pytest.raises(KeyError):
        unet.build("unknown")


@pytest.mark.parametrize(
    ("config", "sides"),
    [
        (NucleiUNet(deep_supervision=True), (64, 32, 16)),
        (EfficientUNet(deep_supervision=True), (64, 32, 16)),
        (UNetPlusPlus(deep_supervision=True), (64, 64, 64, 64)),
        (DynamicUNet(filters=SLIM, deep_supervision=True), (64, 64, 64)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_deep_supervision_gives_each_level_its_logits(config: NetworkConfig, sides: tuple[int, ...]) -> None:
    """While training: a list, the evaluated answer first; MONAI brings all of them to full size."""
    network = make(config).train()
    assert [tuple(level.shape) for level in network(torch.zeros(2, 3, 64, 64))] == [(2, 3, s, s) for s in sides]
    image = torch.rand(2, 3, 64, 64)
    network.eval()
    with torch.inference_mode():
        alone = network(image)
        network.training = True  # the answer's form alone; its layers go on evaluating
        inner = getattr(network, "network", network)
        inner.training = True
        torch.testing.assert_close(network(image)[0], alone)


def test_heads_that_nothing_trains_are_not_there() -> None:
    """U-Net++ without deep supervision: every parameter is given a gradient."""
    network = make(UNetPlusPlus(filters=(*SLIM, 4)))
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_original_has_the_figures_shapes() -> None:
    """572² in, 388² out, 23 convolutional layers, crops of 392, 200, 104 and 56 on the way."""
    network = make(OriginalUNet(borders="valid")).to("meta")
    crops = []
    for merge in network.merge:
        merge.register_forward_pre_hook(lambda _, x: crops.append(tuple(x[0].shape[1:])))
    assert network(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert crops == [(1024, 56, 56), (512, 104, 104), (256, 200, 200), (128, 392, 392)]
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in network.modules()) == 23
    assert [m.in_channels // m.out_channels for m in network.up] == [2] * 4


@pytest.mark.slow
def test_the_original_answers_at_its_full_width() -> None:
    """64 to 1024 filters, computed: 388² finite logits of two classes, not the same everywhere."""
    torch.manual_seed(0)
    with torch.inference_mode():
        logits = make(OriginalUNet(borders="valid")).eval()(torch.rand(1, 1, 572, 572))
    assert logits.shape == (1, 2, 388, 388) and bool(logits.isfinite().all()) and float(logits.std()) > 0


def test_the_original_knows_its_sizes() -> None:
    """Valid sides are 16k + 12; a side s gives s - 184, as `margin` says, so that 188 is the smallest of use."""
    network = make(OriginalUNet(filters=SLIM, borders="valid")).eval()
    assert network.margin == 92
    assert [network.valid_side(least) for least in (1, 188, 189, 572, 573)] == [188, 188, 204, 572, 588]
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 188, 204)).shape == (1, 2, 4, 20)


def test_overlap_tile_is_the_bare_network_on_the_mirrored_image() -> None:
    """In the middle `mirrored` is `valid` itself; at the border `valid` of numpy's reflection, also of small images."""
    mirrored, bare = make(OriginalUNet(filters=SLIM)).eval(), make(OriginalUNet(filters=SLIM, borders="valid")).eval()
    image = torch.rand(1, 1, 48, 64)
    wide = np.pad(image.numpy(), ((0, 0), (0, 0), (92, 96), (92, 96)), mode="reflect")
    with torch.inference_mode():
        expected = bare(torch.from_numpy(wide))[..., :48, :64]
        torch.testing.assert_close(mirrored(image), expected)


def test_tiles_of_the_original_give_the_whole_answer() -> None:
    """The overlap its halo asks for is enough: a tile's core is the whole image's, at an edge and inside."""
    network = make(OriginalUNet(filters=(4, 4, 4))).eval()
    halo = probe_halo(network, 1, 4, limit=64)
    assert halo is not None and halo >= network.margin
    image = torch.rand(1, 1, 96, 112)
    with torch.inference_mode():
        whole = network(image)
        for start, stop in ((0, 32), (48, 64), (80, 112)):
            first, last = max(0, start - halo), min(112, stop + halo)
            tile = network(image[..., first:last])[..., start - first : stop - first]
            torch.testing.assert_close(tile, whole[..., start:stop])


def test_vgg_has_torchvisions_slices() -> None:
    """Features of 64, 128, 256, 512, 512 channels at strides 1 to 16; `features.34` alone has 2,359,808 parameters."""
    network = make(VGG19UNet()).eval()
    assert unet.count_parameters(network.features) == 20_024_384
    assert unet.count_parameters(network.features[34]) == 2_359_808
    with torch.inference_mode():
        shapes = [tuple(f.shape[1:]) for f in network.encode(torch.zeros(1, 3, 32, 64))]
    assert shapes == [(64, 32, 64), (128, 16, 32), (256, 8, 16), (512, 4, 8), (512, 2, 4)]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout2d)] == [0.25]
    assert network.head.kernel_size == (3, 3)


def test_the_mobile_taps_are_the_tutorials() -> None:
    """At 128²: 64² x 96, 32² x 144, 16² x 192, 8² x 576, 4² x 320; the decoder has 512-256-128-64 channels."""
    network = make(MobileNetUNet()).eval()
    with torch.inference_mode():
        taps = [tuple(tap.shape[1:]) for tap in network.encode(torch.zeros(1, 3, 128, 128))]
    assert taps == [(96, 64, 64), (144, 32, 32), (192, 16, 16), (576, 8, 8), (320, 4, 4)]
    assert [up[0].out_channels for up in network.up] == [512, 256, 128, 64]


def test_published_encoders_normalise_their_images() -> None:
    """ImageNet's mean colour becomes 0, one deviation more becomes 1; nothing of it is in the state."""
    network = make(MobileNetUNet())
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = torch.stack([mean, mean + deviation])[:, :, None, None]
    torch.testing.assert_close(network.normalise(colour).flatten(1), torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert not [name for name in network.state_dict() if name.startswith("normalise")]


def test_vggs_decoder_drops_whole_maps_at_the_end_of_each_level() -> None:
    """As its guide does: each map of each of the four levels' answers is 0 everywhere, or scaled up, never in parts."""
    network = make(VGG19UNet(filters=(16, 8, 8, 8), dropout=0.5)).train()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    network.dropout.register_forward_hook(lambda module, given, answer: seen.append((given[0], answer)))
    torch.manual_seed(0)
    network(torch.rand(1, 3, 32, 48))
    assert [tuple(answer.shape[1:]) for _, answer in seen] == [(16, 4, 6), (8, 8, 12), (8, 16, 24), (8, 32, 48)]
    dropped = 0
    for before, after in seen:
        for given, answer in zip(before[0], after[0], strict=True):
            assert torch.equal(answer, torch.zeros_like(given)) or torch.equal(answer, 2 * given)
            dropped += bool(given.any() and not answer.any())
    assert dropped >= 4 and sum(p.numel() for p in make(VGG19UNet()).parameters()) == 31_164_865


@pytest.mark.parametrize("kind", ["efficient_unet", "vgg19_unet", "mobilenet_unet"])
def test_published_encoders_take_three_channels_only(kind: str) -> None:
    """Their first layer was published for colour images."""
    with pytest.raises(ValueError, match="in_channels is 1"):
        unet.build(kind, in_channels=1, out_channels=1, filters=(8, 8, 8, 8))


def test_dense_blocks_pass_everything_on() -> None:
    """What came in is the first part of what goes out, followed by `growth` channels a layer."""
    block = make(DenseUNet(layers=(3, 2), growth=5, stem=4)).down[0]
    image = torch.rand(1, 4, 8, 8)
    assert block(image).shape == (1, 4 + 3 * 5, 8, 8) and torch.equal(block(image)[:, :4], image)


def test_the_dynamic_unet_is_monais() -> None:
    """The same blocks in the same order: MONAI's own answers and heads, with each block under one name."""
    ours = make(DynamicUNet(in_channels=1, out_channels=2, filters=(4, 6, 8, 10), deep_supervision=True))
    theirs = DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], (4, 6, 8, 10), deep_supervision=True, deep_supr_num=2)
    state = {name.removeprefix("network."): tensor for name, tensor in ours.state_dict().items()}
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert all("skip_layers" in name for name in theirs.load_state_dict(state, strict=False).missing_keys)
    image = torch.rand(2, 1, 32, 48)
    assert torch.equal(ours.eval()(image), theirs.eval()(image))
    levels = theirs.train()(image).unbind(1)
    for mine, level in zip(ours.train()(image), levels, strict=True):
        torch.testing.assert_close(mine, level)


GLOBAL = {"monai_basic_unet", "attention_unet", "dynamic_unet", "seg_res_net", "swin_unetr"}


@pytest.mark.slow
@pytest.mark.parametrize("config", KINDS, ids=named)
def test_who_looks_at_the_whole_field(config: NetworkConfig) -> None:
    """Networks with InstanceNorm or GroupNorm say so: only there an edit at one end changes the other end."""
    network, single = make(config).eval(), getattr(config, "member", config)
    assert unet.has_global_statistics(network) == (config.kind in GLOBAL)
    if config.kind == "mobilenet_unet":
        return  # sees farther than the images of this test
    image = torch.rand(1, single.in_channels, 64, 576)
    edited = image.clone()
    edited[..., :8] += 1
    with torch.inference_mode():
        before, after = network(image)[..., -16:], network(edited)[..., -16:]
    assert torch.equal(before, after) != (config.kind in GLOBAL)


def test_evaluation_does_not_look_at_the_rest_of_the_batch() -> None:
    """No test-time statistics: an image's logits are the same alone and beside another."""
    for config in (NucleiUNet(), EfficientUNet(), DenseUNet(), ResidualUNet()):
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


def test_an_ensemble_answers_with_the_mean() -> None:
    """Its logits are the mean of the members' logits, and the members differ."""
    config = NucleiUNet(filters=(4, 4, 4, 4, 4))
    ensemble = make(Ensemble(member=config, count=3)).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = sum(member(image) for member in ensemble.members) / 3
        torch.testing.assert_close(ensemble(image), expected)
    assert len({member.head.weight.sum().item() for member in ensemble.members}) == 3


def test_volumes_keep_their_layout() -> None:
    """channels_last is for images; a network of volumes is left as it is and says so of its batches."""
    image, volume = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, 4)
    assert unet.images_layout(image) is torch.channels_last
    assert unet.images_layout(volume) is torch.contiguous_format
    network = unet.channels_last(make(NucleiUNet(filters=(4, 8, 8), dimensions=3, in_channels=1)))
    assert all(p.is_contiguous() for p in network.parameters())


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_is_a_grouped_convolution(kernel, stride):
    """Without autocast the very numbers of nn.Conv2d; learning in bfloat16 its gradients within bfloat16's error."""
    torch.manual_seed(0)
    layer = Depthwise(32, kernel, stride)
    oracle = nn.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32, bias=False)
    oracle.load_state_dict(layer.state_dict())
    image = torch.randn(2, 32, 19, 22)
    assert torch.equal(layer(image), oracle(image))
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(image)
    answer.float().pow(2).sum().backward()
    oracle(image).pow(2).sum().backward()
    close = torch.nn.functional.cosine_similarity(layer.weight.grad.flatten(), oracle.weight.grad.flatten(), dim=0)
    assert close > 0.9999
    assert answer.dtype is (torch.bfloat16 if (kernel, stride) == (3, 1) else torch.float32)
