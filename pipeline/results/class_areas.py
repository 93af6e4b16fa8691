"""How much of the images is of which class: what a report of class maps shows where others count objects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.results.cards import Card, pooled_fractions

_SPACE = "\N{NO-BREAK SPACE}"
SHOWN = 24  # classes; a report of more shows the largest, images.csv has all


@dataclass(frozen=True)
class ClassArea:
    """One class in a folder; `fraction` is its part of all pixels, `most` the largest part of one image."""

    value: int
    name: str
    colour: tuple[int, ...]
    fraction: float
    most: float
    images: int


def percent(part: float) -> str:
    """A part for people, in percent, on one line.

    >>> [percent(part).replace(_SPACE, " ") for part in (0.4321, 0.0004, 0.0, math.nan)]
    ['43.2 %', '< 0.1 %', '0 %', '–']
    """
    if not math.isfinite(part):
        return "–"
    if part == 0:
        return f"0{_SPACE}%"
    return f"<{_SPACE}0.1{_SPACE}%" if part < 0.001 else f"{100 * part:.1f}{_SPACE}%"


def class_areas(cards: Sequence[Card], legend: Sequence[Mapping[str, Any]]) -> list[ClassArea]:
    """The classes of `legend` (run.json's `classes`: value, name, colour) in its order, of too many the largest."""
    pooled = pooled_fractions(cards)
    found = []
    for entry in legend:
        name = entry["name"]
        known = [card.fractions[name] for card in cards if math.isfinite(card.fractions.get(name, math.nan))]
        largest, there = max(known, default=math.nan), sum(part > 0 for part in known)
        found.append(
            ClassArea(entry["value"], name, tuple(entry["colour"]), pooled.get(name, math.nan), largest, there)
        )
    shown = sorted(found, key=lambda area: -area.fraction if math.isfinite(area.fraction) else 0.0)[:SHOWN]
    return sorted(shown, key=lambda area: area.value)
