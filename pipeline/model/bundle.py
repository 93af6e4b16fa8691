"""A trained model on disk: a folder of `weights.safetensors` and `model.json`. Never pickle.

The record decides everything that inference needs: architecture, preparation, targets, thresholds, halo and grid.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

import unet
from pipeline import shipped
from pipeline.config import NetworkConfig, PrepareConfig, Strict, TargetConfig, build_config
from pipeline.data.files import atomic_write
from pipeline.errors import ConfigError, ModelError
from pipeline.model.halo import probe_halo
from pipeline.model.targets import Thresholds
from pipeline.types import FORMAT_VERSION

WEIGHTS, RECORD, CARD = "weights.safetensors", "model.json", "CARD.md"


class ThresholdRecord(Strict):
    """`Thresholds` as the record keeps them."""

    foreground: float = 0.5
    seed: float = 0.5
    border: float = 1.0
    minimum_area: int = 10
    minimum_seed: int = 3
    peak: float = 0.0


class FlatBackground(Strict):
    """A tile whose normalised values, of all channels, lie in low..high and within `tolerance` of each other shows
    background alone: the foreground of such tiles was measured to stay below the threshold.
    """

    kind: Literal["flat"] = "flat"
    low: float
    high: float
    tolerance: float


class VolumeRecord(Strict):
    """What a model of volumes has for each axis (Z, Y, X): its grid, how far it sees, the box it was trained on."""

    strides: tuple[int, int, int]
    halos: tuple[int, int, int] | None
    window: tuple[int, int, int]


class ModelRecord(Strict):
    """What travels beside the weights. `diameter` is the median object's, in model pixels; `pixel_size` (um) is what
    all images it learned from stated: others are resampled to it.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    network: NetworkConfig = Field(discriminator="kind")
    prepare: PrepareConfig
    target: TargetConfig = Field(discriminator="kind")
    thresholds: ThresholdRecord = ThresholdRecord()
    outputs: tuple[str, ...]
    stride: int
    halo: int | None  # None: the network sees the whole field, its windows are blended
    volume: VolumeRecord | None = None  # None: a model of images
    diameter: float | None = None
    pixel_size: float | None = None
    background: FlatBackground | None = None  # how to know tiles that need not be predicted; None: all are
    confidence: float | None = None  # images below it are doubtful: on validation their AP@.5 was under .5
    weights_sha256: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to evaluate, its record, and the digest that names both."""

    network: nn.Module
    record: ModelRecord
    digest: str
    folder: Path | None = None  # where it was read from

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(**self.record.thresholds.model_dump())


def describe_network(network: nn.Module, channels: int) -> tuple[int, int | None]:
    """Stride and halo of a network, the halo derived by a NaN probe."""
    stride = int(network.stride)  # type: ignore[arg-type]
    return stride, probe_halo(network, channels, stride)


def record_thresholds(thresholds: Thresholds) -> ThresholdRecord:
    """`Thresholds` as the record keeps them."""
    return ThresholdRecord(**asdict(thresholds))


def save_model(folder: Path, network: nn.Module, record: ModelRecord, *, half: bool = False) -> str:
    """Write weights and record, each whole or not at all, floats as fp16 with `half`; returns the model's digest."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    weights = save(state, metadata={"format": "pt"})
    sha256 = atomic_write(folder / WEIGHTS, weights)
    text = record.model_copy(update={"weights_sha256": sha256}).model_dump_json(indent=2) + "\n"
    atomic_write(folder / RECORD, text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(folder: Path) -> tuple[ModelRecord, str]:
    try:
        text = (folder / RECORD).read_bytes()
        tree = json.loads(text)
    except OSError as error:
        raise ModelError(str(folder), f"no {RECORD} ({error.strerror})", "a model folder", "check --model") from None
    except ValueError as error:
        raise ModelError(
            str(folder / RECORD), f"damaged JSON ({error})", "a record", "restore the model folder"
        ) from None
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            str(folder / RECORD), f"format_version {version}", str(FORMAT_VERSION), "update maskline or train again"
        )
    try:
        return build_config(ModelRecord, tree, str(folder / RECORD)), hashlib.sha256(text).hexdigest()
    except ConfigError as error:
        raise ModelError(error.where, error.came, error.wanted, "restore the model folder or train again") from None


def _check_tensors(folder: Path, network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    came = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name))
    if wrong:
        detail = ", ".join(f"{name} {came.get(name, 'missing')}" for name in wrong[:5])
        raise ModelError(
            str(folder / WEIGHTS), detail, "the tensors of the recorded network", "restore the model folder"
        )


def load_model(folder: Path, device: str = "cpu") -> TrainedModel:
    """Read a model folder; raises ModelError where it is missing, damaged, or its weights do not match its record."""
    record, digest = _read_record(folder)
    weights = folder / WEIGHTS
    try:
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        if sha256 != record.weights_sha256:
            raise ModelError(
                str(weights), f"sha256 {sha256[:12]}", record.weights_sha256[:12], "restore the model folder"
            )
        state = load_file(weights)
    except OSError as error:
        raise ModelError(str(weights), str(error.strerror), "the weights", "restore the model folder") from None
    except SafetensorError as error:
        raise ModelError(str(weights), str(error), "a safetensors file", "restore the model folder") from None
    parameters = record.network.model_dump(exclude={"kind"})
    network = unet.build(record.network.kind, **parameters)
    _check_tensors(folder, network, state)
    network.load_state_dict(state)  # fp16 is widened to the network's own float32
    return TrainedModel(unet.channels_last(network.eval().to(device)), record, digest, folder)


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.parent.name for path in shipped.FOLDER.glob(f"*/{RECORD}")))


def find_model(name: str) -> Path:
    """Folder of `shipped:NAME` or of a path. Registry names are resolved by `pipeline.results.tracking`."""
    if name.startswith("shipped:"):
        folder = shipped.FOLDER / name.removeprefix("shipped:")
        if not (folder / RECORD).is_file():
            raise ModelError(
                name,
                "no such model in the package",
                f"one of {', '.join(shipped_models()) or 'none'}",
                "name one of these",
            )
        return folder
    folder = Path(name)
    if not (folder / RECORD).is_file():
        raise ModelError(
            f"--model {name}",
            f"no {RECORD} there",
            "a model folder, shipped:NAME or a registered name",
            "see maskline models list",
        )
    return folder.resolve()
