"""The architectures; each config names what `unet.build` takes for its kind.

Every one of them has `in_channels`, `out_channels` and `dimensions` (2, or 3 where volumes can be had).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.strict import Fraction, Strict

Filters = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
TwoOrMore = Annotated[Filters, Field(min_length=2)]
FourFilters = Annotated[Filters, Field(min_length=4, max_length=4)]
SixFilters = Annotated[Filters, Field(min_length=6, max_length=6)]
Pooling = tuple[tuple[PositiveInt, ...], ...]  # a factor an axis, ((Z,) Y, X), for each step down; () is 2 everywhere
Norm = Literal["batch", "instance"]


class _Network(Strict):
    """`published`: whether there are weights of its encoder that everybody knows (`pretrained: imagenet`)."""

    published: ClassVar[bool] = False

    @property
    def untrainable(self) -> str:
        """Why it cannot be trained as it is set; "" where it can."""
        return ""


class _Planar(_Network):
    """What networks are that know images, not volumes."""

    dimensions: ClassVar[Literal[2]] = 2


class _Pooled(_Network):
    """What networks have that may shrink each axis by a factor of its own."""

    filters: TwoOrMore
    dimensions: Literal[2, 3] = 2
    pooling: Pooling = ()

    @model_validator(mode="after")
    def _pooling_fits(self) -> "_Pooled":
        steps = len(self.filters) - 1
        if self.pooling and (len(self.pooling) != steps or any(len(p) != self.dimensions for p in self.pooling)):
            raise ValueError(f"pooling: {len(self.filters)} levels take {steps} steps of {self.dimensions} factors")
        if self.dimensions == 2 and any(len(set(factors)) > 1 for factors in self.pooling):
            raise ValueError("pooling: images shrink alike along both axes; a factor for each axis is for volumes")
        return self


class GuideUNet(_Planar):
    """The guide's nuclei U-Net: 1,941,105 parameters on 3 channels."""

    kind: Literal["guide_unet"] = "guide_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: Filters = (16, 32, 64, 128, 256)
    dropout: tuple[Fraction, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)

    @model_validator(mode="after")
    def _a_dropout_a_level(self) -> "GuideUNet":
        if len(self.dropout) != len(self.filters):
            raise ValueError(
                f"dropout: {len(self.dropout)} values for {len(self.filters)} filters, one for each wanted"
            )
        return self


class NucleiUNet(_Pooled):
    """The default: BatchNorm folds away, so tiles are exact; the halo is derived from the network."""

    kind: Literal["nuclei_unet"] = "nuclei_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: TwoOrMore = (24, 48, 96, 160, 224)
    deep_supervision: bool = False


class EfficientUNet(_Planar):
    """A U-Net on EfficientNet-Lite0 cut at stride 16, with the names of its published weights."""

    published: ClassVar[bool] = True
    kind: Literal["efficient_unet"] = "efficient_unet"
    in_channels: Literal[3] = 3
    out_channels: PositiveInt = 3
    filters: FourFilters = (16, 32, 48, 64)
    deep_supervision: bool = False


class OriginalUNet(_Planar):
    """The paper of 2015: unpadded convolutions; `borders: mirrored` is its overlap-tile, `valid` the bare network."""

    kind: Literal["original_unet"] = "original_unet"
    in_channels: PositiveInt = 1
    out_channels: PositiveInt = 2
    filters: Filters = (64, 128, 256, 512, 1024)
    dropout: Fraction = 0.5
    borders: Literal["mirrored", "valid"] = "mirrored"


class HalfUNet(_Planar):
    """The half-width multi-class U-Net, padded: 8,640,471 parameters with 23 classes on 3 channels."""

    kind: Literal["half_unet"] = "half_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 23
    filters: TwoOrMore = (32, 64, 128, 256, 512)
    dropout: Fraction = 0.3


class TwoConvolutions(_Planar):
    """Two convolutions and a 1x1 head: 38,785 parameters; without the head 38,720, ending in ReLU channels."""

    kind: Literal["two_convolutions"] = "two_convolutions"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: PositiveInt = 64
    head: bool = True

    @property
    def untrainable(self) -> str:
        """Without the head there are no logits."""
        return "" if self.head else "head: false ends in ReLU channels, not in logits; set head: true"


class TwoLevelUNet(_Planar):
    """Two levels, two skips, plain up-sampling: 297,025 parameters on 3 channels."""

    kind: Literal["two_level_unet"] = "two_level_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: tuple[PositiveInt, PositiveInt] = (64, 128)


class VGG19UNet(_Planar):
    """A U-Net on VGG19 with torchvision's names: 31,164,865 parameters; `filters` are the decoder's, deepest first."""

    published: ClassVar[bool] = True
    kind: Literal["vgg19_unet"] = "vgg19_unet"
    in_channels: Literal[3] = 3
    out_channels: PositiveInt = 1
    filters: FourFilters = (512, 256, 128, 64)
    dropout: Fraction = 0.25


