"""torch on an accelerator: equal tiles in batches, copies beside the computing, and less at once on a full device.

The device is a parameter; on the CPU the same code runs without streams, which is how it is tested everywhere.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import unet
from pipeline.errors import ModelError
from pipeline.inference.forward import Forward, Raw, raw_tile
from pipeline.inference.windows import plan_tiles
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels
from unet.folding import fold

LARGEST_BATCH, LARGEST_CORE = 8, 1024
AHEAD = 2  # batches under way: one computing, one being copied


@dataclass
class _Batch:
    """Equal tiles on their way: `answer` is on the host when `ready` says so (None where there are no streams)."""

    raws: list[Raw]
    answer: Tensor
    ready: "torch.cuda.Event | None"


def batches(raws: Iterable[Raw], most: Callable[[], int]) -> Iterator[list[Raw]]:
    """Neighbours of one shape and dtype in lists of at most `most()`, which is asked anew for each list."""
    together: list[Raw] = []
    for raw in raws:
        alike = together and (raw.tile.shape, raw.tile.dtype) == (together[0].tile.shape, together[0].tile.dtype)
        if together and (not alike or len(together) >= most()):
            yield together
            together = []
        together.append(raw)
    if together:
        yield together


class DeviceEngine:
    """See `pipeline.inference.engines.Engine`. `batch` and `core` shrink, and stay so, when the device is full.

    `precision` is what the network computes in: bfloat16 where a GPU has it, float16 on older ones, float32 elsewhere.
    `compiled` lets torch.compile write the kernels (CUDA graphs included): minutes for each new shape, then quicker.
    """

    name = "torch"

    def __init__(
        self,
        model: TrainedModel,
        device: str,
        *,
        batch: int = LARGEST_BATCH,
        precision: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.device = torch.device(device)
        record = model.record
        self.outputs, self.halo, self.stride = len(record.outputs), record.halo, record.stride
        self.batch, self.core = batch, LARGEST_CORE // record.stride * record.stride
        network = unet.channels_last(fold(model.network, fuse=self.device.type == "cpu").to(self.device))
        computed_in = precision or _best_precision(self.device)
        self.precision = str(computed_in).removeprefix("torch.")
        forward = Forward(network, record.target, computed_in).eval()
        self.forward: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            torch.compile(forward, mode="max-autotune", dynamic=False) if compiled else forward
        )
        self._cuda = self.device.type == "cuda"
        self._copying = torch.cuda.Stream(self.device) if self._cuda else None  # type: ignore[no-untyped-call]

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities `(K, y, x)` float32 of each raw tile `(C, y, x)`, in order; two batches and a tile are held."""
        under_way: deque[_Batch | list[Pixels]] = deque()
        for raws in batches((raw_tile(tile, preparation) for tile in tiles), lambda: self.batch):
            under_way.append(self._launch(raws))
            if len(under_way) >= AHEAD:
                yield from self._collect(under_way.popleft())
        while under_way:
            yield from self._collect(under_way.popleft())

    def _launch(self, raws: list[Raw]) -> "_Batch | list[Pixels]":
        """Put a batch on its way. Where the device is full it is done in smaller pieces, at once."""
        try:
            return self._send(raws)
        except torch.OutOfMemoryError:
            if self._cuda:
                torch.cuda.empty_cache()
        return self._in_pieces(raws)

    def _send(self, raws: list[Raw]) -> _Batch:
        host = torch.from_numpy(np.stack([raw.tile for raw in raws]))
        offset, scale = (torch.from_numpy(part)[None].to(self.device) for part in (raws[0].offset, raws[0].scale))
        with self._beside():
            tiles = (host.pin_memory() if self._cuda else host).to(self.device, non_blocking=True)
        if self._copying is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copying)
            tiles.record_stream(torch.cuda.current_stream(self.device))
        if tiles.ndim == 4:
            tiles = tiles.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            found = self.forward(tiles, offset, scale)
        if not self._cuda:
            return _Batch(raws, found.to("cpu"), None)
        answer = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        answer.copy_(found, non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(self.device))
        return _Batch(raws, answer, ready)

    def _beside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._copying is None else torch.cuda.stream(self._copying)

    def _collect(self, batch: "_Batch | list[Pixels]") -> Iterator[Pixels]:
        if isinstance(batch, list):
            yield from batch
            return
        if batch.ready is not None:
            batch.ready.synchronize()
        for answer in batch.answer.numpy():
            yield np.ascontiguousarray(answer)

    def _in_pieces(self, raws: list[Raw]) -> list[Pixels]:
        """Half the batch, and then half the tile; what has once been too large is not tried again."""
        if len(raws) > 1:
            self.batch = max(1, len(raws) // 2)
            halves = raws[: self.batch], raws[self.batch :]
            return [answer for half in halves for answer in self._collect(self._launch(half))]
        return [self._in_tiles(raws[0])]

    def _in_tiles(self, raw: Raw) -> Pixels:
        """One tile by smaller ones with the halo between them: the same answer."""
        shape, halo = raw.tile.shape[1:], self.halo
        core = 0 if halo is None else min((max(shape) - 2 * halo) // 2, self.core) // self.stride * self.stride
        if halo is None or core < self.stride:
            raise ModelError(f"device {self.device}", "out of memory", "room for one tile", "use --device cpu")
        self.core = core
        answer = np.empty((self.outputs, *shape), np.float32)
        for tile in plan_tiles(shape, core, halo, self.stride):
            part = np.ascontiguousarray(raw.tile[(slice(None), *tile.read.slices)])
            (found,) = self._collect(self._launch([Raw(part, raw.offset, raw.scale)]))
            answer[(slice(None), *tile.core.slices)] = found[(slice(None), *tile.inner)]
        return answer


def _best_precision(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
