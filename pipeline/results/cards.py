"""The rows of images.csv as people are shown them, and what they come to for a folder and its groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.results.quality import FLAGS
from pipeline.results.tables import fraction_column

if TYPE_CHECKING:
    import pandas as pd

_NAME = 160
_MOSTLY = 3


@dataclass(frozen=True)
class Card:
    """One image as the report shows it."""

    name: str
    status: str
    group: str
    objects: float
    density: float
    area: float
    confidence: float
    intensity: float
    flags: tuple[str, ...]
    error: str
    hint: str
    stage: str
    fractions: Mapping[str, float] = field(default_factory=dict)  # of class maps: class -> part of the pixels
    pixels: float = math.nan
    seams: float = math.nan  # of streamed images: objects across borders of tiles, over those to be expected
    agreement: float = math.nan  # of streamed images: AP at IoU .9 with windows that were segmented at once
    missing: float = math.nan  # tiles, strips or chunks that are not in the file, of `tiles`
    tiles: float = math.nan
    plain: str = ""
    lines: str = ""

    @property
    def short(self) -> str:
        """The name, the middle of a very long one left out."""
        half = _NAME // 2
        return self.name if len(self.name) <= _NAME else f"{self.name[:half]}…{self.name[-half:]}"

    @property
    def streamed(self) -> bool:
        """Whether there is a seam score to be shown."""
        return math.isfinite(self.seams) or math.isfinite(self.agreement)

    @property
    def aside(self) -> str:
        """The group, where the name does not say it already."""
        return "" if self.name.startswith(self.group) else self.group

    @property
    def mostly(self) -> list[tuple[str, float]]:
        """The classes that fill most of the image, at most three, the largest first."""
        there = [(name, part) for name, part in self.fractions.items() if part > 0]
        return sorted(there, key=lambda pair: -pair[1])[:_MOSTLY]

    @property
    def badness(self) -> tuple[float, ...]:
        """Sorts the worst first: more flags, graver flags, less confidence."""
        order = [list(FLAGS).index(flag) if flag in FLAGS else len(FLAGS) for flag in self.flags]
        sure = self.confidence if math.isfinite(self.confidence) else 1.0
        return (-len(order), min(order, default=len(FLAGS)), sure)


def _float(row: Mapping[str, Any], *names: str) -> float:
    """The first of these columns that holds a finite number, else NaN."""
    for name in names:
        try:
            value = float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return math.nan


def _text(row: Mapping[str, Any], *names: str) -> str:
    """The first of these columns that holds a text, else ""."""
    found = (row.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), "")


def read_cards(images: "pd.DataFrame", classes: Sequence[str] = ()) -> list[Card]:
    """The rows of images.csv, as they stand there; a column that is missing leaves its field empty.

    `classes` are the names of what class maps are made of; none for objects.
    """
    rows: list[dict[str, Any]] = images.to_dict("records")  # type: ignore[assignment]
    return [
        Card(
            name=_text(row, "case", "path", "image"),
            status=_text(row, "status") or "done",
            group=_text(row, "group"),
            objects=_float(row, "objects"),
            density=_float(row, "density"),
            area=_float(row, "median_area", "area"),
            confidence=_float(row, "confidence"),
            intensity=_float(row, "intensity"),
            flags=tuple(f for f in _text(row, "flags").split(";") if f),
            error=_text(row, "error")[:1000],
            hint=_text(row, "hint")[:1000],
            stage=_text(row, "stage"),
            fractions={name: _float(row, fraction_column(name)) for name in classes},
            seams=_float(row, "model_seams"),
            agreement=_float(row, "model_agreement"),
            missing=_float(row, "missing_tiles"),
            tiles=_float(row, "tiles"),
            pixels=math.prod(_float(row, name) for name in ("height", "width", "planes")),
        )
        for row in rows
    ]


def worst_first(cards: Sequence[Card]) -> list[Card]:
    """The images that are done: flagged ones first, the unsure before the sure, else as they stood."""
    return sorted((card for card in cards if card.status != "failed"), key=lambda card: card.badness)


def values_of(cards: Sequence[Card], name: str) -> NDArray[np.float64]:
    """One number of every card."""
    return np.array([getattr(card, name) for card in cards], np.float64)


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def summarise(cards: Sequence[Card]) -> dict[str, float]:
    done = [card for card in cards if card.status != "failed"]
    objects = values_of(done, "objects")
    return {
        "images": len(cards),
        "done": len(done),
        "failed": len(cards) - len(done),
        "flagged": sum(bool(card.flags) for card in done),
        "objects": float(np.nansum(objects)),
        "median_objects": _median(objects),
        "median_area": _median(values_of(done, "area")),
        "confidence": _median(values_of(done, "confidence")),
    }


def group_summaries(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Numbers of each group, in the order of their names; none where there is one group only."""
    names = sorted({card.group for card in cards})
    members = {name: [card for card in cards if card.group == name] for name in names}
    return [
        {"group": name or "(none)", **summarise(members[name]), "fractions": pooled_fractions(members[name])}
        for name in (names if len(names) > 1 else [])
    ]


def pooled_fractions(cards: Sequence[Card]) -> dict[str, float]:
    """Class -> its part of the pixels of all images together; NaN where nothing is known of it."""
    names = dict.fromkeys(name for card in cards for name in card.fractions)
    return {name: _pooled([(card.fractions[name], card.pixels) for card in cards]) for name in names}


def _pooled(parts: Sequence[tuple[float, float]]) -> float:
    known = [(part, pixels) for part, pixels in parts if math.isfinite(part * pixels)]
    return sum(part * pixels for part, pixels in known) / sum(pixels for _, pixels in known) if known else math.nan


def flag_counts(cards: Sequence[Card]) -> list[tuple[str, str, str, int]]:
    """Code, title, advice and number of images of each flag that was raised, in the order of FLAGS."""
    raised = [flag for card in cards for flag in card.flags]
    known = [(code, title, advice, raised.count(code)) for code, (title, advice) in FLAGS.items() if code in raised]
    return known + [(code, code, "", raised.count(code)) for code in sorted(set(raised) - set(FLAGS))]