class MobileNetUNet(_Planar):
    """MobileNetV2 with the pix2pix decoder: 6,504,227 parameters as Keras counts; `filters` are the decoder's."""

    published: ClassVar[bool] = True
    kind: Literal["mobilenet_unet"] = "mobilenet_unet"
    in_channels: Literal[3] = 3
    out_channels: PositiveInt = 3
    filters: FourFilters = (512, 256, 128, 64)


class DenseUNet(_Network):
    """Densely connected blocks of `layers` a level, each of `growth` channels."""

    kind: Literal["dense_unet"] = "dense_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (4, 4, 4, 4, 4)
    growth: PositiveInt = 16
    stem: PositiveInt = 32
    dimensions: Literal[2, 3] = 2


class MonaiBasicUNet(_Planar):
    """MONAI's BasicUNet with its default features."""

    kind: Literal["monai_basic_unet"] = "monai_basic_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: SixFilters = (32, 32, 64, 128, 256, 32)


class VNet(_Network):
    """Residual levels of 5x5 convolutions, strided convolutions going down; MONAI's, whose channels must divide 16."""

    kind: Literal["v_net"] = "v_net"
    in_channels: Literal[1, 2, 4, 8, 16] = 1
    out_channels: PositiveInt = 3
    dropout: Fraction = 0.5
    dimensions: Literal[2, 3] = 2


class UNetPlusPlus(_Network):
    """Nested dense skips, with a head a column under deep supervision; MONAI's."""

    kind: Literal["unet_plus_plus"] = "unet_plus_plus"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: SixFilters = (32, 32, 64, 128, 256, 32)
    norm: Norm = "batch"
    dropout: Fraction = 0.0
    deep_supervision: bool = False
    dimensions: Literal[2, 3] = 2


class AttentionUNet(_Pooled):
    """Gates on the skips; MONAI's."""

    kind: Literal["attention_unet"] = "attention_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: TwoOrMore = (16, 32, 64, 128, 256)
    dropout: Fraction = 0.0


class ResidualUNet(_Pooled):
    """Residual units with strided convolutions; MONAI's UNet."""

    kind: Literal["residual_unet"] = "residual_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: TwoOrMore = (16, 32, 64, 128, 256)
    units: PositiveInt = 2
    norm: Norm = "batch"
    dropout: Fraction = 0.0


class DynamicUNet(_Pooled):
    """The nnU-Net's network; MONAI's DynUNet. InstanceNorm is nnU-Net's; `norm: batch` makes tiles exact."""

    kind: Literal["dynamic_unet"] = "dynamic_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: Annotated[Filters, Field(min_length=3)] = (32, 64, 128, 256, 512)
    norm: Norm = "instance"
    dropout: Fraction = 0.0
    residual: bool = False
    deep_supervision: bool = False


class SegResNet(_Network):
    """Residual blocks with GroupNorm; MONAI's. `filters` are the first level's and double going down."""

    kind: Literal["seg_res_net"] = "seg_res_net"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: Annotated[int, Field(gt=0, multiple_of=8)] = 16
    blocks_down: tuple[PositiveInt, ...] = (1, 2, 2, 4)
    blocks_up: tuple[PositiveInt, ...] = (1, 1, 1)
    dropout: Fraction = 0.0
    dimensions: Literal[2, 3] = 2


class SwinUNETR(_Network):
    """Attention in shifted windows going down, convolutions going up; MONAI's."""

    kind: Literal["swin_unetr"] = "swin_unetr"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: Annotated[int, Field(gt=0, multiple_of=12)] = 24
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=4, max_length=4)] = (2, 2, 2, 2)
    heads: Annotated[tuple[PositiveInt, ...], Field(min_length=4, max_length=4)] = (3, 6, 12, 24)
    window: PositiveInt = 7
    dropout: Fraction = 0.0
    dimensions: Literal[2, 3] = 2


_Ours = GuideUNet | NucleiUNet | EfficientUNet | OriginalUNet | HalfUNet | TwoConvolutions | TwoLevelUNet
_Encoders = VGG19UNet | MobileNetUNet | DenseUNet
_Monais = MonaiBasicUNet | VNet | UNetPlusPlus | AttentionUNet | ResidualUNet | DynamicUNet | SegResNet | SwinUNETR
SingleNetwork = Annotated[_Ours | _Encoders | _Monais, Field(discriminator="kind")]


class Ensemble(Strict):
    """The mean of `count` networks of one architecture, as `maskline train --folds` leaves it; never trained itself."""

    kind: Literal["ensemble"] = "ensemble"
    member: SingleNetwork
    count: PositiveInt


NetworkConfig = Annotated[_Ours | _Encoders | _Monais | Ensemble, Field(discriminator="kind")]


def single_network(config: NetworkConfig) -> SingleNetwork:
    """The architecture itself: an ensemble's member, else the config as it is."""
    return config.member if isinstance(config, Ensemble) else config
