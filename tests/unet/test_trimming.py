"""With a frame a network answers the core alone, and the very bits that it gives there without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import unet
from pipeline.config import EfficientUNet, GuideUNet, NetworkConfig, NucleiUNet
from pipeline.model.halo import probe_halo
from unet.folding import fold
from unet.trimming import trim, trims

KINDS = [
    GuideUNet(filters=(4, 6, 8), dropout=(0.1, 0.1, 0.2)),
    GuideUNet(filters=(4,), dropout=(0.1,)),
    NucleiUNet(filters=(4, 6, 8)),
    EfficientUNet(filters=(4, 6, 8, 8)),
]


def make(config: NetworkConfig) -> tuple[nn.Module, int]:
    """A network with drawn weights, and its halo."""
    torch.manual_seed(0)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    halo = probe_halo(network, 3, int(unet.stride_of(network)))  # type: ignore[arg-type]
    assert halo is not None
    return network, halo


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("config", KINDS, ids=[f"{config.kind}-{len(config.filters)}" for config in KINDS])
def test_the_core_is_what_it_was(config: NetworkConfig, fuse: bool) -> None:
    """Of tiles within an image, at its edges, and where it ends a step or two beyond the core."""
    network, halo = make(config)
    stride = int(unet.stride_of(network))  # type: ignore[arg-type]
    assert trims(network)
    folded = unet.channels_last(fold(network, fuse=fuse, framed=True))
    side = 2 * halo + 4 * stride
    image = torch.randn(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = folded(image, torch.zeros(4, dtype=torch.int64))
        torch.testing.assert_close(whole, network(image), atol=1e-4, rtol=1e-4)
        for frame in ([halo, halo, halo, halo], [0, 0, halo, halo], [halo, halo, 0, 0], [stride, 2 * stride, 0, halo]):
            top, left, bottom, right = frame
            found = folded(image, torch.tensor(frame))
            wanted = whole[:, :, top : side - bottom, left : side - right]
            if fuse:
                assert torch.equal(found, wanted)
            else:  # torch's own convolutions choose by the size
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_what_is_kept_is_needed() -> None:
    """With half as much of each level the answer is another."""
    network, halo = make(NucleiUNet(filters=(4, 6, 8)))
    image = torch.randn(1, 3, 2 * halo + 16, 2 * halo + 16)
    frame = torch.full((4,), halo)
    with torch.inference_mode():
        whole = network(image)[:, :, halo:-halo, halo:-halo]
        torch.testing.assert_close(network(image, frame), whole)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unet.trimming.KEPT", 2)
            patch.setattr("unet.nuclei.KEPT", 2)
            assert float((network(image, frame) - whole).abs().max()) > 1e-4


def test_networks_of_volumes_and_of_other_steps_do_not_trim() -> None:
    """Only where each step halves both axes of an image do a level's pixels tell those of the next."""
    assert not trims(unet.build("nuclei_unet", in_channels=1, out_channels=1, filters=(4, 6), dimensions=3))
    assert not trims(
        unet.build("nuclei_unet", in_channels=1, out_channels=1, filters=(4, 6), pooling=[[1, 2]], dimensions=2)
    )
    assert not trims(
        unet.build(
            "ensemble",
            member={
                "kind": "guide_unet",
                "in_channels": 3,
                "out_channels": 1,
                "filters": (4, 6),
                "dropout": (0.0, 0.0),
            },
            count=2,
        )
    )


@given(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.sampled_from([1, 2, 4]), st.integers(0, 4))
@settings(max_examples=60)
def test_trimming_is_a_slice(around: list[int], stride: int, keep: int) -> None:
    """Of rows and columns that know where they are."""
    frame = torch.tensor(around) * stride
    height, width = (5 + around[a] + around[a + 2] for a in (0, 1))
    image = torch.arange(height * width).view(1, 1, height, width)
    top, left, bottom, right = (max(0, each - keep) for each in around)
    assert torch.equal(trim(image, frame, stride, keep), image[:, :, top : height - bottom, left : width - right])
    assert trim(image, None, stride, keep) is image
