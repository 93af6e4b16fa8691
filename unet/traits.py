"""What a network says of itself by how it is made: its stride, its size, whether it looks at the whole field."""

import copy
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from unet.dimensions import Stride


def stride_of(network: nn.Module) -> Stride:
    """What each side of an image must be a multiple of: one number, or one an axis `((Z,) Y, X)`."""
    return cast(Stride, network.stride)


@dataclass(frozen=True)
class Side:
    """What a side of an image may be: `rest` px more than a multiple of `step`, and at least `least` px.

    >>> str(Side(16)), str(Side(16, 12, 188)), Side(16, 12, 188).above(1), Side(16, 12, 188).above(572)
    ('divisible by 16', '16k + 12, at least 188', 188, 572)
    """

    step: int
    rest: int = 0
    least: int = 1

    def above(self, side: int) -> int:
        """The smallest that it may be and that is `side` or more."""
        side = max(side, self.least)
        return side + (self.rest - side) % self.step

    def __str__(self) -> str:
        which = f"{self.step}k + {self.rest}" if self.rest else f"divisible by {self.step}"
        return f"{which}, at least {self.least}" if self.least > 1 else which


def sides_of(network: nn.Module, dimensions: int) -> tuple[Side, ...]:
    """What each of an image's sides `((Z,) Y, X)` may be: as the network says, else multiples of its stride."""
    own = getattr(network, "side", None)
    if isinstance(own, Side):
        return (own,) * dimensions
    stride = stride_of(network)
    return tuple(map(Side, stride if isinstance(stride, tuple) else (stride,) * dimensions))


def count_parameters(network: nn.Module) -> int:
    """Weights and biases, frozen ones included, as torch counts."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_as_keras(network: nn.Module) -> int:
    """Parameters and BatchNorm's moving statistics, as Keras' summary counts them."""
    moving = (module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats)
    return count_parameters(network) + sum(2 * module.num_features for module in moving)


def has_global_statistics(network: nn.Module) -> bool:
    """Whether an answer depends on the whole field when evaluating, so that windows can only be blended.

    InstanceNorm without stored statistics, GroupNorm and attention among all positions do; BatchNorm and LayerNorm
    over channels do not. This reads the modules; the NaN probe of `pipeline.model.halo` looks at what they do, and
    has the last word.
    """
    return any(
        (isinstance(module, _InstanceNorm) and not module.track_running_stats)
        or isinstance(module, nn.GroupNorm | nn.MultiheadAttention)
        for module in network.modules()
    )


def traces_at_any_size(network: nn.Module) -> bool:
    """Whether torch may trace it with sides left open; `fixed_when_traced` says of a module that it may not."""
    return not any(getattr(module, "fixed_when_traced", False) for module in network.modules())


def without_statistics(network: nn.Module) -> nn.Module:
    """A copy for finding out which pixels an answer is computed from: weights are 0, and what takes statistics of the
    whole field (InstanceNorm without stored ones, GroupNorm) hands its input on. Its answers mean nothing else.
    """
    drawn = copy.deepcopy(network).eval()
    for parent in list(drawn.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm) or (isinstance(child, _InstanceNorm) and not child.track_running_stats):
                setattr(parent, name, nn.Identity())
    for parameter in drawn.parameters():  # without its norms a trained network may overflow
        parameter.requires_grad_(False).zero_()
    return drawn
