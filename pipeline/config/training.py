"""What a training is told: data preparation, target, loss, schedule, augmentation."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.classes import (
    ClassesTarget,
    PatchSampling,
    SceneAugmentation,
    SpacingSize,
    VolumeAugmentation,
    ZScore,
    check_augmentation,
    check_dimensions,
    check_loss,
    with_whole_images_as_they_are,
)
from pipeline.config.losses import DiceBCE, LossConfig
from pipeline.config.networks import NucleiUNet, SingleNetwork
from pipeline.config.optimisers import AdamW, Cosine, EarlyStopping, OptimiserConfig, Phase, ScheduleConfig
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
    """The image as it is, unless --diameter or its pixel size says how far it is from the model's."""

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


def exclusive(target: "Target") -> bool:
    """Whether the classes of a target exclude each other: its head is a softmax, and a loss has to be for that.

    >>> exclusive(ThreeClassTarget()), exclusive(MaskTarget())
    (True, False)
    """
    return isinstance(target, ThreeClassTarget) or (isinstance(target, ClassesTarget) and target.head == "softmax")


def masks_of(target: "Target") -> Literal["instances", "classes"]:
    """What label images have to number: `classes` for targets of classes but those that are made of objects."""
    return target.masks if isinstance(target, ClassesTarget) else "instances"


def head_channels(target: "Target") -> int:
    """How many output channels a network needs for a target.

    >>> [head_channels(target) for target in (MaskTarget(), SeparatedTarget(), ThreeClassTarget())]
    [1, 3, 3]
    """
    if isinstance(target, ClassesTarget):
        return len(target.names) if target.head == "softmax" else 1
    return 1 if isinstance(target, MaskTarget) else 3


Target = MaskTarget | SeparatedTarget | ThreeClassTarget | ClassesTarget
TargetConfig = Annotated[Target, Field(discriminator="kind")]


class NoAugmentation(Strict):
    kind: Literal["none"] = "none"


class NucleiAugmentation(Strict):
    """Flips and quarter turns, rotation, scale, bending, gaps, intensity, colours, noise; pipeline.training.augment."""

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
    invert: Fraction = 0.0  # of the grey samples
    touch: Fraction = 0.0
    gaps: Fraction = 0.0  # of the samples of bright colour images: white gaps or pink fibres between the objects
    elastic: NonNegativeFloat = 0.0  # px: how far points `elastic_spacing` px apart are moved (standard deviation)
    elastic_spacing: PositiveInt = 32


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
    """The manifest's validation images. With `learn_from_test` its test images are learned from as well: for a model
    that is to be used, of a recipe whose scores are known (`--folds`). No image is left then to score that model on.
    """

    kind: Literal["manifest"] = "manifest"
    learn_from_test: bool = False


class LastFraction(Strict):
    """The last part of the training images, in order, is the validation set (the guide's validation_split)."""

    kind: Literal["last_fraction"] = "last_fraction"
    fraction: Fraction = 0.1


class RandomFraction(Strict):
    """A part of the training images drawn by `seed` is the validation set (the VGG19 guide's 80/20 split, seed 42).

    Images are drawn one by one, as the guide does: tiles of one picture may come to lie on both sides.
    """

    kind: Literal["random_fraction"] = "random_fraction"
    fraction: Fraction = 0.2
    seed: int = 42


class TrainConfig(Strict):
    name: str = "nuclei"
    network: SingleNetwork = NucleiUNet()
    pretrained: str = "none"  # none | imagenet | a .pth or .safetensors file | its address, URL#sha256=...
    prepare: PrepareConfig = PrepareConfig()
    target: TargetConfig = SeparatedTarget()
    loss: LossConfig = DiceBCE()
    optimiser: OptimiserConfig = AdamW()
    schedule: ScheduleConfig = Cosine()
    freeze: tuple[str, ...] = ()  # patterns of parameters' names that stay as they begin
    phases: tuple[Phase, ...] = ()  # in place of epochs, optimiser.lr and the patience of stopping
    sampling: Annotated[CropSampling | WholeSampling | PatchSampling, Field(discriminator="kind")] = CropSampling()
    augmentation: Annotated[
        NucleiAugmentation | NoAugmentation | SceneAugmentation | VolumeAugmentation, Field(discriminator="kind")
    ] = NucleiAugmentation()
    validation: Annotated[ManifestValidation | LastFraction | RandomFraction, Field(discriminator="kind")] = (
        ManifestValidation()
    )
    stopping: EarlyStopping = EarlyStopping()
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 300
    ema: Fraction = 0.99
    clip: NonNegativeFloat = 1.0
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where GPU or processor has it
    deterministic: bool = False  # on a GPU: the same bits from the same seed, for some speed; the CPU's always are
    tune_thresholds: bool = True
    sample_pictures: NonNegativeInt = 4
    film: bool = False  # a GIF of the first validation image's answer after each epoch

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_called(cls, tree: Any) -> Any:
        """`initial: random | imagenet` is `pretrained` now; `validate_every: 1` was all that trainings ever did."""
        if not isinstance(tree, dict):
            return tree
        tree = with_whole_images_as_they_are(tree)
        rest = {key: value for key, value in tree.items() if key not in ("initial", "validate_every")}
        if tree.get("validate_every", 1) != 1:
            raise ValueError("validate_every: every epoch is validated, and always was; leave it out")
        if "initial" not in tree:
            return rest
        if "pretrained" in tree:
            raise ValueError("initial is the old name of pretrained: give one of them")
        return rest | {"pretrained": "none" if tree["initial"] == "random" else tree["initial"]}

    @model_validator(mode="after")
    def _has_published_weights(self) -> "TrainConfig":
        if self.pretrained == "imagenet" and not self.network.published:
            raise ValueError(f"pretrained: imagenet needs a network with published weights, not {self.network.kind}")
        return self

    @model_validator(mode="after")
    def _size_fits_the_sampling(self) -> "TrainConfig":
        if (self.sampling.kind, self.prepare.size.kind) == ("crops", "fixed"):
            raise ValueError("sampling: crops are of native size; prepare.size: fixed takes sampling: whole")
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> "TrainConfig":
        network = self.network
        if network.untrainable:
            raise ValueError(f"network.{network.untrainable}")
        if network.in_channels != self.prepare.channels:
            raise ValueError(f"network.in_channels is {network.in_channels}, prepare.channels {self.prepare.channels}")
        if network.out_channels != head_channels(self.target):
            wanted = head_channels(self.target)
            raise ValueError(
                f"network.out_channels is {network.out_channels}; target {self.target.kind} takes {wanted}"
            )
        return self

    @model_validator(mode="after")
    def _loss_fits_the_target(self) -> "TrainConfig":
        head = "softmax" if exclusive(self.target) else "sigmoid"
        if head not in self.loss.heads:
            classes = "exclude each other" if head == "softmax" else "may overlap"
            raise ValueError(f"loss: {self.loss.kind} is not for target {self.target.kind}, whose classes {classes}")
        return self

    @model_validator(mode="after")
    def _fits_dimensions_and_classes(self) -> "TrainConfig":
        check_dimensions(self)
        check_augmentation(self)
        check_loss(self)
        return self

    @property
    def plan(self) -> tuple[Phase, ...]:
        """The phases; a training without any has one, of its epochs, rate and stopping."""
        stopping = self.stopping
        alone = Phase(
            epochs=self.epochs,
            lr=self.optimiser.lr,
            patience=stopping.patience,
            minimum_epochs=stopping.minimum_epochs,
        )
        return self.phases or (alone,)
