"""torch on the CPU: folded, fused, channels_last."""

from collections.abc import Callable

import torch

import unet
from pipeline.inference.forward import Forward, Raw
from pipeline.inference.threaded import ThreadedEngine
from pipeline.inference.workers import Workers
from pipeline.malloc import keep_memory
from pipeline.model.bundle import TrainedModel
from pipeline.types import Pixels
from unet.folding import fold


class TorchEngine(ThreadedEngine):
    """torch's own CPU kernels, without any extra."""

    name = "torch"
    dtype = torch.float32

    def __init__(self, model: TrainedModel, threads: int) -> None:
        super().__init__(model, threads)
        keep_memory()
        framed = unet.trims(model.network)
        network = unet.channels_last(fold(model.network, fuse=True, framed=framed).to("cpu"))
        self.precision = str(self.dtype).removeprefix("torch.")
        self._forward = Forward(network, model.record.target, self.dtype, trims=framed).eval()

    def runner(self, at_once: int, inside: int) -> tuple[Callable[[Raw], Pixels], Callable[[], None]]:
        def begin() -> None:
            torch.get_num_threads()  # a thread that asks first is given the process' number, whatever was set before
            torch.set_num_threads(inside)

        return self._run, begin

    def start(self, at_once: int, inside: int) -> Workers[Raw, Pixels]:
        """torch keeps the number of threads by thread, but MKL's and that of threads to come by process."""
        before = torch.get_num_threads()
        workers = super().start(at_once, inside)
        torch.set_num_threads(before)
        return workers

    def _run(self, raw: Raw) -> Pixels:
        with torch.inference_mode():
            tile, offset, scale = (torch.from_numpy(part)[None] for part in raw[:3])
            values = tile.contiguous(memory_format=torch.channels_last) if tile.ndim == 4 else tile
            frame = torch.from_numpy(raw.frame) if raw.frame.any() or self._forward.trims else None
            answer: Pixels = self._forward(values, offset, scale, frame)[0].numpy()
            return answer


class Bfloat16Engine(TorchEngine):
    """The same in bfloat16, which is what training computes in on such a processor: twice as quick, not as exact."""

    name = "torch-bfloat16"
    dtype = torch.bfloat16
