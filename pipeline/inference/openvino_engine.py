"""OpenVINO on the CPU, in float32 or int8: the extra `maskline[openvino]`.

OpenVINO reports its use to its makers when it is imported; here it is not let to. And it is kept off AMX: its int8
convolutions there (2026.4) end the process with tiles of some sizes (608, 736, 992 px), and their last bits depend on
the size.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import unet
from pipeline.data.files import maskline_home
from pipeline.errors import ModelError
from pipeline.inference.cores import Framed
from pipeline.inference.forward import Forward, Raw
from pipeline.inference.threaded import ThreadedEngine
from pipeline.model.bundle import TrainedModel
from pipeline.model.halo import dimensions
from pipeline.types import Pixels
from unet.folding import fold

if TYPE_CHECKING:
    import openvino

_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
INSTALL = "install the extra maskline[openvino], or choose --engine torch"


def import_openvino() -> Any:
    """The module, with its reports and AMX switched off; raises ModelError where the extra is not installed."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as where it is not installed
    try:
        import openvino
    except ImportError as error:
        raise ModelError("--engine openvino", str(error), "OpenVINO", INSTALL) from None
    _keep_off_amx(openvino)
    return openvino


@functools.cache
def _keep_off_amx(ov: Any) -> None:
    """Its oneDNN asks the environment once, when a first graph is compiled; torch's own is not to see it."""
    if _INSTRUCTIONS in os.environ:
        return
    from openvino import opset13

    number = opset13.parameter(ov.PartialShape([1]), ov.Type.f32)
    os.environ[_INSTRUCTIONS] = "AVX512_CORE_BF16"
    try:
        ov.Core().compile_model(ov.Model([opset13.relu(number)], [number]), "CPU")
    finally:
        os.environ.pop(_INSTRUCTIONS, None)


def convert(model: TrainedModel, *, framed: bool = False) -> "openvino.Model":
    """The graph of `Forward`: inputs tile `(1, C, y, x)`, offset and scale `(1, C, 1, 1)`, all float32.

    `framed` adds the frame `(4,)` int64, where the network answers cores (unet/trimming.py). In int8 what that
    spares is lost again, as the parts that are cut out are copied.

    Raises ModelError where OpenVINO cannot take the network.
    """
    ov = import_openvino()
    channels = model.record.prepare.channels
    axes, framed = dimensions(model.network), framed and unet.trims(model.network)
    network = fold(model.network, fuse=False, framed=framed).to("cpu")
    forward = Forward(network, model.record.target, trims=framed).eval()
    sides, ones = (4 * model.record.stride,) * axes, (1,) * axes
    example = [torch.zeros(1, channels, *sides), torch.zeros(1, channels, *ones), torch.ones(1, channels, *ones)]
    shapes = [(1, channels, *(-1,) * axes), (1, channels, *ones), (1, channels, *ones)]
    if framed:
        example.append(torch.zeros(4, dtype=torch.int64))
        shapes.append((4,))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing, which is deprecated in torch
            graph = ov.convert_model(forward, example_input=tuple(example))
        graph.reshape({port: ov.PartialShape(list(shape)) for port, shape in zip(graph.inputs, shapes, strict=True)})
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"model {model.record.name}", reason, "a network OpenVINO takes", "use --engine torch"
        ) from None
    return graph


def int8_file(model: TrainedModel) -> Path:
    """Where the quantised graph of a model lies: beside its record, named after the digest of both."""
    name = f"int8-{model.digest[:16]}.xml"
    return (model.folder or maskline_home() / "cache" / "int8") / name


def read_int8(model: TrainedModel) -> "openvino.Model":
    """The quantised graph; raises ModelError where it was not made yet, or is damaged."""
    ov = import_openvino()
    file = int8_file(model)
    if not file.is_file():
        raise ModelError(
            f"--engine openvino-int8 for {model.record.name}",
            f"no {file.name}",
            "a quantised model that passed the accuracy gate",
            "run maskline models quantise NAME --data MANIFEST",
        )
    try:
        return ov.Core().read_model(file)
    except RuntimeError as error:
        raise ModelError(
            str(file), str(error).splitlines()[0], "OpenVINO's IR", "run maskline models quantise again"
        ) from None


class OpenVinoEngine(ThreadedEngine):
    """Compiled once for each way it is asked (dtype of the tiles, threads), for tiles of any size."""

    name = "openvino"

    def __init__(self, model: TrainedModel, threads: int, graph: "openvino.Model | None" = None) -> None:
        super().__init__(model, threads)
        self._ov = import_openvino()
        self._graph = convert(model, framed=True) if graph is None else graph
        self._framed = len(self._graph.inputs) == len(Raw._fields)
        self._core = self._ov.Core()
        self._core.set_property({"CACHE_DIR": str(maskline_home() / "cache" / "openvino")})

    def _compile(self, dtype: Any, at_once: int, inside: int) -> Any:
        """Float32 is said, as a machine with bfloat16 would use that; threads are not pinned, others run here too."""
        prepared = self._ov.preprocess.PrePostProcessor(self._graph.clone())
        prepared.input(0).tensor().set_element_type(self._ov.Type(np.dtype(dtype)))
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": at_once * inside,
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(prepared.build(), "CPU", hints)

    def runner(self, at_once: int, inside: int) -> tuple[Callable[[Raw], Pixels], None]:
        free: dict[np.dtype[Any], SimpleQueue[Any]] = {}
        lock = Lock()

        def requests(dtype: np.dtype[Any]) -> "SimpleQueue[Any]":
            with lock:
                if dtype not in free:
                    compiled = self._compile(dtype, at_once, inside)
                    free[dtype] = SimpleQueue()
                    for _ in range(at_once):
                        free[dtype].put(compiled.create_infer_request())
                return free[dtype]

        def run(raw: Raw) -> Pixels:
            idle = requests(raw.tile.dtype)
            request = idle.get()
            try:
                parts = [part[None] for part in (raw.tile, raw.offset, raw.scale)]
                answer = request.infer([*parts, raw.frame] if self._framed else parts, share_inputs=True)[0][0]
                wanted = Framed(raw.tile, raw.frame.tolist()).core_shape if self._framed else raw.tile.shape[1:]
                if answer.shape[1:] != wanted:
                    came = f"{answer.shape[1:]} for a tile"
                    raise ModelError("--engine openvino", came, f"{wanted}, as torch answers", "choose --engine torch")
                if raw.frame.any() and not self._framed:
                    answer = answer[(slice(None), *Framed(raw.tile, raw.frame.tolist()).core)]
                return np.array(answer, np.float32)  # a copy: the request's memory is used again
            finally:
                idle.put(request)

        return run, None


class Int8Engine(OpenVinoEngine):
    """The same with the graph that `maskline models quantise` has left."""

    name = "openvino-int8"

    def __init__(self, model: TrainedModel, threads: int) -> None:
        super().__init__(model, threads, read_int8(model))
