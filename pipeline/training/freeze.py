"""What stays as it is while the rest learns, by parameters' names: `features.*`, `encoder.*`, `*.bias`."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import TrainConfig
from pipeline.errors import TrainingError


def _set(network: nn.Module, patterns: Sequence[str], learns: bool) -> None:
    for pattern in patterns:
        found = [parameter for name, parameter in network.named_parameters() if fnmatchcase(name, pattern)]
        if not found:
            names = [name for name, _ in network.named_parameters()]
            raise TrainingError(
                "unfreeze" if learns else "freeze",
                f"{pattern!r}, which no parameter is called",
                f"a pattern of names like {names[0]} or {names[-1]}",
                "see the names with `maskline models describe CONFIG`",
            )
        for parameter in found:
            parameter.requires_grad_(learns)


def freeze_for_phase(network: nn.Module, config: TrainConfig, phase: int) -> None:
    """Let exactly those parameters learn that do in `phase`; raises TrainingError for a pattern that matches none."""
    network.requires_grad_(True)
    _set(network, config.freeze, learns=False)
    for each in config.plan[: phase + 1]:
        _set(network, each.freeze, learns=False)
        _set(network, each.unfreeze, learns=True)


def rest_frozen_statistics(network: nn.Module) -> None:
    """Frozen BatchNorm goes by its stored statistics, and leaves them, while the rest of the network trains."""
    for module in network.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def check_gradients(network: nn.Module, config: TrainConfig, phase: int) -> None:
    """After a backward pass: every parameter that was said to be unfrozen has a gradient, what is frozen has none.

    Raises TrainingError: a parameter that is called unfrozen and does not learn is a training of something else.
    """
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad and p.grad is not None]
    if frozen:
        raise TrainingError(frozen[0], "a gradient", "none, as it is frozen", "report this: it should not happen")
    for pattern in config.plan[phase].unfreeze:
        found = {name: p.grad for name, p in network.named_parameters() if fnmatchcase(name, pattern)}
        without = [name for name, gradient in found.items() if gradient is None]
        if without or not any(bool(gradient.any()) for gradient in found.values() if gradient is not None):
            raise TrainingError(
                f"unfreeze {pattern}{f': {without[0]}' if without else ''}",
                "no gradient",
                "one in the first step of its phase",
                "unfreeze what lies between it and the loss, and see that the network uses it",
            )
