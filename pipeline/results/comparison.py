"""Systems side by side, for people and for other programs: lines for a terminal, CSV, JSON and a picture."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.scoring.paired import Measured, Score
from pipeline.types import FORMAT_VERSION

TITLES: Mapping[str, Mapping[str, str]] = {
    "objects": {"map": "mAP", "ap50": "AP@.5", "dice_mean": "Dice"},
    "classes": {"dice_mean": "foreground Dice", "miou": "mIoU", "accuracy": "pixel accuracy"},
}
COSTS = {
    "parameters": "parameters",
    "megapixels_per_second": "Mpx/s",
    "images_per_second": "images/s",
    "peak_memory_mb": "memory, MB",
    "accelerator_memory_mb": "GPU, MB",
}
_WHERE = ("engine", "device")
_MACHINE = ("machine", "cpus", "gpu")
_RIGHT, _GAP = 12, "  "
_DIFFERENCE = "  difference"


@dataclass(frozen=True)
class System:
    """One evaluated model: `scores` by name, `about` what its record says of it, `cost` what it took (may be {})."""

    name: str
    run: str
    scores: Mapping[str, Score]
    about: Mapping[str, Any]
    cost: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Systems on the same images. `left_out` images were not scored by all of them against the same truth.

    `over` says what the resamples draw: images or groups.
    """

    kind: str
    systems: tuple[System, ...]
    images: int
    left_out: int
    over: str
    resamples: int
    seed: int = 0

    @property
    def titles(self) -> Mapping[str, str]:
        """The scores that are shown, with what they are called."""
        return TITLES[self.kind]

    def lines(self) -> list[str]:
        """Two tables, of scores and of what they took, and what has to be said of them."""
        names = [system.name for system in self.systems]
        width = max(len(_DIFFERENCE), *map(len, names)) + 2
        head = f"{self.images:,} images, the same for all; 95 % by {self.over}, {self.resamples:,} resamples"
        lines = [head, "", f"{'':<{width}}" + "".join(f"{title:<26}" for title in self.titles.values()).rstrip()]
        for system in self.systems:
            lines.append(_row(system.name, [system.scores[key].own for key in self.titles], width, ""))
            differences = [more for key in self.titles if (more := system.scores[key].difference) is not None]
            if differences:
                lines.append(_row(_DIFFERENCE, differences, width, "+"))
        return [*lines, "", *self._costs(width), *self._remarks()]

    def _costs(self, width: int) -> list[str]:
        shown = [key for key in COSTS if any(one.cost.get(key) is not None for one in self.systems)]
        if not shown:
            return ["parameters, speed and memory are on record for none of the runs"]
        lines = [f"{'':<{width}}" + "".join(f"{COSTS[key]:>{_RIGHT}}{_GAP}" for key in shown) + "runs on"]
        for one in self.systems:
            cells = "".join(f"{_number(one.cost.get(key)):>{_RIGHT}}{_GAP}" for key in shown)
            where = " ".join(str(one.cost[key]) for key in _WHERE if one.cost.get(key))
            lines.append(f"{one.name:<{width}}{cells}{where}".rstrip())
        return lines

    def _remarks(self) -> list[str]:
        remarks = []
        if self.left_out:
            remarks.append(f"{self.left_out:,} images are left out: not all runs scored them against the same truth")
        if not self.one_machine:
            remarks.append("they ran on different machines: speed and memory say little of the models")
        if self.systems[0].scores[next(iter(self.titles))].own.low is None:
            remarks.append("one group alone gives no intervals")
        return ["", *remarks] if remarks else []

    @property
    def one_machine(self) -> bool:
        """Whether all whose machine is known ran on machines alike."""
        known = [one.cost["hardware"] for one in self.systems if "hardware" in one.cost]
        return len({tuple(str(machine.get(key)) for key in _MACHINE) for machine in known}) < 2

    def as_json(self) -> dict[str, Any]:
        """Everything, all scores included, ready for JSON."""
        about = {"images": self.images, "left_out": self.left_out, "kind": self.kind}
        intervals = {"over": self.over, "resamples": self.resamples, "cover": 0.95, "seed": self.seed}
        systems = [asdict(system) for system in self.systems]
        return {"format_version": FORMAT_VERSION, **about, "intervals": intervals, "systems": systems}

    def numbers(self) -> dict[str, float]:
        """What MLflow is told: the scores shown, their differences, and what they took, by system."""
        found: dict[str, float | None] = {}
        for one in self.systems:
            for key in self.titles:
                found |= _sides(f"{one.name}/{key}", one.scores[key].own)
                found |= _sides(f"{one.name}/{key}_difference", one.scores[key].difference)
            found |= {f"{one.name}/{key}": one.cost.get(key) for key in COSTS}
        return {name: float(value) for name, value in found.items() if value is not None}


def _sides(name: str, measured: Measured | None) -> dict[str, float | None]:
    own = measured or Measured(None, None, None)
    return {name: own.value, f"{name}_low": own.low, f"{name}_high": own.high}


def show_measured(measured: Measured, sign: str = "") -> str:
    """A score with its interval.

    >>> show_measured(Measured(0.5, 0.4, 0.6)), show_measured(Measured(-0.1, None, None), "+")
    ('0.500 (0.400 to 0.600)', '-0.100')
    """
    if measured.value is None:
        return "–"
    text = f"{measured.value:{sign}.3f}"
    return text if measured.low is None else f"{text} ({measured.low:{sign}.3f} to {measured.high:{sign}.3f})"


def _row(name: str, values: Sequence[Measured], width: int, sign: str) -> str:
    return (f"{name:<{width}}" + "".join(f"{show_measured(value, sign):<26}" for value in values)).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def comparison_csv(comparison: Comparison) -> bytes:
    """One row a system: what it is, what it took, every score with its interval and difference."""
    rows = []
    for one in comparison.systems:
        row: dict[str, Any] = {"system": one.name, "run": one.run, "images": comparison.images}
        row |= {key: one.about.get(key, "") for key in ("model", "model_digest", "manifest_digest", "split")}
        row |= {key: one.cost.get(key) for key in (*COSTS, *_WHERE)}
        for key, score in one.scores.items():
            row |= _sides(key, score.own) | _sides(f"{key}_difference", score.difference)
        rows.append({key: "" if value is None else value for key, value in row.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def comparison_json(comparison: Comparison) -> bytes:
    """`Comparison.as_json` as a file."""
    return (json.dumps(comparison.as_json(), indent=2, allow_nan=False) + "\n").encode()
