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
from pipeline.inference.busy import Busy
from pipeline.inference.forward import Forward, Raw, raw_tile
from pipeline.inference.tile_sizes import LARGEST_CORE
from pipeline.inference.windows import plan_tiles
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Pixels
from unet.folding import fold

LARGEST_BATCH = 8
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
    `compiled` lets torch.compile write the kernels (CUDA graphs included): minutes for each new shape, then quicker. No
    command asks for it yet; `bench/inference_gpu.py --compile` does.
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
        self._at_work = Busy()
        self._full = False  # has one tile been too large for the device?
        network = unet.channels_last(fold(model.network, fuse=self.device.type == "cpu").to(self.device))
        computed_in = precision or _best_precision(self.device)
        self.precision = str(computed_in).removeprefix("torch.")
        forward = Forward(network, record.target, computed_in).eval()
        self.forward: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            torch.compile(forward, mode="max-autotune", dynamic=False) if compiled else forward
        )
        self._cuda = self.device.type == "cuda"
        self._copying, self._returning = (
            torch.cuda.Stream(self.device) if self._cuda else None  # type: ignore[no-untyped-call]
            for _ in range(2)
        )

    def map(self, tiles: Iterable[Array], preparation: Preparation) -> Iterator[Pixels]:
        """Probabilities `(K, y, x)` float32 of each raw tile `(C, y, x)`, in order; two batches and a tile are held."""
        under_way: deque[_Batch | list[Pixels]] = deque()
        for raws in batches((raw_tile(tile, preparation) for tile in tiles), lambda: self.batch):
            with self._at_work.counted():
                under_way.append(self._launch(raws))
            if len(under_way) >= AHEAD:
                yield from self._waited_for(under_way.popleft())
        while under_way:
            yield from self._waited_for(under_way.popleft())

    @property
    def busy(self) -> float:
        """See `pipeline.inference.busy.Timed`: handing batches over, and waiting for their answers."""
        return self._at_work.seconds

    def _waited_for(self, batch: "_Batch | list[Pixels]") -> list[Pixels]:
        with self._at_work.counted():
            return list(self._collect(batch))

    def _launch(self, raws: list[Raw]) -> "_Batch | list[Pixels]":
        """Put a batch on its way. Where the device is full it is done in smaller pieces, at once."""
        if self._full and self._too_large(raws[0]):
            return [self._in_tiles(raw, self.core) for raw in raws]
        try:
            return self._send(raws)
        except torch.OutOfMemoryError:
            if self._cuda:
                torch.cuda.empty_cache()
        return self._in_pieces(raws)

    def _too_large(self, raw: Raw) -> bool:
        """Larger than a core and its halo, where one has once been too large."""
        side = self.core + 2 * (self.halo or 0)
        return self.halo is not None and raw.tile.shape[-2] * raw.tile.shape[-1] > side * side

    def _send(self, raws: list[Raw]) -> _Batch:
        """Copies to the device are on one stream, computing on another, answers on a third: none waits for its turn."""
        with self._on(self._copying):
            tiles = self._there(np.stack([raw.tile for raw in raws]))
            offset, scale = self._there(raws[0].offset[None]), self._there(raws[0].scale[None])
        self._hand_over(self._copying, self._computing, tiles, offset, scale)
        if tiles.ndim == 4:
            tiles = tiles.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            found = self.forward(tiles, offset, scale)
        if not self._cuda:
            return _Batch(raws, found.to("cpu"), None)
        self._hand_over(self._computing, self._returning, found)
        answer = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with self._on(self._returning):
            answer.copy_(found, non_blocking=True)
            ready.record()
        return _Batch(raws, answer, ready)

    @property
    def _computing(self) -> "torch.cuda.Stream | None":
        return torch.cuda.current_stream(self.device) if self._cuda else None

    def _hand_over(self, giver: "torch.cuda.Stream | None", taker: "torch.cuda.Stream | None", *values: Tensor) -> None:
        """What one stream has made is ready before the other goes on, and kept until that is done with it."""
        if giver is not None and taker is not None:
            taker.wait_stream(giver)
            for each in values:
                each.record_stream(taker)

    def _there(self, values: Array) -> Tensor:
        host = torch.from_numpy(values)
        return (host.pin_memory() if self._cuda else host).to(self.device, non_blocking=True)

    def _on(self, stream: "torch.cuda.Stream | None") -> AbstractContextManager[object]:
        return nullcontext() if stream is None else torch.cuda.stream(stream)

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
        shape, halo = raws[0].tile.shape[1:], self.halo
        core = 0 if halo is None else min((max(shape) - 2 * halo) // 2, self.core) // self.stride * self.stride
        if core < self.stride:
            raise ModelError(f"device {self.device}", "out of memory", "room for one tile", "use --device cpu")
        self.core, self._full = core, True
        return [self._in_tiles(raws[0], core)]

    def _in_tiles(self, raw: Raw, core: int) -> Pixels:
        """One tile by smaller ones with the halo between them: the same answer."""
        shape, halo = raw.tile.shape[1:], self.halo or 0
        answer = np.empty((self.outputs, *shape), np.float32)
        for tile in plan_tiles(shape, core, halo, self.stride):
            part = np.ascontiguousarray(raw.tile[(slice(None), *tile.read.slices)])
            (found,) = self._collect(self._launch([raw._replace(tile=part)]))
            answer[(slice(None), *tile.core.slices)] = found[(slice(None), *tile.inner)]
        return answer


def _best_precision(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
