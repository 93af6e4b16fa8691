"""torch on the CPU: folded, fused, channels_last."""

import ctypes
import sys
from collections.abc import Callable

import torch

import unet
from pipeline.inference.forward import Forward, Raw
from pipeline.inference.threaded import ThreadedEngine
from pipeline.inference.workers import Workers
from pipeline.model.bundle import TrainedModel
from pipeline.types import Pixels
from unet.folding import fold

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # of glibc's malloc.h


def keep_memory() -> bool:
    """Let glibc keep large blocks for the next layer instead of handing each back to the system; False elsewhere.

    A layer's output is tens of megabytes. By default each is mapped anew and zeroed page by page, which costs a third
    of the time of a network (measured: 1.6 against 2.2 Mpx/s of the guide's on two cores).
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    limits = ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) == 1 for name, value in limits)


class TorchEngine(ThreadedEngine):
    """torch's own CPU kernels, without any extra."""

    name = "torch"
    dtype = torch.float32

    def __init__(self, model: TrainedModel, threads: int) -> None:
        super().__init__(model, threads)
        keep_memory()
        network = unet.channels_last(fold(model.network, fuse=True).to("cpu"))
        self.precision = str(self.dtype).removeprefix("torch.")
        self._forward = Forward(network, model.record.target, self.dtype).eval()

    def runner(self, at_once: int, inside: int) -> tuple[Callable[[Raw], Pixels], Callable[[], None]]:
        return self._run, lambda: torch.set_num_threads(inside)

    def start(self, at_once: int, inside: int) -> Workers[Raw, Pixels]:
        """torch keeps the number of threads by thread, but MKL's and that of threads to come by process."""
        before = torch.get_num_threads()
        workers = super().start(at_once, inside)
        torch.set_num_threads(before)
        return workers

    def _run(self, raw: Raw) -> Pixels:
        with torch.inference_mode():
            tile, offset, scale = (torch.from_numpy(part)[None] for part in raw)
            values = tile.contiguous(memory_format=torch.channels_last) if tile.ndim == 4 else tile
            answer: Pixels = self._forward(values, offset, scale)[0].contiguous().numpy()
            return answer


class Bfloat16Engine(TorchEngine):
    """The same in bfloat16, which is what training computes in on such a processor: twice as quick, not as exact."""

    name = "torch-bfloat16"
    dtype = torch.bfloat16
