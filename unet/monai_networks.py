"""MONAI's own networks, with what ours say of themselves: their stride, and a list of logits, finest first, for deep
supervision.

Some normalise by the statistics of the image they are given (InstanceNorm, GroupNorm): windows of those are blended,
not exact. Where MONAI leaves the choice it is ours too (`norm`).
"""

from collections.abc import Sequence
from typing import Any, Literal

from monai.networks.nets.attentionunet import AttentionUnet as MonaiAttentionUNet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.vnet import VNet as MonaiVNet
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unet.dimensions import Pooling, Stride, pooling_factors, total_stride

Norm = Literal["batch", "instance"]


def _norm(norm: Norm) -> tuple[str, dict[str, bool]]:
    return norm, {"affine": True}


class _Wrapped(nn.Module):
    """Logits `(N, out_channels, (Z,) Y, X)` of an image `(N, in_channels, (Z,) Y, X)`; sides divisible by `stride`."""

    def __init__(self, network: nn.Module, stride: Stride) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor = self.network(image)
        return logits


class MonaiBasicUNet(_Wrapped):
    """MONAI's BasicUNet. `filters` are its `features`: of the five levels, and of the last upsampling step."""

    def __init__(self, in_channels: int, out_channels: int, filters: Sequence[int]) -> None:
        super().__init__(BasicUNet(2, in_channels, out_channels, tuple(filters)), 16)


class VNet(_Wrapped):
    """Milletari et al. 2016: residual levels of 5x5 convolutions, strided convolutions in place of pooling.

    `in_channels` must divide 16, as the image is added to the first level's 16 channels.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float, dimensions: int = 2) -> None:
        network = MonaiVNet(
            dimensions,
            in_channels,
            out_channels,
            dropout_prob_down=dropout,
            dropout_prob_up=(dropout, dropout),
            dropout_dim=dimensions,
        )
        super().__init__(network, 16)


class UNetPlusPlus(_Wrapped):
    """Zhou et al. 2018: nested, dense skips. With `deep_supervision` every column of level 0 has a head of its own.

    `filters` are MONAI's `features`: of the five levels, and of the last upsampling step. While training with deep
    supervision the answer is the list of all columns' logits, the last (the deepest) first, all at full size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        norm: Norm,
        dropout: float = 0.0,
        deep_supervision: bool = False,
        dimensions: int = 2,
    ) -> None:
        network = BasicUNetPlusPlus(
            dimensions, in_channels, out_channels, tuple(filters), deep_supervision, norm=_norm(norm), dropout=dropout
        )
        if not deep_supervision:  # heads that nothing would train
            network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
        super().__init__(network, 16)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        columns: list[Tensor] = self.network(image)[::-1]
        return columns if self.training and len(columns) > 1 else columns[0]


class AttentionUNet(_Wrapped):
    """Oktay et al. 2018: gates on the skips, computed pixel by pixel from the level below.

    The gates are local, but MONAI merges with InstanceNorm, so windows are blended all the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        dropout: float = 0.0,
        dimensions: int = 2,
        pooling: Pooling = (),
    ) -> None:
        factors = pooling_factors(pooling, len(filters), dimensions)
        network = MonaiAttentionUNet(dimensions, in_channels, out_channels, tuple(filters), factors, dropout=dropout)  # type: ignore[arg-type]
        super().__init__(network, total_stride(factors))


class ResidualUNet(_Wrapped):
    """Kerfoot et al. 2018: residual units with strided convolutions, transposed convolutions on the way up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        units: int,
        norm: Norm,
        dropout: float = 0.0,
        dimensions: int = 2,
        pooling: Pooling = (),
    ) -> None:
        factors = pooling_factors(pooling, len(filters), dimensions)
        network = UNet(
            dimensions,
            in_channels,
            out_channels,
            tuple(filters),
            factors,  # type: ignore[arg-type]
            num_res_units=units,
            norm=_norm(norm),
            dropout=dropout,
        )
        super().__init__(network, total_stride(factors))


class DynamicUNet(_Wrapped):
    """The nnU-Net's network (Isensee et al. 2021): strided convolutions, leaky ReLU, heads at the upper levels.

    While training with `deep_supervision` the answer is a list of logits, finest first, each brought to full size.
    `residual` takes residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        norm: Norm,
        dropout: float = 0.0,
        residual: bool = False,
        deep_supervision: bool = False,
        dimensions: int = 2,
        pooling: Pooling = (),
    ) -> None:
        factors = pooling_factors(pooling, len(filters), dimensions)
        network = DynUNet(
            dimensions,
            in_channels,
            out_channels,
            kernel_size=[3] * len(filters),
            strides=[(1,) * dimensions, *factors],
            upsample_kernel_size=factors,
            filters=tuple(filters),
            dropout=dropout or None,
            norm_name=_norm(norm),
            deep_supervision=deep_supervision,
            deep_supr_num=max(1, min(2, len(filters) - 2)),
            res_block=residual,
        )
        del network.skip_layers  # a second name of every block, which no file of weights takes
        super().__init__(network, total_stride(factors))
        self.deep_supervision = deep_supervision

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        network: Any = self.network
        x, copies, levels = network.input_block(image), [], []
        for down in (*network.downsamples, network.bottleneck):
            copies.append(x)
            x = down(x)
        for up, copy in zip(network.upsamples, reversed(copies), strict=True):
            x = up(x, copy)
            levels.append(x)
        logits: Tensor = network.output_block(x)
        if not (self.training and self.deep_supervision):
            return logits
        upper = zip(network.deep_supervision_heads, levels[-2::-1], strict=False)  # the finest level has its own head
        return [logits, *(interpolate(head(level), logits.shape[2:]) for head, level in upper)]


class SegResNet(_Wrapped):
    """Myronenko 2018, without its variational branch: residual blocks with GroupNorm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: int,
        blocks_down: Sequence[int],
        blocks_up: Sequence[int],
        dropout: float = 0.0,
        dimensions: int = 2,
    ) -> None:
        network = MonaiSegResNet(
            dimensions,
            filters,
            in_channels,
            out_channels,
            dropout or None,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )
        super().__init__(network, 2 ** (len(blocks_down) - 1))


class SwinUNETR(_Wrapped):
    """Hatamizadeh et al. 2022: attention in shifted windows going down, convolutions with InstanceNorm going up."""

    fixed_when_traced = True  # how open sides fall into windows is more than torch's tracing works out in minutes

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        dropout: float = 0.0,
        dimensions: int = 2,
    ) -> None:
        network = MonaiSwinUNETR(
            in_channels,
            out_channels,
            depths=tuple(depths),
            num_heads=tuple(heads),
            window_size=window,
            feature_size=filters,
            drop_rate=dropout,
            spatial_dims=dimensions,
        )
        super().__init__(network, 32)
