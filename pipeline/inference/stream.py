"""An image larger than memory, end to end: read once by bands, predicted, decoded by blocks behind it, handed out.

    rows of the file -> tiles -> probabilities on disk (uint8, sealed by band)      one thread, and the engine's
                                   -> blocks -> objects, rows, final labels         one thread a core

Memory holds a band of the image, the blocks at work, and no more; a run that was killed goes on behind its last band.
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.inference.ahead import ahead
from pipeline.inference.background import skipped_pixels
from pipeline.inference.blocks import SIZES, Block, Sizes, divide_band, plan_band, plan_blocks
from pipeline.inference.busy import Busy, busy_seconds
from pipeline.inference.cores import Framed, rest, streamed_core
from pipeline.inference.decode_block import DecodedBlock, Decoder
from pipeline.inference.engines import Engine
from pipeline.inference.grid import ModelGrid
from pipeline.inference.planes import PlaneStore, name_work
from pipeline.inference.predict import predict_tiles, tile_grid
from pipeline.inference.stitch import Owned, Stitcher
from pipeline.inference.tile_sizes import MADE_AHEAD
from pipeline.inference.windows import Tile
from pipeline.model.bundle import TrainedModel
from pipeline.model.decode import Bytes, to_bytes
from pipeline.model.prepare import Preparation
from pipeline.scoring.confidence import ConfidenceSums
from pipeline.types import Array, Event, ImageSource, Labels, Pixels, Watch, Window, unwatched

if TYPE_CHECKING:
    import pandas as pd

READ_AHEAD = 16  # tiles that are parts of the band at hand


@dataclass(frozen=True)
class Part:
    """What a block adds: its objects and their rows, its core's pixels `(C, y, x)`, and cores whose labels are final.

    `owned` numbers the objects from 1, in the order of their rows.
    """

    objects: "pd.DataFrame"
    owned: Owned
    pixels: Array
    labels: tuple[tuple[Window, Labels], ...]
    cut: int
    sums: ConfidenceSums


class Written:
    """How many rows of probabilities are on disk; whoever needs more waits for them."""

    def __init__(self) -> None:
        self.rows = 0
        self.stopped = self.ended = False
        self._changed = threading.Condition()

    def reach(self, rows: int) -> None:
        """These rows are there now."""
        with self._changed:
            self.rows = rows
            self._changed.notify_all()

    def end(self, predicted: "Future[None]") -> None:
        """No more rows will come."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def wait(self, rows: int) -> bool:
        """Wait until these rows are there; False where they will never be."""
        with self._changed:
            self._changed.wait_for(lambda: self.rows >= rows or self.ended)
            return self.rows >= rows


