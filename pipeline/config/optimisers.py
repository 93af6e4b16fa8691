"""Optimisers, schedules of the learning rate, and when a training ends."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.strict import Fraction, Strict


class Adam(Strict):
    """With Keras' epsilon, 1e-7."""

    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3


class AdamW(Strict):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-4


class SGD(Strict):
    """Stochastic gradient descent; the original U-Net's has momentum .99, nnU-Net's is Nesterov's."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-2
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0


class RMSprop(Strict):
    kind: Literal["rmsprop"] = "rmsprop"
    lr: PositiveFloat = 1e-3
    smoothing: Fraction = 0.9
    momentum: Fraction = 0.0
    weight_decay: NonNegativeFloat = 0.0


class Constant(Strict):
    kind: Literal["constant"] = "constant"


class Cosine(Strict):
    """Linear warm-up, then half a cosine down to `floor` of the rate, over the epochs or the time budget."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    floor: Fraction = 0.01


class Step(Strict):
    """Times `factor` after every `every` epochs."""

    kind: Literal["step"] = "step"
    every: PositiveInt = 30
    factor: Fraction = 0.1


class Plateau(Strict):
    """Times `factor` after more than `patience` epochs without a better `watch`, down to `floor` of the rate."""

    kind: Literal["plateau"] = "plateau"
    factor: Fraction = 0.5
    patience: NonNegativeInt = 10
    floor: Fraction = 0.0
    watch: Literal["score", "loss"] = "loss"


class Polynomial(Strict):
    """(1 - done)^power of the rate, over the epochs or the time budget; nnU-Net's power is .9."""

    kind: Literal["polynomial"] = "polynomial"
    power: PositiveFloat = 0.9


OptimiserConfig = Annotated[AdamW | Adam | SGD | RMSprop, Field(discriminator="kind")]
ScheduleConfig = Annotated[Cosine | Constant | Step | Plateau | Polynomial, Field(discriminator="kind")]


class EarlyStopping(Strict):
    """Stop after `patience` epochs without a better `watch`, never before `minimum_epochs`; the best epoch is kept.

    With `last` every epoch counts as better: all are trained and the last is kept, which is what a schedule that ends
    near 0 leads to and what a small validation set, one epoch being lucky, cannot spoil (nnU-Net keeps it, too).
    """

    patience: PositiveInt = 30
    minimum_epochs: NonNegativeInt = 10
    watch: Literal["score", "loss", "last"] = "score"

    @model_validator(mode="after")
    def _there_is_something_to_wait_for(self) -> "EarlyStopping":
        if self.watch == "last" and self != EarlyStopping.model_construct(watch="last"):
            raise ValueError("patience and minimum_epochs mean nothing with watch: last; every epoch is trained")
        return self


class Phase(Strict):
    """A part of a training with a rate of its own; it begins with the best weights of the one before.

    `freeze` and `unfreeze` are patterns of parameters' names (`features.*`), applied in this order on top of what was
    frozen before. It ends after `epochs`, or after `patience` epochs without a better score, `minimum_epochs` at least.
    """

    epochs: PositiveInt
    lr: PositiveFloat
    freeze: tuple[str, ...] = ()
    unfreeze: tuple[str, ...] = ()
    patience: PositiveInt = 30
    minimum_epochs: NonNegativeInt = 0
