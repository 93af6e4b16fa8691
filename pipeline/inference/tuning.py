"""How large tiles should be: measured once a model, engine and machine, and remembered. Results never depend on it."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import OutputError
from pipeline.inference.cores import Framed
from pipeline.inference.forward import identity
from pipeline.inference.tile_sizes import core_file, read_core
from pipeline.model.prepare import Preparation
from pipeline.types import FORMAT_VERSION, Pixels

CORES = (512, 768, 1024)  # px; larger ones gain little halo, and memory grows with their square
BLENDED = 256  # the window of networks without a halo
ENOUGH = 0.93  # a smaller tile this near the best one is taken: 768 px need two thirds of the memory of 1,024


class Measured(Protocol):
    """What of an engine is asked here."""

    name: str
    digest: str
    threads: int
    channels: int
    halo: int | None
    stride: int

    def map_cores(self, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]: ...


def remembered_in(engine: Measured) -> Path:
    """The file that keeps what was measured."""
    return core_file(engine.digest, engine.name, engine.threads)


def _rate(engine: Measured, core: int) -> float:
    """Core pixels a second of CPU time, with every thread at work; the better of two.

    CPU time, as what else runs on the machine should not decide.
    """
    halo = engine.halo or 0
    side = core + 2 * halo
    pixels = np.random.default_rng(0).integers(0, 256, (engine.channels, side, side), np.uint8)
    tile = Framed(pixels, (halo, halo, halo, halo))
    preparation = identity(engine.channels, (side, side))
    seconds = []
    for _ in range(2):
        began = time.process_time()
        for _ in engine.map_cores((tile for _ in range(max(2, engine.threads))), preparation):
            pass
        seconds.append(time.process_time() - began)
    return max(2, engine.threads) * core * core / min(seconds)


def choose_core(rates: dict[int, float]) -> int:
    """The smallest core that is as good as the best one.

    >>> choose_core({512: 1.0, 768: 1.98, 1024: 2.0})
    768
    """
    return min(core for core, rate in rates.items() if rate >= ENOUGH * max(rates.values()))


def tuned_core(engine: Measured) -> int:
    """The side of a tile's core in px, a multiple of the stride; measured where nothing is remembered (seconds)."""
    if engine.halo is None:
        return BLENDED // engine.stride * engine.stride
    file = remembered_in(engine)
    known = read_core(file)
    if known is not None and known > 0 and known % engine.stride == 0:
        return known
    cores = [core // engine.stride * engine.stride for core in CORES]
    rates = {core: _rate(engine, core) for core in cores}
    core = choose_core(rates)
    tree = {
        "format_version": FORMAT_VERSION,
        "core": core,
        "rates": {str(c): r for c, r in rates.items()},
    }
    try:
        atomic_write(file, json.dumps(tree, indent=2).encode(), durable=False)
    except OutputError:
        return core  # a home that cannot be written costs a measurement each time, nothing else
    return core
