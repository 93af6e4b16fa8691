"""What a training is told: data preparation, target, loss, schedule, augmentation."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipeline.config.classes import (
    ClassesTarget,
    PatchSampling,
    SpacingSize,
    VolumeAugmentation,
    ZScore,
    check_classes,
    check_dimensions,
)
from pipeline.config.networks import EfficientUNet, NucleiUNet, SingleNetwork
from pipeline.config.strict import Fraction, Strict


class Percentile(Strict):
    """Each channel to [0, 1] between two percentiles of the whole image."""

    kind: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.8


class Divide(Strict):
    """Each value by a constant (x / 255), as the guide does."""

    kind: Literal["divide"] = "divide"
    by: PositiveFloat = 255.0


class NativeSize(Strict):
    """The image as it is, unless --diameter or --pixel-size says how far it is from the model's."""

    kind: Literal["native"] = "native"


class FixedSize(Strict):
    """Every image resized to one size, as the guide does; predictions are put back."""

    kind: Literal["fixed"] = "fixed"
    height: PositiveInt = 128
    width: PositiveInt = 128


class PrepareConfig(Strict):
    channels: PositiveInt = 3
    normalise: Annotated[Percentile | Divide | ZScore, Field(discriminator="kind")] = Percentile()
    size: Annotated[NativeSize | FixedSize | SpacingSize, Field(discriminator="kind")] = NativeSize()


class MaskTarget(Strict):
    """One foreground channel; instances are its connected components.

    `merge` matters for fixed sizes: `clean` resizes the merged mask and cuts at .5; `literal` is the guide's way, each
    instance mask resized with anti-aliasing and taken where non-zero.
    """

    kind: Literal["mask"] = "mask"
    merge: Literal["clean", "literal"] = "clean"


class SeparatedTarget(Strict):
    """Foreground, border between neighbours, and distance to the own border: what separating instances needs."""

    kind: Literal["separated"] = "separated"


class ThreeClassTarget(Strict):
    """Body, border between neighbours, background, of which a pixel is one: a softmax head, trained by cross-entropy.

    The recipe of the Data Science Bowl's first place.
    """

    kind: Literal["three_class"] = "three_class"


Target = MaskTarget | SeparatedTarget | ThreeClassTarget | ClassesTarget
TargetConfig = Annotated[Target, Field(discriminator="kind")]


class DiceBCE(Strict):
    """Weights of Dice and BCE, and of each output channel."""

    kind: Literal["dice_bce"] = "dice_bce"
    dice: NonNegativeFloat = 1.0
    bce: NonNegativeFloat = 1.0
    channels: tuple[NonNegativeFloat, ...] = ()


class Adam(Strict):
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3


class AdamW(Strict):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-4


class Cosine(Strict):
    """Linear warm-up, then half a cosine down to `floor` of the rate, over the epochs or the time budget."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: int = 100
    floor: Fraction = 0.01


class Constant(Strict):
    kind: Literal["constant"] = "constant"


class NoAugmentation(Strict):
    kind: Literal["none"] = "none"


class NucleiAugmentation(Strict):
    """Flips and quarter turns, rotation, scale, intensity, stain, colour and noise; see pipeline.training.augment."""

    kind: Literal["nuclei"] = "nuclei"
    rotate: bool = True
    scale: tuple[PositiveFloat, PositiveFloat] = (0.65, 1.6)
    intensity: NonNegativeFloat = 0.2
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    noise: NonNegativeFloat = 0.05
    blur: NonNegativeFloat = 1.5
    stain: NonNegativeFloat = 0.1
    grey: Fraction = 0.0
    tint: Fraction = 0.0
    invert: Fraction = 0.0
    touch: Fraction = 0.0


class CropSampling(Strict):
    """Random crops at native size; images drawn evenly over (modality, size) classes to the power `balance`."""

    kind: Literal["crops"] = "crops"
    size: PositiveInt = 256
    per_epoch: PositiveInt = 512
    balance: Fraction = 0.5


class WholeSampling(Strict):
    """Every image once an epoch, whole (needs a fixed size)."""

    kind: Literal["whole"] = "whole"


class ManifestValidation(Strict):
    kind: Literal["manifest"] = "manifest"


class LastFraction(Strict):
    """The last part of the training images, in order, is the validation set (the guide's validation_split)."""

    kind: Literal["last_fraction"] = "last_fraction"
    fraction: Fraction = 0.1


class EarlyStopping(Strict):
    """Stop after `patience` epochs without a better `watch`, never before `minimum_epochs`."""

    patience: PositiveInt = 30
    minimum_epochs: int = 10
    watch: Literal["score", "loss"] = "score"


class TrainConfig(Strict):
    name: str = "nuclei"
    network: SingleNetwork = NucleiUNet()
    initial: Literal["random", "imagenet"] = "random"
    prepare: PrepareConfig = PrepareConfig()
    target: TargetConfig = SeparatedTarget()
    loss: DiceBCE = DiceBCE()
    optimiser: Annotated[AdamW | Adam, Field(discriminator="kind")] = AdamW()
    schedule: Annotated[Cosine | Constant, Field(discriminator="kind")] = Cosine()
    sampling: Annotated[CropSampling | WholeSampling | PatchSampling, Field(discriminator="kind")] = CropSampling()
    augmentation: Annotated[NucleiAugmentation | NoAugmentation | VolumeAugmentation, Field(discriminator="kind")] = (
        NucleiAugmentation()
    )
    validation: Annotated[ManifestValidation | LastFraction, Field(discriminator="kind")] = ManifestValidation()
    stopping: EarlyStopping = EarlyStopping()
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 300
    validate_every: PositiveInt = 1
    ema: Fraction = 0.99
    clip: NonNegativeFloat = 1.0
    seed: int = 0
    deterministic: bool = False  # on a GPU: the same bits from the same seed, for some speed; the CPU's always are
    tune_thresholds: bool = True
    sample_pictures: int = 4

    @model_validator(mode="after")
    def _has_published_weights(self) -> "TrainConfig":
        if self.initial == "imagenet" and not isinstance(self.network, EfficientUNet):
            raise ValueError(f"initial: imagenet needs network kind efficient_unet, not {self.network.kind}")
        return self

    @model_validator(mode="after")
    def _fits_dimensions_and_classes(self) -> "TrainConfig":
        check_dimensions(self)
        check_classes(self)
        return self
