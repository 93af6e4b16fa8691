"""From a network's kind and parameters to the network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unet.efficientnet import EfficientUNet
from unet.ensemble import Ensemble
from unet.guide import GuideUNet
from unet.nuclei import NucleiUNet


def _monai_basic_unet(**parameters: Any) -> nn.Module:
    from unet.monai_networks import MonaiBasicUNet  # only those who ask for it pay for importing MONAI

    return MonaiBasicUNet(**parameters)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "guide_unet": GuideUNet,
    "nuclei_unet": NucleiUNet,
    "efficient_unet": EfficientUNet,
    "monai_basic_unet": _monai_basic_unet,
    "ensemble": lambda member, count: Ensemble([build(**member) for _ in range(count)]),
}


def network_kinds() -> tuple[str, ...]:
    """The kinds that `build` knows."""
    return tuple(_NETWORKS)


def build(kind: str, **parameters: Any) -> nn.Module:
    """The network of `kind`, freshly initialised from torch's global generator.

    Raises KeyError for an unknown kind and TypeError for parameters it does not take; configs are validated before.

    >>> sum(p.numel() for p in build("guide_unet", in_channels=3, out_channels=1, filters=(16, 32, 64, 128, 256),
    ...                              dropout=(.1, .1, .2, .2, .3)).parameters())
    1941105
    """
    return _NETWORKS[kind](**parameters)


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights in channels_last, which CPU and GPU convolutions run faster in."""
    laid: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid
