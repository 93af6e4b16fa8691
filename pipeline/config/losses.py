"""The losses; each config names what `unet.losses.build_loss` takes for its kind."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from pipeline.config.strict import Fraction, Strict

Weights = tuple[NonNegativeFloat, ...]


class _Loss(Strict):
    """`heads`: whether it is for targets whose classes exclude each other (softmax), for others (sigmoid), or both."""

    heads: ClassVar[frozenset[str]] = frozenset({"softmax", "sigmoid"})
    channels: Weights = ()  # weights of the output channels; empty: all alike

    def loss_parameters(self) -> dict[str, Any]:
        """What the loss itself is built with."""
        return self.model_dump(exclude={"kind"})


class _ClassLoss(Strict):
    heads: ClassVar[frozenset[str]] = frozenset({"softmax"})
    classes: Weights = ()  # weights of the classes; empty: all alike
    ignore: int = 255  # the class number that does not count

    def loss_parameters(self) -> dict[str, Any]:
        """What the loss itself is built with."""
        return self.model_dump(exclude={"kind"})


class BCE(_Loss):
    heads: ClassVar[frozenset[str]] = frozenset({"sigmoid"})
    kind: Literal["bce"] = "bce"


class WeightedBCE(_Loss):
    """`positive` weighs foreground against background."""

    heads: ClassVar[frozenset[str]] = frozenset({"sigmoid"})
    kind: Literal["weighted_bce"] = "weighted_bce"
    positive: PositiveFloat = 2.0


class CrossEntropy(_ClassLoss):
    kind: Literal["cross_entropy"] = "cross_entropy"


class Dice(_Loss):
    kind: Literal["dice"] = "dice"


class DiceBCE(_Loss):
    """Weights of Dice and BCE (cross-entropy for targets whose classes exclude each other)."""

    kind: Literal["dice_bce"] = "dice_bce"
    dice: NonNegativeFloat = 1.0
    bce: NonNegativeFloat = 1.0


class DiceCE(_ClassLoss):
    kind: Literal["dice_ce"] = "dice_ce"
    dice: NonNegativeFloat = 1.0
    ce: NonNegativeFloat = 1.0


class Focal(_Loss):
    """`gamma` takes weight off what is right already; `alpha` is the foreground's weight against the background's."""

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    alpha: Fraction | None = None


class Tversky(_Loss):
    """`alpha` weighs false positives, `beta` false negatives."""

    kind: Literal["tversky"] = "tversky"
    alpha: NonNegativeFloat = 0.3
    beta: NonNegativeFloat = 0.7


class BorderWeighted(_Loss):
    """Cross-entropy whose pixels between neighbours count more: 1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2), U-Net 2015."""

    kind: Literal["border_weighted"] = "border_weighted"
    w0: NonNegativeFloat = 10.0
    sigma: PositiveFloat = 5.0  # px

    def loss_parameters(self) -> dict[str, Any]:
        """The map's own parameters are not the loss's."""
        return self.model_dump(exclude={"kind", "w0", "sigma"})


class SizeWeighted(_Loss):
    """Dice and BCE whose pixels count more in and around small objects: sqrt(`area` / the object's), at most `most`.

    Large objects have most of the pixels, but a score counts objects.
    """

    kind: Literal["size_weighted"] = "size_weighted"
    dice: NonNegativeFloat = 1.0
    bce: NonNegativeFloat = 1.0
    area: PositiveFloat = 300.0  # px: objects of this area and more count as they are
    most: Annotated[float, Field(ge=1)] = 4.0

    def loss_parameters(self) -> dict[str, Any]:
        """The map's own parameters are not the loss's."""
        return self.model_dump(exclude={"kind", "area", "most"})


LossConfig = Annotated[
    BCE | WeightedBCE | CrossEntropy | Dice | DiceBCE | DiceCE | Focal | Tversky | BorderWeighted | SizeWeighted,
    Field(discriminator="kind"),
]
