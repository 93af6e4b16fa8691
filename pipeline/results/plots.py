"""Small plots as inline SVG: they take the page's colours, say their numbers on hover and have a name for readers."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 38


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span [low, high], about so many of them.

    >>> ticks(0, 97)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    span = high - low if high > low else max(abs(high), 1.0)
    raw = span / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first = math.floor(low / step)
    return [round((first + i) * step, 12) for i in range(math.ceil(max(high, low + step) / step) - first + 1)]


def number(value: float) -> str:
    """A number for people: thousands parted, three figures for what is small, a dash for what is not there.

    >>> number(12345.0), number(12.345), number(0.01234), number(math.nan)
    ('12,345', '12.3', '0.0123', '–')
    """
    if not math.isfinite(value):
        return "–"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _frame(title: str, label: str, xs: Sequence[float], ys: Sequence[float], marks: str) -> str:
    """A plot between the first and last of its ticks; `marks` are drawn by the caller in those coordinates."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    lines = [
        f'<line x1="{LEFT}" x2="{right}" y1="{_y(y, ys):.1f}" y2="{_y(y, ys):.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{_y(y, ys) + 4:.1f}" text-anchor="end">{number(y)}</text>'
        for y in ys
    ]
    feet = [f'<text x="{_x(x, xs):.1f}" y="{bottom + 15}" text-anchor="middle">{number(x)}</text>' for x in xs]
    name = (
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle" class="label">{escape(label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" class="plot">'
        f"{''.join(lines)}{marks}{''.join(feet)}{name}</svg>"
    )


def _x(value: float, xs: Sequence[float]) -> float:
    return LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ys: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)


def histogram(values: NDArray[np.float64], title: str, label: str, bins: int = 28) -> str:
    """How often which value comes; what lies above the 99.5th percentile stands in the last bar. "" without values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    xs = ticks(float(finite.min()), float(np.percentile(finite, 99.5)))
    if np.array_equal(finite, np.round(finite)):
        bins = min(bins, max(1, round(xs[-1] - xs[0])))
    counts, edges = np.histogram(np.clip(finite, xs[0], xs[-1]), bins=bins, range=(xs[0], xs[-1]))
    ys = ticks(0, float(counts.max()), 4)
    bars = [
        f'<rect x="{_x(a, xs) + 0.5:.1f}" width="{max(0.5, _x(b, xs) - _x(a, xs) - 1):.1f}" y="{_y(n, ys):.1f}" '
        f'height="{_y(0, ys) - _y(n, ys):.1f}" class="bar" rx="1">'
        f"<title>{number(a)} to {number(b)}: {n:,}</title></rect>"
        for n, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if n
    ]
    said = f"{title}: {finite.size:,} values, median {number(float(np.median(finite)))}"
    return _frame(said, label, xs, ys, "".join(bars))


def dots(values: NDArray[np.float64], marked: NDArray[np.bool_], names: Sequence[str], title: str, label: str) -> str:
    """One dot a value, in order, the marked standing out; of more than 2,000 every n-th and all marked. "" if none."""
    keep = np.isfinite(values) & (marked | (np.arange(values.size) % max(1, math.ceil(values.size / 2000)) == 0))
    if not keep.any():
        return ""
    xs = ticks(1, float(max(values.size, 2)))
    xs[0] = min(1.0, xs[0])
    ys = ticks(0, float(values[keep].max()), 4)
    points = [
        f'<circle cx="{_x(i + 1, xs):.1f}" cy="{_y(values[i], ys):.1f}" r="{3.4 if marked[i] else 2.2}" '
        f'class="{"dot flagged" if marked[i] else "dot"}">'
        f"<title>{escape(names[i])}: {number(values[i])}</title></circle>"
        for i in sorted(np.flatnonzero(keep).tolist(), key=lambda i: bool(marked[i]))
    ]
    return _frame(f"{title}: {values.size:,} images, {int(marked.sum()):,} marked", label, xs, ys, "".join(points))
