"""The worker: one chunk of images, one outcome an image, one sealed ledger segment at the end.

What crosses to a worker is paths and settings; what comes back is outcomes.
"""

import shutil
import uuid
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event as Signal

from pipeline.data.files import move_into_place
from pipeline.results.ledger import (
    SEGMENT,
    DamagedSegmentError,
    Entry,
    Product,
    read_segment,
    seal_segment,
    segment_name,
)
from pipeline.results.lock import STATE, writing
from pipeline.runs.segment_case import ChunkJob, Worked, segment_case
from pipeline.types import Case, Chunk, Event, Outcome, Watch, unwatched

Tell = Callable[[Outcome], None]
AT_ONCE = 2  # images in the works
LEDGER, SHARDS = f"{STATE}/ledger", f"{STATE}/shards"


def segment_chunk(chunk: Chunk, job: ChunkJob, tell: Tell | None = None, watch: Watch = unwatched) -> list[Outcome]:
    """Segment every image of `chunk`, then seal it in the ledger; a chunk that is sealed already is not done again.

    `Case.id` is the stem of the label file. `tell` hears of each image as it is done, `watch` how far a large one is
    (in this process only). Raises ModelError when the model cannot be used and OutputError when the folder cannot be
    written. What ends it before (Ctrl-C, say) ends a large image at its next tile, from where the next run goes on.
    """
    name = segment_name(job.run, chunk.number)
    sealed = _sealed(job.out / LEDGER, name)
    if sealed is not None:
        return [entry.outcome for entry in sealed]
    worked = []
    with closing(_in_order(chunk.cases, job, watch)) as images:
        for one in images:
            worked.append(one)
            if tell:
                tell(one.entry.outcome)
    return [entry.outcome for entry in _seal(name, worked, job)]


def _in_order(cases: Sequence[Case], job: ChunkJob, watch: Watch) -> Generator[Worked, None, None]:
    """What becomes of each image: the next is read and the one before written while one is predicted.

    Images are in the works on threads of their own, which no Ctrl-C reaches. So whatever ends this makes a large one
    raise KeyboardInterrupt when it next tells how far it is; small ones, which do not tell, are finished.
    """
    rest, stopped = iter(cases), Signal()

    def heard(event: Event) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        watch(event)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="image") as pool:
        waiting = deque(pool.submit(segment_case, case, job, heard) for case in islice(rest, AT_ONCE))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(segment_case, case, job, heard) for case in islice(rest, 1))
        finally:
            stopped.set()
            for future in waiting:
                future.cancel()


def _sealed(folder: Path, name: str) -> list[Entry] | None:
    path = folder / f"{name}{SEGMENT}"
    if not path.is_file():
        return None
    try:
        return read_segment(path).entries
    except DamagedSegmentError:
        return None


def _seal(name: str, worked: list[Worked], job: ChunkJob) -> list[Entry]:
    """Shard first, then the segment that vouches for it. A shard's name is its own: two tries never share one."""
    from pipeline.results.tables import write_shard

    frames = {w.entry.path: w.objects for w in worked if w.objects is not None and not isinstance(w.objects, Path)}
    shards: dict[str, Product] = {}
    places: dict[str, Entry] = {}
    with writing(job.out):
        if frames:
            shard = f"{name}-{uuid.uuid4().hex[:8]}.parquet"
            sha256, rows = write_shard(job.out / SHARDS / shard, list(frames.values()))
            shards[shard] = Product.of(job.out / SHARDS / shard, sha256)
            columns = {path: tuple(frame.columns) for path, frame in frames.items()}
            done = [w.entry for w in worked if w.entry.path in frames]
            for entry, place in zip(done, rows, strict=True):
                places[entry.path] = replace(entry, shard=shard, rows=place, columns=columns[entry.path])
        for one in worked:
            if isinstance(one.objects, Path):
                places[one.entry.path] = _place_table(one.entry, one.objects, name, shards, job.out)
        entries = [places.get(w.entry.path, w.entry) for w in worked]
        seal_segment(job.out / LEDGER, name, entries, shards)
        for one in worked:
            if isinstance(one.objects, Path):
                shutil.rmtree(one.objects.parent)
    return entries


def _place_table(entry: Entry, table: Path, segment: str, shards: dict[str, Product], out: Path) -> Entry:
    """A streamed image's table becomes a shard of its own."""
    from pipeline.results.tables import table_size

    shard = f"{segment}-{uuid.uuid4().hex[:8]}.parquet"
    rows, columns = table_size(table)
    sha256 = move_into_place(table, out / SHARDS / shard)
    shards[shard] = Product.of(out / SHARDS / shard, sha256)
    return replace(entry, shard=shard, rows=(0, rows), columns=columns)
