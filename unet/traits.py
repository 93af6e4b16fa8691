"""What a network says of itself by how it is made: its stride, its size, whether it looks at the whole field."""

from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from unet.dimensions import Stride


def stride_of(network: nn.Module) -> Stride:
    """What each side of an image must be a multiple of: one number, or one an axis `((Z,) Y, X)`."""
    return cast(Stride, network.stride)


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
