"""What runs a network over tiles: torch or OpenVINO on the CPU, torch on accelerators, several devices as one.

Within one engine the answer is the same, bit for bit, for every size of tile, number of threads and neighbour.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, get_args

import torch

from pipeline.config import EngineName
from pipeline.errors import ModelError, UsageError
from pipeline.inference.background import SkippingEngine
from pipeline.inference.device_engine import DeviceEngine
from pipeline.inference.openvino_engine import Int8Engine, OpenVinoEngine
from pipeline.inference.shared_engine import SharedEngine
from pipeline.inference.torch_engine import Bfloat16Engine, TorchEngine
from pipeline.model.bundle import TrainedModel
from pipeline.model.halo import check_grid
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels
from unet.folding import processor_has_bfloat16

ENGINES = get_args(EngineName)


class Engine(Protocol):
    """`core` is the side of a tile's core in px, a multiple of `stride`, that is quickest here; `halo` the record's."""

    name: str
    outputs: int
    halo: int | None
    stride: int

    @property
    def core(self) -> int: ...

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities `(K, y, x)` float32 in [0, 1] of raw tiles `(C, y, x)`, in their order.

        Tiles hold the file's values (uint8, uint16, float32; others are converted), with channels as the model takes
        them and sides that are multiples of the stride; sizes may differ. `preparation` says how values are normalised
        (sizes in it are not looked at). Few tiles are held at a time. Raises what a tile or its source raised.
        """
        ...


def choose_device(device: str) -> str:
    """`auto` is the first GPU, else the CPU. Raises UsageError for a name that torch does not know."""
    if device != "auto":
        try:
            return str(torch.device(device))
        except RuntimeError:
            raise UsageError(
                "--device", device, "auto, cpu, cuda, cuda:1, mps, or several with commas", "name one of these"
            ) from None
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def make_engine(
    model: TrainedModel, device: str = "auto", engine: str = "auto", threads: int | None = None, *, skip: bool = False
) -> Engine:
    """The engine for a model on a device, or on several (`cuda:0,cuda:1`) that share the work.

    `engine` auto is OpenVINO on a CPU where it is installed, else torch. `threads` (the CPU's) are by default as many
    as torch would take, OMP_NUM_THREADS included. `skip` leaves background out where the record says how to know it:
    the engine is then a `SkippingEngine`.

    Raises ModelError where the record's halo or stride is too small for the network, or the engine cannot run it, and
    UsageError for names that do not exist or do not go together.
    """
    record = model.record
    if engine not in ENGINES:
        raise UsageError("--engine", engine, ", ".join(ENGINES), "name one of these")
    check_grid(model.network, record.prepare.channels, record.stride, record.halo)
    whole = _any_engine(model, device, engine, threads)
    return SkippingEngine(whole, record.background) if skip and record.background is not None else whole


def check_choice(devices: Sequence[str], engine: str) -> None:
    """Raise UsageError where these devices, or this processor, do not run that engine; bfloat16 can be emulated, but
    would be slower than float32.
    """
    if list(devices) != ["cpu"] and engine not in ("auto", "torch"):
        raise UsageError(f"--engine {engine}", f"--device {','.join(devices)}", "--device cpu", "choose --engine torch")
    if engine == "torch-bfloat16" and not processor_has_bfloat16():
        came, wanted = "a processor without bfloat16", "one that multiplies it (AVX512-BF16, AMX)"
        raise UsageError("--engine torch-bfloat16", came, wanted, "choose --engine torch")


def _any_engine(model: TrainedModel, device: str, engine: str, threads: int | None) -> Engine:
    devices = [choose_device(name.strip()) for name in device.split(",")]
    check_choice(devices, engine)
    if len(devices) > 1:
        return SharedEngine([_on_device(model, one) for one in devices])
    if devices[0] != "cpu":
        return _on_device(model, devices[0])
    return _on_cpu(model, engine, threads or torch.get_num_threads())


def _on_device(model: TrainedModel, device: str) -> DeviceEngine:
    try:
        return DeviceEngine(model, device)
    except (RuntimeError, AssertionError) as error:  # what torch says of a device that is not there
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}", reason, "a device of this machine", "use --device auto") from None


def _on_cpu(model: TrainedModel, engine: str, threads: int) -> Engine:
    if engine == "openvino-int8":
        return Int8Engine(model, threads)
    if engine == "torch-bfloat16":
        return Bfloat16Engine(model, threads)
    if engine == "openvino":
        return OpenVinoEngine(model, threads)
    if engine == "auto" and model.record.halo is not None and importlib.util.find_spec("openvino") is not None:
        try:
            return OpenVinoEngine(model, threads)
        except ModelError:  # a network that OpenVINO does not take; torch takes every one
            return TorchEngine(model, threads)
    return TorchEngine(model, threads)
