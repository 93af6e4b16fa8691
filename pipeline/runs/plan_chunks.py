"""Work in chunks: what an image that is to be done takes, how fast it goes, and which images go together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.results.ledger import Entry
from pipeline.runs.plan_large import A_PIXEL, PROCESS, ImageCost
from pipeline.types import Case, Chunk

SPEED = 0.6  # megapixels a second, until the ledger knows better
OVERHEAD = 0.03  # seconds an image, whatever its size
MOST_IN_A_CHUNK = 500  # so that a killed run loses little, however fast the machine


@dataclass(frozen=True)
class Planned:
    """An image that is to be done, why, and how large it is (megapixels; a guess from the file's size where rough).

    `refused` says why it will fail, where that is known by now.
    """

    case: Case
    reason: str
    megapixels: float
    cost: ImageCost | None = None  # where the header was read
    zoom: float = 1.0  # as far as it is told
    alone: bool = False  # no other large image is in the works beside it
    refused: str = ""

    @property
    def memory(self) -> float:
        """Bytes, about, at its peak."""
        return self.cost.memory if self.cost else PROCESS + A_PIXEL * 1e6 * self.megapixels

    @property
    def work(self) -> float:
        """Megapixels that the network is shown."""
        return self.megapixels * max(1.0, self.zoom) ** 2

    def __str__(self) -> str:
        if self.refused:
            return f"no    {self.case.relative}  ({self.refused})"
        cost = f", {self.cost}" if self.cost else ""
        return f"do    {self.case.relative}  ({self.reason}, {self.megapixels:.2f} megapixels{cost})"


def learn_speed(entries: Iterable[Entry], model: str, told: bool = False) -> float:
    """Megapixels a second: what this folder has seen of this model, else `SPEED`. Where the zoom is `told`, those that
    the network was shown.
    """
    megapixels = seconds = 0.0
    for entry in entries:
        if entry.status == "done" and entry.model == model:
            row = entry.row
            shown = max(1.0, float(row.get("model_zoom") or 1.0)) ** 2 if told else 1.0
            megapixels += shown * row.get("height", 0) * row.get("width", 0) * row.get("planes", 1) / 1e6
            seconds += max(0.0, sum(entry.seconds.values()) - OVERHEAD)
    return megapixels / seconds if megapixels >= 1 and seconds > 0 else SPEED


def cut_chunks(todo: Sequence[Planned], seconds: float, speed: float) -> tuple[Chunk, ...]:
    """Neighbours together until they make about `seconds` of work; an image that takes as long by itself stays alone.

    >>> from pathlib import Path
    >>> sizes = [0.1, 0.1, 50.0, 0.1]
    >>> todo = [Planned(Case(str(i), Path(str(i)), str(i)), "new", size) for i, size in enumerate(sizes)]
    >>> [[case.id for case in chunk.cases] for chunk in cut_chunks(todo, 30.0, 0.6)]
    [['0', '1'], ['2'], ['3']]
    """
    groups: list[list[Case]] = []
    room = 0.0
    for planned in todo:
        cost = OVERHEAD + planned.work / speed
        if not groups or cost > room or len(groups[-1]) >= MOST_IN_A_CHUNK:
            groups.append([])
            room = seconds
        groups[-1].append(planned.case)
        room -= cost
    return tuple(Chunk(number, tuple(group)) for number, group in enumerate(groups))
