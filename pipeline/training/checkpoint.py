"""Where a training stands, on disk: safetensors for tensors, JSON for the rest. Never pickle.

Written after every epoch under a new name, then `checkpoint.json` is renamed over: a kill leaves the last whole one.
"""

import hashlib
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
    precision: torch.dtype,
) -> None:
    """Write `networks` (name -> state), the optimiser's state and the progress.

    `identity` names what is trained, `precision` what convolutions compute in.
    """
    tensors: dict[str, Tensor] = {}
    for name, state in networks.items():
        tensors |= _flatten(name, state)
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= _flatten(f"optimiser.{index}", _tensors(values))
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"epoch-{progress.epoch:05d}.safetensors"
    sha256 = atomic_write(weights, save(tensors))
    record = {
        "format_version": FORMAT_VERSION,
        "weights": weights.name,
        "sha256": sha256,
        "identity": identity,
        "precision": _name(precision),
        "progress": asdict(progress),
    }
    atomic_write(folder / "checkpoint.json", json.dumps(record, indent=1).encode())
    for old in folder.glob("epoch-*.safetensors"):
        if old != weights:
            old.unlink()


def _match_layout(optimiser: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their parameters: the fused kernels walk both by raw address."""
    for parameter, moments in optimiser.state.items():
        for name, tensor in moments.items():
            if torch.is_tensor(tensor) and tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors it names, whose sha256 is the recorded one."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        weights = path.parent / record["weights"]
        with weights.open("rb") as file:
            sha256, wanted = hashlib.file_digest(file, "sha256").hexdigest(), str(record["sha256"])
        tensors = load_file(weights)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        hint = "use another --out" if path.exists() else "leave --resume out"
        raise TrainingError(str(path), f"no usable checkpoint ({error})", "one", hint) from None
    if sha256 != wanted:
        came = f"a damaged checkpoint (sha256 {sha256[:12]})"
        raise TrainingError(str(weights), came, wanted[:12], "use another --out")
    return record, tensors


def load_checkpoint(
    folder: Path,
    networks: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    identity: str,
    precision: torch.dtype,
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore networks and optimiser in place; returns the progress and the best weights so far.

    Raises TrainingError where there is no checkpoint, it is damaged, it belongs to another config or data, or it was
    computed in another precision than this machine would go on in (checkpoints of earlier versions do not say).
    """
    path = folder / "checkpoint.json"
    record, tensors = _read(path)
    if record.get("format_version") != FORMAT_VERSION or record.get("identity") != identity:
        raise TrainingError(
            str(path),
            "a checkpoint of another config or data set",
            "this one's",
            "use the same config and data, or another --out",
        )
    if record.get("precision", _name(precision)) != _name(precision):
        raise TrainingError(
            str(path),
            f"a training in {record['precision']}",
            f"{_name(precision)}, which precision comes to on this machine",
            "go on where it was begun, or begin again in another --out",
        )
    for name, network in networks.items():
        network.load_state_dict(_part(tensors, name))
    state = optimiser.state_dict()
    indices = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("optimiser.")})
    state["state"] = {index: _part(tensors, f"optimiser.{index}") for index in indices}
    optimiser.load_state_dict(state)
    _match_layout(optimiser)
    return Progress(**record["progress"]), _part(tensors, "best")
