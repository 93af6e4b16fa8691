"""A run that is planned: what a person and the workers are told of it."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pipeline.config import SegmentConfig
from pipeline.results.lock import STATE
from pipeline.runs.check_room import free_disk, held_in, machine_memory, memory_now
from pipeline.runs.plan_chunks import Planned
from pipeline.runs.plan_large import PROCESS
from pipeline.types import Case, Chunk, Skipped


@dataclass(frozen=True)
class Plan:
    """`cases` are the images asked for, their ids the stems of their label files; `others` are only on record."""

    config: SegmentConfig
    model: Path
    model_digest: str
    settings: str
    cases: tuple[Case, ...]
    others: tuple[Case, ...]
    todo: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]
    chunks: tuple[Chunk, ...]
    seconds: float
    engine: str = ""  # where it was asked for

    @property
    def megapixels(self) -> float:
        return sum(planned.megapixels for planned in self.todo)

    @property
    def memory(self) -> float:
        """Bytes, about, at the peak: two images are in the works at once, of which one may be large."""
        known = {planned.case.relative: planned for planned in self.todo if not planned.refused}
        peak = PROCESS
        for chunk in self.chunks:
            work = [known[case.relative] for case in chunk.cases if case.relative in known]
            for one, other in zip_longest(work, work[1:]):
                both = [p.memory for p in (one, other) if p]
                together = sum(both) - PROCESS * (len(both) - 1)
                peak = max(peak, max(both) if len(both) == 2 and one.alone and other.alone else together)
        return peak

    @property
    def disk(self) -> float:
        """Bytes, about: what all images leave, and what the largest takes while it runs."""
        costs = [planned.cost for planned in self.todo if planned.cost and not planned.refused]
        return sum(cost.stays for cost in costs) + max((cost.disk - cost.stays for cost in costs), default=0.0)

    @property
    def refused(self) -> int:
        """How many images will fail, as far as is known by now."""
        return sum(bool(planned.refused) for planned in self.todo)

    @property
    def short_of_disk(self) -> str:
        """What is missing where the images, each of which may have room, do not have it together; else empty."""
        needed = self.disk - held_in(self.config.out / STATE / "large")
        free = free_disk(self.config.out)
        if needed <= free:
            return ""
        numbers = f"about {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free on that of {self.config.out}"
        return f"all together leave {numbers}: free some disk, or give another --out"

    @property
    def short_of_memory(self) -> str:
        """What is missing where there is too little memory for now; else empty."""
        now = memory_now()
        if self.memory <= now:
            return ""
        return f"it may take {self.memory / 1e9:.1f} GB of memory, {now / 1e9:.1f} GB are available right now"

    def lines(self) -> list[str]:
        """For a person: every image that would be done and why, every one that would be skipped, and the cost."""
        lines = [str(planned) for planned in self.todo]
        lines += [f"skip  {skipped.case}  ({skipped.reason})" for skipped in self.skipped]
        chunks = f"in {len(self.chunks):,} chunk{'s' if len(self.chunks) != 1 else ''}"
        lines.append(f"{len(self.todo):,} to do {chunks}, {len(self.skipped):,} skipped, {len(self.cases):,} in all")
        if self.refused:
            lines.append(f"{self.refused:,} of them cannot be done as they are")
        if self.todo:
            memory = f"{self.memory / 1e9:.1f} of {machine_memory() / 1e9:.1f} GB of memory"
            disk = f"{self.disk / 1e9:.1f} of {free_disk(self.config.out) / 1e9:.1f} GB of free disk"
            lines.append(f"{self.megapixels:,.1f} megapixels, about {self.seconds:,.0f} s, {memory}, {disk}")
            lines += [f"warning: {self.short_of_memory}"] if self.short_of_memory else []
            lines += [f"no    {self.short_of_disk}"] if self.short_of_disk else []
        lines += [f"engine {self.engine}"] if self.engine else []
        lines.append(f"model {self.config.model} ({self.model_digest[:12]}) -> {self.config.out}")
        return lines
