"""What a training of class labels, and of volumes, is told beyond what instances in images need."""

import colorsys
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.strict import Fraction, Strict

if TYPE_CHECKING:
    from pipeline.config.training import TrainConfig

Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
Sides = tuple[PositiveInt, PositiveInt, PositiveInt]
IGNORED = 255  # what pixels that do not count are to a loss
Degrees = Annotated[float, Field(ge=0, le=180)]


class ClassesTarget(Strict):
    """Classes that exclude each other, of which every pixel is one: a softmax head, the largest wins.

    `names[i]` is what the value `i` of a label image means; 0 is the background. Pixels of the value `ignore` count
    neither in training nor in scores. `palette` has a colour for each class, for pictures and label PNGs.

    `merge` says of which numbers in the files each class is made, `{road: [3, 4]}`; all others are the first class.
    `trimap` makes the classes of objects: background, inside, and border, the outermost `trimap` px of each object.
    With 0 there is no border, and the two classes may be learned with the weights of `border_weighted` between objects.
    `head: sigmoid` is one channel for two classes, trained by BCE and the like.
    """

    kind: Literal["classes"] = "classes"
    names: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    palette: tuple[Colour, ...] = ()
    merge: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = Field(default_factory=dict)
    trimap: NonNegativeInt | None = None  # px
    head: Literal["softmax", "sigmoid"] = "softmax"

    @property
    def masks(self) -> Literal["instances", "classes"]:
        """What label images have to number for this target."""
        return "classes" if self.trimap is None else "instances"

    @model_validator(mode="after")
    def _names_fit(self) -> "ClassesTarget":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: {', '.join(self.names)}: each class needs a name of its own")
        if self.ignore < len(self.names):
            raise ValueError(f"ignore: {self.ignore} is the class {self.names[self.ignore]}")
        if self.palette and len(self.palette) != len(self.names):
            raise ValueError(f"palette: {len(self.palette)} colours for {len(self.names)} classes")
        if self.head == "sigmoid" and len(self.names) != 2:
            raise ValueError(f"head: sigmoid is for two classes, not {len(self.names)}")
        return self

    @model_validator(mode="after")
    def _classes_can_be_made(self) -> "ClassesTarget":
        if self.trimap is not None and (self.merge or len(self.names) != (3 if self.trimap else 2)):
            raise ValueError("trimap: takes three names (background, inside, border; with 0 two) and no merge")
        if self.merge and set(self.merge) != set(self.names[1:]):
            wanted = ", ".join(self.names[1:])
            raise ValueError(
                f"merge: every class but the first is made of numbers: {wanted}, not {', '.join(self.merge)}"
            )
        numbers = [number for made_of in self.merge.values() for number in made_of]
        if len(set(numbers)) < len(numbers) or self.ignore in numbers:
            raise ValueError(f"merge: {numbers}: each number is of one class, and {self.ignore} is ignored")
        return self


def colours_of(target: ClassesTarget) -> tuple[Colour, ...]:
    """The palette of the target, or else hues spread evenly, background black.

    >>> colours_of(ClassesTarget(names=("none", "a", "b")))
    ((0, 0, 0), (255, 76, 76), (76, 255, 255))
    """
    if target.palette:
        return target.palette
    many = len(target.names) - 1
    hues = [colorsys.hsv_to_rgb(index / many, 0.7, 1.0) for index in range(many)]
    return ((0, 0, 0), *((int(255 * r), int(255 * g), int(255 * b)) for r, g, b in hues))


class ZScore(Strict):
    """Each channel to mean 0 and standard deviation 1 over the whole image, cut at 5 standard deviations."""

    kind: Literal["zscore"] = "zscore"


class SpacingSize(Strict):
    """Every volume resampled to one voxel size `(Z, Y, X)`; predictions are put back on the file's grid."""

    kind: Literal["spacing"] = "spacing"
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    unit: Literal["mm", "um"] = "mm"


class PatchSampling(Strict):
    """Random boxes `(Z, Y, X)`; a part `foreground` of them is centred on a voxel of an object or class."""

    kind: Literal["patches"] = "patches"
    size: Sides = (32, 48, 32)
    per_epoch: PositiveInt = 64
    foreground: Fraction = 0.67


class SceneAugmentation(Strict):
    """Of whole images: mirrored top to bottom and left to right with these probabilities, brighter or darker by up to
    `brightness` of the full range, of a contrast up to `contrast` higher or lower.
    """

    kind: Literal["scene"] = "scene"
    flip: tuple[Fraction, Fraction] = (0.0, 0.5)
    brightness: Fraction = 0.2
    contrast: Fraction = 0.2


