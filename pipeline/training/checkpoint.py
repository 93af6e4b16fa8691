"""Where a training stands, on disk: safetensors for tensors, JSON for the rest. Never pickle.

Written after every epoch under a new name, then `checkpoint.json` is renamed over: a kill leaves the last whole one.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.data.files import atomic_write
from pipeline.errors import TrainingError
from pipeline.types import FORMAT_VERSION


@dataclass
class Progress:
    """The numbers of a training: `epoch` is the next one to run, `elapsed` the seconds trained so far."""

    epoch: int = 0
    step: int = 0
    elapsed: float = 0.0
    best: float = float("-inf")
    best_epoch: int = -1
    phase: int = 0  # of the config's plan, with the epoch and step it began at
    phase_epoch: int = 0
    phase_step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def _flatten(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _tensors(moments: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.as_tensor(value) for key, value in moments.items() if value is not None}


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in state.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(
    folder: Path,
    networks: dict[str, dict[str, Tensor]],
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    identity: str,
) -> None:
    """Write `networks` (name -> state), the optimiser's state and the progress; `identity` names what is trained."""
    tensors: dict[str, Tensor] = {}
    for name, state in networks.items():
        tensors |= _flatten(name, state)
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= _flatten(f"optimiser.{index}", _tensors(values))
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"epoch-{progress.epoch:05d}.safetensors"
    sha256 = atomic_write(weights, save(tensors))
    record = {"format_version": FORMAT_VERSION, "weights": weights.name, "sha256": sha256, "identity": identity}
    atomic_write(folder / "checkpoint.json", json.dumps(record | {"progress": asdict(progress)}, indent=1).encode())
    for old in folder.glob("epoch-*.safetensors"):
        if old != weights:
            old.unlink()


def _match_layout(optimiser: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their parameters: the fused kernels walk both by raw address."""
    for parameter, moments in optimiser.state.items():
        for name, tensor in moments.items():
            if torch.is_tensor(tensor) and tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)


def load_checkpoint(
    folder: Path, networks: dict[str, nn.Module], optimiser: torch.optim.Optimizer, identity: str
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore networks and optimiser in place; returns the progress and the best weights so far.

    Raises TrainingError where there is no checkpoint, it is damaged, or it belongs to another config or data.
    """
    path = folder / "checkpoint.json"
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        tensors = load_file(folder / record["weights"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(str(path), f"no usable checkpoint ({error})", "one", "leave --resume out") from None
    if record.get("format_version") != FORMAT_VERSION or record.get("identity") != identity:
        raise TrainingError(
            str(path),
            "a checkpoint of another config or data set",
            "this one's",
            "use the same config and data, or another --out",
        )
    for name, network in networks.items():
        network.load_state_dict(_part(tensors, name))
    state = optimiser.state_dict()
    indices = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("optimiser.")})
    state["state"] = {index: _part(tensors, f"optimiser.{index}") for index in indices}
    optimiser.load_state_dict(state)
    _match_layout(optimiser)
    return Progress(**record["progress"]), _part(tensors, "best")
