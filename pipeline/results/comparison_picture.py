"""A picture of systems side by side: a dot and an interval for each score, a bar for what each took."""

import io
from typing import Any

from pipeline.results.comparison import COSTS, Comparison, System

_BLUE, _GREY, _PALE = "#1b5e9c", "#555555", "#9bb8d3"
_SHOWN = ("parameters", "megapixels_per_second", "peak_memory_mb")
_LONGEST = 28


def comparison_picture(comparison: Comparison) -> bytes:
    """A PNG: the scores above, with 95 % intervals and the first system's value as a line; parameters, speed, memory.

    Systems stand in their order from the top down. What is not on record is left empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = comparison.systems
    costs = [key for key in _SHOWN if any(one.cost.get(key) is not None for one in systems)]
    rows, columns = (2 if costs else 1), 3
    figure = Figure(figsize=(13, rows * (1.1 + 0.42 * len(systems)) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, (key, title) in zip(axes[0], comparison.titles.items(), strict=True):
        _scores(axis, comparison, key, title)
    for axis, key in zip(axes[-1] if costs else (), [*costs, *[""] * (columns - len(costs))], strict=False):
        _costs(axis, comparison, key) if key else axis.set_visible(False)
    for row in axes:
        row[0].set_yticks(range(len(systems)), [_short(one.name) for one in systems], fontsize=11)
        row[0].set_ylim(len(systems) - 0.4, -0.6)
    over = f"95 % by {comparison.over}, {comparison.resamples:,} resamples"
    machines = "" if comparison.one_machine else "; speed and memory are of different machines"
    figure.suptitle(f"{comparison.images:,} images, the same for all; {over}{machines}", fontsize=12)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _frame(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=12, loc="left")
    axis.grid(axis="x", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=10)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _scores(axis: Any, comparison: Comparison, key: str, title: str) -> None:
    _frame(axis, title)
    first = comparison.systems[0].scores[key].own.value
    if first is not None:
        axis.axvline(first, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    for place, one in enumerate(comparison.systems):
        own = one.scores[key].own
        if own.value is None:
            continue
        if own.low is not None and own.high is not None:
            axis.plot([own.low, own.high], [place, place], color=_BLUE, linewidth=2.5, solid_capstyle="butt")
        axis.plot([own.value], [place], "o", color=_BLUE, markersize=8)
        clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axis.annotate(
            f"{own.value:.3f}",
            (own.value, place),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            bbox=clear,
        )
    axis.margins(x=0.12)
    axis.xaxis.set_major_locator(_few_ticks())


def _costs(axis: Any, comparison: Comparison, key: str) -> None:
    _frame(axis, COSTS[key])
    for place, one in enumerate(comparison.systems):
        value = one.cost.get(key)
        if value is not None:
            axis.barh(place, value, height=0.45, color=_PALE)
            axis.annotate(_told(one, key), (value, place), (5, 0), textcoords="offset points", va="center", fontsize=10)
    axis.set_xlim(0, 1.3 * max((float(one.cost.get(key) or 0) for one in comparison.systems), default=0) or 1)
    axis.xaxis.set_major_locator(_few_ticks())
    axis.xaxis.set_major_formatter(lambda value, _: _tick(value))


def _tick(value: float) -> str:
    """A tick of a bar, short enough for its neighbours.

    >>> _tick(20_000_000.0), _tick(1500.0), _tick(0.15), _tick(0.0)
    ('20 M', '1,500', '0.15', '0')
    """
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _told(system: System, key: str) -> str:
    value = float(system.cost[key])
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