class VolumeAugmentation(Strict):
    """Flips, rotation (largest angle in degrees about the Z, Y and X axis), scale, intensity, gamma, noise.

    Which axes are flipped and turned is a matter of the data: where slices are thick, turn about Z alone.
    """

    kind: Literal["volume"] = "volume"
    flip: tuple[bool, bool, bool] = (True, True, True)
    rotate: tuple[Degrees, Degrees, Degrees] = (15.0, 15.0, 15.0)
    scale: tuple[PositiveFloat, PositiveFloat] = (0.85, 1.2)
    intensity: NonNegativeFloat = 0.15
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    noise: NonNegativeFloat = 0.05

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "VolumeAugmentation":
        for name, values in (("scale", self.scale), ("gamma", self.gamma)):
            if any(low > high for low, high in pairwise(values)):
                raise ValueError(f"{name}: {values[0]} to {values[1]}, the smaller number comes first")
        return self


def check_dimensions(config: "TrainConfig") -> None:
    """What a network of images takes, a network of volumes does not, and the other way round; raises ValueError."""
    volumes = config.network.dimensions == 3
    what = "volumes" if volumes else "images"
    if (config.sampling.kind == "patches") != volumes:
        raise ValueError(f"sampling: {config.sampling.kind} is not for {what}, as the network's dimensions say")
    if config.augmentation.kind != "none" and (config.augmentation.kind == "volume") != volumes:
        raise ValueError(f"augmentation: {config.augmentation.kind} is not for {what}")
    if config.augmentation.kind == "scene" and config.sampling.kind != "whole":
        raise ValueError(f"augmentation: scene is for sampling whole, not {config.sampling.kind}")
    if config.prepare.size.kind != "native" and (config.prepare.size.kind == "spacing") != volumes:
        raise ValueError(f"prepare.size: {config.prepare.size.kind} is not for {what}")
    if config.prepare.normalise.kind == "zscore" and not volumes:
        raise ValueError("prepare.normalise: zscore is for volumes; percentile is for images")
    if volumes and config.target.kind == "three_class":
        raise ValueError("target: three_class is not for volumes; separated is")


def with_whole_images_as_they_are(tree: dict[str, Any]) -> dict[str, Any]:
    """A training's settings: the augmentation that is the default is one of crops, whole images have none unless given.

    >>> with_whole_images_as_they_are({"sampling": {"kind": "whole"}})["augmentation"]
    {'kind': 'none'}
    """
    sampling = tree.get("sampling")
    kind = sampling.get("kind") if isinstance(sampling, dict) else getattr(sampling, "kind", "")
    return tree if kind != "whole" or "augmentation" in tree else tree | {"augmentation": {"kind": "none"}}


def check_augmentation(config: "TrainConfig") -> None:
    """Which changes of a sample are not for what is sampled, or for what is learned; raises ValueError."""
    if config.augmentation.kind == "nuclei" and config.sampling.kind == "whole":
        raise ValueError("augmentation: nuclei is for sampling crops, not whole; scene and none are for whole")
    for name, does in (("touch", "sets objects beside each other"), ("gaps", "draws between objects")):
        if isinstance(config.target, ClassesTarget) and getattr(config.augmentation, name, None):
            raise ValueError(f"augmentation.{name}: {does}; a target of classes has none")


def check_loss(config: "TrainConfig") -> None:
    """What a loss of objects in images is not for, which number it leaves out, its weights; raises ValueError."""
    classes = isinstance(config.target, ClassesTarget)
    of_objects = getattr(config.target, "trimap", 0) == 0
    if config.loss.kind in ("border_weighted", "size_weighted") and (not of_objects or config.network.dimensions == 3):
        what = "volumes" if of_objects else "classes but those of objects without a border (target.trimap: 0)"
        raise ValueError(f"loss: {config.loss.kind} is not for {what}")
    if classes and getattr(config.loss, "ignore", IGNORED) != IGNORED:
        raise ValueError(f"loss.ignore: what target.ignore names is {IGNORED} to every loss; leave loss.ignore out")
    for name in ("classes", "channels"):
        weights, wanted = getattr(config.loss, name, ()), config.network.out_channels
        if weights and len(weights) != wanted:
            raise ValueError(f"loss.{name}: {len(weights)} weights; target {config.target.kind} takes {wanted}")