@dataclass(frozen=True)
class Stream:
    """One image on its way. `preparation` has the statistics and the grids; `scratch` is a folder of its own."""

    model: TrainedModel
    engine: Engine
    source: ImageSource
    preparation: Preparation
    scratch: Path
    identity: str
    channel: int | None = None
    tta: bool = False
    sizes: Sizes = SIZES
    watch: Watch = unwatched
    _stages: dict[str, Busy] = field(default_factory=dict, repr=False)
    skipped: list[int] = field(default_factory=list)  # pixels a band that were not predicted, by earlier runs too
    predicted: threading.Event = field(default_factory=threading.Event)  # the engine is free again

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)

    @property
    def core(self) -> tuple[int, int]:
        """Rows and columns of a tile's core, on the grid that keeps the answer the whole image's."""
        return divide_band(self.sizes.band, streamed_core(self.engine), tile_grid(self.engine)[1])

    @property
    def skipped_megapixels(self) -> float:
        """Of tiles that were answered as background, halo included, each view of test-time augmentation by itself."""
        return sum(self.skipped) / 1e6

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Of the network's grid, `(Y, X)`, padded to its stride."""
        height, width = (side + -side % self.preparation.stride for side in self.preparation.shape)
        return height, width

    @property
    def kept(self) -> int:
        """How many planes lie on disk."""
        return self.engine.outputs

    def keep(self, probabilities: Pixels) -> Bytes:
        """What is kept on disk of a tile's core, `(kept, y, x)`."""
        return to_bytes(probabilities)

    @contextmanager
    def predicting(self) -> "Iterator[tuple[PlaneStore, Written, Future[None]]]":
        """Predict in a thread of its own: where the bands go, how many are there, and what may have gone wrong."""
        grid = ModelGrid(self.source, self.model.record.prepare.channels, self.channel, self.preparation)
        work = name_work(self.identity, self.preparation, self.engine)
        store = PlaneStore(self.scratch, self.kept, grid.shape, work, self.sizes.band)
        written = Written()
        self.watch(Event("predict", 0, store.shape[0]))
        with ThreadPoolExecutor(1, thread_name_prefix="predict") as thread:
            predicted = thread.submit(self._predict, grid, store, written)
            predicted.add_done_callback(written.end)
            predicted.add_done_callback(lambda _: self.predicted.set())
            try:
                yield store, written, predicted
            finally:
                written.stopped = True

    def parts(self, workers: int) -> Iterator[Part]:
        """The image's parts in raster order of its blocks; `workers` threads decode, one more when all is predicted."""
        with self.predicting() as (store, written, predicted):
            decoder = Decoder(store, self.source.again(), self.model, self.preparation, self.sizes)
            blocks = list(plan_blocks(decoder.shape, self.sizes.side))
            stitcher = Stitcher({(b.row, b.column): decoder.core(b) for b in blocks})
            for number, decoded in enumerate(self._decoded(decoder, blocks, written, predicted, workers)):
                decoded.objects["label"] += stitcher.count
                finals = tuple(stitcher.add(decoded.owned))
                self.watch(Event("decode", number + 1, len(blocks), {"objects": stitcher.count}))
                yield Part(decoded.objects, decoded.owned, decoded.pixels, finals, decoded.cut, decoded.sums)

    def _decoded(
        self, decoder: Decoder, blocks: list[Block], written: Written, predicted: "Future[None]", workers: int
    ) -> Iterator[DecodedBlock]:
        """Blocks decoded as soon as the probabilities around them are on disk, in order, a few ahead."""
        prepared = self.preparation.shape[0]
        with ThreadPoolExecutor(workers + 1, thread_name_prefix="decode") as pool:
            waiting: deque[Future[DecodedBlock]] = deque()
            for block in blocks:
                below = block.region(self.sizes.widest).stop[0]
                needed = min(prepared, -(-below * prepared // decoder.shape[0]) + 1)
                while waiting and (len(waiting) > workers + written.ended or written.rows < needed):
                    yield waiting.popleft().result()
                if not written.wait(needed):
                    predicted.result()  # raises what went wrong
                waiting.append(pool.submit(self._decode, decoder, block, workers + written.ended))
            while waiting:
                yield waiting.popleft().result()

    def _decode(self, decoder: Decoder, block: Block, threads: int) -> DecodedBlock:
        with self.timed("decode", threads):
            return decoder.decode(block)

    def timed(self, stage: str, threads: int = 1) -> AbstractContextManager[None]:
        """Add up what a stage takes, by the clock, shared among the threads that do the same."""
        return self._stages.setdefault(stage, Busy()).counted(threads)

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage took so far, over the threads it had."""
        return {stage: busy.seconds for stage, busy in self._stages.items()}

    def _predict(self, grid: ModelGrid, store: PlaneStore, written: Written) -> None:
        """Write every band that is not there yet, in order."""
        before = busy_seconds(self.engine)
        for last in self._bands(grid, store, written):
            written.reach(last)
            self.watch(Event("predict", last, store.shape[0]))
        rest(self.engine)
        if before is not None:  # else waiting for answers is counted, reading included
            self._stages.setdefault("predict", Busy()).seconds = (busy_seconds(self.engine) or 0.0) - before

    def _bands(self, grid: ModelGrid, store: PlaneStore, written: Written) -> Iterator[int]:
        """The last row of each band once it is on disk."""
        todo = [band for band in range(store.bands) if not store.has(band)]
        plans: deque[list[Tile]] = deque()
        with ExitStack() as ends:
            most = min(-(-store.shape[1] // self.core[1]), MADE_AHEAD if grid.magnified else READ_AHEAD)
            tiles = ahead(self._feed(grid, store, written, todo, plans), most)
            ends.callback(tiles.close)
            answers = predict_tiles(self.engine, tiles, self.preparation, self.tta)
            ends.callback(getattr(answers, "close", lambda: None))  # threads of the engine let go of the tiles
            for band in range(store.bands):
                if band in todo:
                    before = skipped_pixels(self.engine)
                    planes = self._band(store.rows(band), store.shape, answers, plans)
                    if planes is None:
                        return
                    with self.timed("keep"):
                        store.put(band, planes, skipped_pixels(self.engine) - before)
                    del planes  # not held beside those of the next band
                self.skipped.append(store.skipped(band))
                yield store.rows(band)[1]

    def _feed(
        self, grid: ModelGrid, store: PlaneStore, written: Written, todo: list[int], plans: "deque[list[Tile]]"
    ) -> Iterator[Framed]:
        """The tiles of bands; each band is planned when it is its turn, as a full device has made tiles smaller."""
        for band in todo:
            plan = plan_band(store.rows(band), store.shape, self.core, tile_grid(self.engine)[0])
            plans.append(plan)
            with self.timed("read"):
                grid.hold(plan[0].read.start[0], plan[-1].read.stop[0])
            for tile in plan:
                if written.stopped:
                    return
                yield Framed(grid.window(tile.read), tile.frame)

    def _band(
        self, rows: tuple[int, int], shape: tuple[int, int], answers: Iterator[Pixels], plans: "deque[list[Tile]]"
    ) -> Bytes | None:
        """What is kept of a band, `(kept, y, x)`; None where the work was stopped. Each tile is told of as it comes."""
        first, last = rows
        planes = np.empty((self.kept, last - first, shape[1]), np.uint8)
        plan: list[Tile] = []
        done = 0
        while done < max(1, len(plan)):
            with self.timed("predict"):
                answer = next(answers, None)
            if answer is None:
                return None
            plan = plan or plans.popleft()
            y, x = plan[done].core.slices
            with self.timed("keep"):
                planes[:, y.start - first : y.stop - first, x] = self.keep(answer)
            done += 1
            if done < len(plan):  # of the last one when the band is on disk
                self.watch(Event("predict", first + (last - first) * done // len(plan), shape[0]))
        return planes
