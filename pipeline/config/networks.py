"""The architectures; each config names what `unet.build` takes for its kind."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipeline.config.strict import Fraction, Strict


class GuideUNet(Strict):
    """The guide's nuclei U-Net: 1,941,105 parameters on 3 channels."""

    kind: Literal["guide_unet"] = "guide_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: tuple[PositiveInt, ...] = (16, 32, 64, 128, 256)
    dropout: tuple[Fraction, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)


class NucleiUNet(Strict):
    """The default: BatchNorm folds away, so tiles are exact; the halo is derived from the network."""

    kind: Literal["nuclei_unet"] = "nuclei_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    filters: tuple[PositiveInt, ...] = (24, 48, 96, 160, 224)
    deep_supervision: bool = False


class EfficientUNet(Strict):
    """A U-Net on EfficientNet-Lite0 cut at stride 16; `initial: imagenet` starts its encoder from published weights."""

    kind: Literal["efficient_unet"] = "efficient_unet"
    in_channels: Literal[3] = 3
    out_channels: PositiveInt = 3
    filters: Annotated[tuple[PositiveInt, ...], Field(min_length=4, max_length=4)] = (16, 32, 48, 64)
    deep_supervision: bool = False


class MonaiBasicUNet(Strict):
    """MONAI's BasicUNet with its default features."""

    kind: Literal["monai_basic_unet"] = "monai_basic_unet"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 1
    filters: Annotated[tuple[PositiveInt, ...], Field(min_length=6, max_length=6)] = (32, 32, 64, 128, 256, 32)


SingleNetwork = Annotated[GuideUNet | NucleiUNet | EfficientUNet | MonaiBasicUNet, Field(discriminator="kind")]


class Ensemble(Strict):
    """The mean of `count` networks of one architecture, as `maskline train --folds` leaves it; never trained itself."""

    kind: Literal["ensemble"] = "ensemble"
    member: SingleNetwork
    count: PositiveInt


NetworkConfig = Annotated[
    GuideUNet | NucleiUNet | EfficientUNet | MonaiBasicUNet | Ensemble, Field(discriminator="kind")
]
