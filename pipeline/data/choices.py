"""What the caller decides where a file holds more than one image: series, level, time point, what its pages are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.types import Pages


@dataclass(frozen=True)
class Choice:
    """See `pipeline.data.images.open_image`."""

    pages: Pages = "refuse"
    series: str | None = None
    level: int = 0
    time: int | None = None
    max_megapixels: float = 400.0


@dataclass(frozen=True)
class Roles:
    """What each axis beside Y, X and S is: `fixed` ones are taken at an index, one may be Z, the others channels."""

    fixed: Mapping[str, int]
    stack: str | None
    channels: tuple[str, ...]

    def planes(self, axes: str, lengths: Sequence[int]) -> NDArray[np.intp]:
        """Numbers `(C, Z)` of the planes of an image whose outer `axes` have these lengths, the last running fastest.

        >>> Roles({"T": 1}, "Z", ("C",)).planes("TZC", (2, 3, 2))
        array([[ 6,  8, 10],
               [ 7,  9, 11]])
        """
        numbers = np.arange(int(np.prod(lengths, dtype=np.int64))).reshape(tuple(lengths))
        numbers = numbers[tuple(self.fixed.get(axis, slice(None)) for axis in axes)]
        left = [axis for axis in axes if axis not in self.fixed]
        order = [*self.channels, *([self.stack] if self.stack else [])]
        numbers = numbers.transpose([left.index(axis) for axis in order])
        return numbers.reshape(-1, numbers.shape[-1] if self.stack else 1)


def choose_roles(where: str, lengths: Mapping[str, int], choice: Choice, volume: bool = False) -> Roles:
    """The roles of the axes beside Y, X and S, of which `lengths` says how long they are.

    C are channels and Z is a stack, because the file says so (`volume` formats have no pages, so that `pages` never
    makes channels of their Z). T is taken at `choice.time`. The one axis that may be left is what `choice.pages` says.
    Raises ImageError rather than guess.
    """
    several = [axis for axis, length in lengths.items() if length > 1]
    fixed = {axis: 0 for axis, length in lengths.items() if length <= 1}
    open_axes = [axis for axis in several if axis not in "CZ"]
    if choice.time is not None:
        axis = "T" if "T" in lengths else (open_axes[0] if len(open_axes) == 1 else "")
        fixed[axis] = _time(where, lengths.get(axis, 1), choice.time)
        open_axes = [a for a in open_axes if a != axis]
        fixed.pop("", None)
    stack = "Z" if "Z" in several else None
    channels = ("C",) if "C" in several else ()
    if stack and not open_axes and choice.pages == "channels" and not volume:
        return Roles(fixed, None, ("Z", *channels))
    if not open_axes:
        return Roles(fixed, stack, channels)
    if len(open_axes) > 1 or choice.pages == "refuse" or (stack and choice.pages == "stack"):
        raise _undecided(where, open_axes, lengths)
    axis = open_axes[0]
    if choice.pages == "stack":
        return Roles(fixed, axis, channels)
    return Roles(fixed, stack, (axis, *channels))


def _time(where: str, points: int, time: int) -> int:
    if not 0 <= time < points:
        came = f"time point {time}, where there {'are' if points > 1 else 'is'} {points}"
        raise ImageError(where, came, f"0 to {points - 1}", "give another --time, or leave it out")
    return time


def _undecided(where: str, axes: Sequence[str], lengths: Mapping[str, int]) -> ImageError:
    named = " and ".join(f"{lengths[a]} {'time points' if a == 'T' else 'pages'} (axis {a})" for a in axes)
    wanted = "one page or time point" if len(axes) == 1 else "at most one axis beside channels and slices"
    first = "T" if "T" in axes else axes[0]
    takes = f"--time 0 to {lengths[first] - 1} takes one of them"
    says = "--pages stack or --pages channels says what they all are"
    hint = f"{takes}, {says}" if len(axes) == 1 else f"{takes} of axis {first}; else save one position a file"
    if len(axes) == 1 and "Z" in lengths and lengths["Z"] > 1:
        hint = f"{takes}, --pages channels takes them all as channels"
    return ImageError(where, named, wanted, hint)


def pick_series(where: str, names: Sequence[str], shapes: Sequence[Sequence[int]], choice: Choice) -> int:
    """Which of the images of a file `choice.series` names, by number or name; raises ImageError where it is not plain.

    >>> pick_series("a.lif", ["left", "right"], [(4, 5), (4, 5)], Choice(series="right"))
    1
    """
    wanted = choice.series
    if wanted is None and len(names) == 1:
        return 0
    listed = ", ".join(
        f"{i} {n!r} ({' x '.join(map(str, s))})" for i, (n, s) in enumerate(zip(names, shapes, strict=True))
    )
    if wanted is None:
        came = f"{len(names)} images: {listed}"
        raise ImageError(where, came, "one image a file", "--series N or NAME takes one of them")
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    if list(names).count(wanted) != 1:
        raise ImageError(
            where, f"--series {wanted}", f"one of: {listed}", "give the number or the name of one of these"
        )
    return list(names).index(wanted)


def refuse_choice(where: str, choice: Choice) -> None:
    """Raise ImageError where a series or time point is asked of a format that holds one image."""
    pick_series(where, ["0"], [()], choice)
    if choice.time is not None:
        _time(where, 1, choice.time)
