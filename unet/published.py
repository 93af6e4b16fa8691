"""Weights that others have published, put into the encoders that bear their names."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Published:
    """Where an encoder's published weights are, and by which names.

    `own` begins the names of the encoder's tensors here, `theirs` takes its place in the file. `digest` is the
    beginning of the file's sha256, which its name says too. `url` or `package` (an installed Python package, with the
    folder in it) is where it can be had.
    """

    file: str
    digest: str
    own: str
    theirs: str
    url: str = ""
    package: str = ""
    folder: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Loaded:
    """Names of the network's tensors that were `taken` and `missing`, of the file's that were `ignored`."""

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


def _counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")  # old files have none; it means nothing when evaluating


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], own: str = "", theirs: str = "") -> Loaded:
    """Put tensors of a file into those of the network whose names begin with `own`, name by name and shape by shape.

    Every one of them has to be there (BatchNorm's counters aside) in its own shape: else ValueError lists all that
    are missing or of another shape. The file may hold more, which is listed as ignored.
    """
    state = network.state_dict()
    wanted = {name: theirs + name.removeprefix(own) for name in state if name.startswith(own)}
    missing = tuple(name for name, there in wanted.items() if there not in weights)
    taken = tuple(name for name, there in wanted.items() if there in weights)
    lacking = [f"{wanted[name]} missing" for name in missing if not _counter(name)]
    shapes = {name: (tuple(weights[wanted[name]].shape), tuple(state[name].shape)) for name in taken}
    lacking += [f"{wanted[name]} {came}, not {here}" for name, (came, here) in shapes.items() if came != here]
    if lacking or not taken:
        raise ValueError("; ".join(lacking) or f"no tensor called {theirs or own}*")
    network.load_state_dict({**state, **{name: weights[wanted[name]] for name in taken}})
    return Loaded(taken, missing, tuple(sorted(set(weights) - {wanted[name] for name in taken})))
