"""How far networks see: by hand, and against every single phase."""

from typing import get_args

import pytest
import torch
from torch import nn

import unet
from pipeline.config import SingleNetwork
from pipeline.model import halo as module
from pipeline.model.halo import probe_halos, probe_sight

KINDS = {config.model_fields["kind"].default: config for config in get_args(get_args(SingleNetwork)[0])}
SMALL = {
    "guide_unet": {"filters": (2, 2), "dropout": (0.0, 0.0)},
    "nuclei_unet": {"filters": (2, 2, 2)},
    "original_unet": {"filters": (2, 2, 2)},
    "half_unet": {"filters": (2, 2, 2)},
    "two_convolutions": {"filters": 2},
    "two_level_unet": {"filters": (2, 2)},
    "dense_unet": {"layers": (1, 1), "growth": 2, "stem": 2},
    "attention_unet": {"filters": (2, 2, 2)},
    "residual_unet": {"filters": (2, 2, 2)},
    "dynamic_unet": {"filters": (2, 2, 2)},
    "seg_res_net": {"filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
}


def network_of(kind: str, **more: object) -> tuple[nn.Module, int]:
    config = KINDS[kind](**{**SMALL.get(kind, {}), **more})
    return unet.build(kind, **config.model_dump(exclude={"kind"})), config.in_channels


@pytest.mark.parametrize(
    ("kind", "more", "fields"),
    [
        ("two_convolutions", {}, (5, 5)),  # two of 3x3, a head of 1x1
        ("two_level_unet", {}, (18, 18)),  # up: 3 rows, 2 + 2 at half, 3 at a quarter; down: 6 + 2 at half, 16 + 2
        ("guide_unet", {}, (18, 18)),  # up: 5 rows, 3 + 4 at half; down: 14 + 4
        (
            "nuclei_unet",
            {"filters": (2, 2), "in_channels": 1, "dimensions": 3, "pooling": ((1, 2, 2),)},
            (13, 18, 18),  # six convolutions of slices that are not pooled; rows as in the guide's
        ),
    ],
)
def test_fields_by_hand(kind: str, more: dict[str, object], fields: tuple[int, ...]) -> None:
    """The pixels that the answer of one is computed from, where they are most."""
    network, channels = network_of(kind, **more)
    assert probe_sight(network, channels, len(fields)).fields == fields


def test_kernels_of_their_own_by_hand() -> None:
    """3 rows and 5 columns; spread by two, 5 rows; InstanceNorm and GroupNorm between convolutions change nothing."""

    def sight(*layers: nn.Module, stride: int = 1) -> module.Sight:
        network = nn.Sequential(*layers)
        network.stride = stride  # type: ignore[assignment]
        return probe_sight(network, 1, 2)

    assert sight(nn.Conv2d(1, 1, (3, 5), padding=(1, 2))).fields == (3, 5)
    assert sight(nn.Conv2d(1, 1, 3, padding=2, dilation=2)).fields == (5, 5)
    assert sight(nn.AvgPool2d(4), nn.Upsample(scale_factor=4), stride=4) == module.Sight((0, 0), (4, 4), 2048)
    for norm in (nn.InstanceNorm2d(2), nn.GroupNorm(1, 2)):
        found = sight(nn.Conv2d(1, 2, 3, padding=1), norm, nn.Conv2d(2, 1, 3, padding=1))
        assert found.fields == (5, 5) and found.halos is None
    windows = sight(nn.AvgPool2d(3), nn.Upsample(scale_factor=3), stride=2)
    assert windows.fields is not None and not windows.regular  # of 3 rows on a grid of 2
    whole = sight(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(4112, 4)))
    assert whole.fields is None and whole.halos is None


def test_the_halo_takes_one_image_an_axis() -> None:
    """Not one a phase: volumes take seconds each. It sees too far for a quarter of the limit here, but not for half."""
    network = nn.Sequential(nn.Conv3d(1, 1, (17, 3, 3), padding=(8, 1, 1)))
    asked: list[torch.Size] = []
    network.register_forward_hook(lambda _, given, __: asked.append(given[0].shape[2:]))
    assert probe_halos(network, 1, (4, 4, 4), limit=32) == (8, 4, 4)
    assert asked == [(20, 8, 8), (36, 8, 8), (8, 20, 8), (8, 8, 20)]
    network.append(nn.InstanceNorm3d(1))
    assert probe_halos(network, 1, (4, 4, 4), limit=32) is None and len(asked) == 4


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_no_phase_is_passed_over(kind: str) -> None:
    """What is skipped between two phases that reach up to the same rows is what probing all of them finds.

    The halo, which is probed with all rows of a cell at once, is that of all phases.
    """
    network, channels = network_of(kind)
    sides = unet.sides_of(network, 2)
    drawn = unet.without_statistics(network)
    quick = module._reach(drawn, channels, sides, 0, 64)
    each = [module._one(drawn, channels, sides, 0, 64, phase) for phase in range(sides[0].step)]
    assert quick is not None and quick == each
    assert module._along(drawn, channels, [side.step for side in sides], 0, 64) == module._halo(quick)
    sight = probe_sight(network, channels, 2)
    assert sight.halos == probe_halos(network, channels, [side.step for side in sides], limit=128)


def test_the_copy_leaves_the_network_as_it_is() -> None:
    """Weights, norms and mode of what was probed are untouched."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)).train()
    before = network[0].weight.detach().clone()
    copied = unet.without_statistics(network)
    assert torch.equal(network[0].weight, before) and isinstance(network[1], nn.InstanceNorm2d) and network.training
    assert isinstance(copied[1], nn.Identity) and not copied[0].weight.any()
