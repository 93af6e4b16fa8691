"""Every job's configuration: frozen, nothing unknown allowed, a choice is a tagged union (`kind:`).

Config files are YAML; `load_config` reads one, applies `--set key=value`, or raises a `ConfigError` naming the field.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pipeline.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


NetworkConfig = Annotated[GuideUNet | NucleiUNet | EfficientUNet, Field(discriminator="kind")]


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
    normalise: Annotated[Percentile | Divide, Field(discriminator="kind")] = Percentile()
    size: Annotated[NativeSize | FixedSize, Field(discriminator="kind")] = NativeSize()


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


TargetConfig = Annotated[MaskTarget | SeparatedTarget, Field(discriminator="kind")]


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
    network: NetworkConfig = NucleiUNet()
    initial: Literal["random", "imagenet"] = "random"
    prepare: PrepareConfig = PrepareConfig()
    target: TargetConfig = SeparatedTarget()
    loss: DiceBCE = DiceBCE()
    optimiser: Annotated[AdamW | Adam, Field(discriminator="kind")] = AdamW()
    schedule: Annotated[Cosine | Constant, Field(discriminator="kind")] = Cosine()
    sampling: Annotated[CropSampling | WholeSampling, Field(discriminator="kind")] = CropSampling()
    augmentation: Annotated[NucleiAugmentation | NoAugmentation, Field(discriminator="kind")] = NucleiAugmentation()
    validation: Annotated[ManifestValidation | LastFraction, Field(discriminator="kind")] = ManifestValidation()
    stopping: EarlyStopping = EarlyStopping()
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 300
    validate_every: PositiveInt = 1
    ema: Fraction = 0.99
    clip: NonNegativeFloat = 1.0
    seed: int = 0
    tune_thresholds: bool = True
    sample_pictures: int = 4

    @model_validator(mode="after")
    def _has_published_weights(self) -> "TrainConfig":
        if self.initial == "imagenet" and not isinstance(self.network, EfficientUNet):
            raise ValueError(f"initial: imagenet needs network kind efficient_unet, not {self.network.kind}")
        return self


class IngestConfig(Strict):
    folder: Path
    manifest: Path
    layout: Literal["auto", "dsb", "paired", "paired-nifti", "unlabelled"] = "auto"
    group: str | None = (
        None  # a regular expression; its first bracket (or the whole match) on the relative path is the group
    )
    fractions: tuple[Fraction, Fraction, Fraction] = (0.7, 0.15, 0.15)  # train, val, test
    seed: int = 0
    strict: bool = False
    cache: Path | None = None  # default: MASKLINE_HOME/cache


class SegmentConfig(Strict):
    folder: Path
    out: Path
    model: str = "shipped:nuclei"  # shipped:NAME | a folder | an MLflow registry NAME[@alias|/version]
    pixel_size: PositiveFloat | None = None  # um
    diameter: PositiveFloat | None = None  # px
    channel: int | None = None  # 0-based; None takes all the model can
    pages: Literal["refuse", "stack", "channels"] = "refuse"  # what the pages of a multi-page TIFF are
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    group: str | None = None
    limit: PositiveInt | None = None
    force: bool = False
    geojson: bool = False
    device: str = "auto"
    chunk_seconds: PositiveFloat = 30.0
    max_failed_fraction: Fraction = 0.2
    max_megapixels: PositiveFloat = 400.0
    track: bool = True


class EvaluateConfig(Strict):
    data: Path
    out: Path
    model: str = "shipped:nuclei"
    split: Literal["train", "val", "test", "all"] = "test"
    device: str = "auto"
    bootstrap: PositiveInt = 1000
    track: bool = True


C = TypeVar("C", bound=Strict)


def _override(tree: dict[str, Any], assignment: str) -> None:
    key, found, value = assignment.partition("=")
    if not found:
        raise ConfigError(f"--set {assignment}", "no '='", "key=value", "write for example --set optimiser.lr=0.001")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"--set {assignment}", f"{parent}, which is a value", "a section", "check the spelling of the key"
            )
    tree[last] = yaml.safe_load(value)


def build_config(kind: type[C], tree: dict[str, Any], where: str) -> C:
    """Validate `tree` as `kind`; raises ConfigError naming every wrong field of `where`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise ConfigError(where, wrong, f"a valid {kind.__name__}", "correct the fields named") from None


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping that a YAML config holds, not yet validated."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(path), str(error), "a readable YAML file", "check the path and the indentation") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            str(path), type(tree).__name__, "a mapping of keys to values", "see the configs that ship in configs/"
        )
    return tree


def load_config(kind: type[C], path: Path, overrides: tuple[str, ...] = ()) -> C:
    """Read a YAML config of `kind`, with `key.sub=value` overrides applied on top."""
    tree = read_tree(path)
    for assignment in overrides:
        _override(tree, assignment)
    return build_config(kind, tree, str(path))
