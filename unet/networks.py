"""From a network's kind and parameters to the network."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from unet.dense import DenseUNet
from unet.efficientnet import EfficientUNet
from unet.ensemble import Ensemble
from unet.guide import GuideUNet
from unet.mobilenet import MobileNetUNet
from unet.nuclei import NucleiUNet
from unet.original import OriginalUNet
from unet.tutorials import HalfUNet, TwoConvolutions, TwoLevelUNet
from unet.vgg import VGG19UNet


def _monai(name: str) -> Callable[..., nn.Module]:
    def make(**parameters: Any) -> nn.Module:  # only those who ask for one pay for importing MONAI
        network: nn.Module = getattr(import_module("unet.monai_networks"), name)(**parameters)
        return network

    return make


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "guide_unet": GuideUNet,
    "nuclei_unet": NucleiUNet,
    "efficient_unet": EfficientUNet,
    "original_unet": OriginalUNet,
    "half_unet": HalfUNet,
    "two_convolutions": TwoConvolutions,
    "two_level_unet": TwoLevelUNet,
    "vgg19_unet": VGG19UNet,
    "mobilenet_unet": MobileNetUNet,
    "dense_unet": DenseUNet,
    "monai_basic_unet": _monai("MonaiBasicUNet"),
    "v_net": _monai("VNet"),
    "unet_plus_plus": _monai("UNetPlusPlus"),
    "attention_unet": _monai("AttentionUNet"),
    "residual_unet": _monai("ResidualUNet"),
    "dynamic_unet": _monai("DynamicUNet"),
    "seg_res_net": _monai("SegResNet"),
    "swin_unetr": _monai("SwinUNETR"),
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
    """The network with its weights in channels_last, in which convolutions run faster; networks of volumes as is."""
    if any(parameter.ndim == 5 for parameter in network.parameters()):
        return network
    laid: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid


def images_layout(images: Tensor) -> torch.memory_format:
    """The memory format that a batch `(N, C, (Z,) Y, X)` is best given in."""
    return torch.channels_last if images.ndim == 4 else torch.contiguous_format
