"""A volume larger than memory on its way to the network and back: boxes of the prepared one, slabs of the answer.

Slabs are planes that follow each other along Z; what is held is those that the next box or plane needs.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, Protocol

import numpy as np

from pipeline.model.volumes import Sides, VolumePreparation, planes_needed, resample_planes
from pipeline.types import Array, Pixels, Window

AT_ONCE = 8_000_000  # values of an answer that are looked at together


class Prepared(Protocol):
    """A prepared volume of sides `shape` (Z, Y, X), on the strides' grid."""

    shape: Sides

    def box(self, window: Window) -> Pixels:
        """Values `(C, z, y, x)` float32; the first plane asked for never goes back."""
        ...


class HeldVolume:
    """One that is in memory already, `(C, Z, Y, X)` float32."""

    def __init__(self, prepared: Pixels) -> None:
        self._prepared, self.shape = prepared, tuple(prepared.shape[1:])

    def box(self, window: Window) -> Pixels:
        return self._prepared[(slice(None), *window.slices)]


def _mirrored(start: int, stop: int, side: int) -> Array:
    """Places [start, stop) of an axis of this length that goes on mirrored at its far end.

    >>> _mirrored(2, 7, 4).tolist()
    [2, 3, 3, 2, 1]
    """
    places = np.arange(start, stop) % (2 * side)
    return np.minimum(places, 2 * side - 1 - places)


class VolumeGrid:
    """What `preparation.apply` makes of `voxels` `(C, Z, Y, X)`, box by box: the same values, within 1e-5 where it
    resamples.
    """

    def __init__(self, voxels: Array, preparation: VolumePreparation) -> None:
        self.preparation, self._voxels = preparation, voxels
        self.shape = preparation.padded
        self._resampled = preparation.shape != preparation.original
        self._top = 0
        self._held: Pixels = np.empty((len(voxels), 0, *preparation.shape[1:]), np.float32)

    def box(self, window: Window) -> Pixels:
        sides = self.preparation.shape
        z, y, x = (_mirrored(a, b, n) for a, b, n in zip(window.start, window.stop, sides, strict=True))
        first, last = int(z.min()), int(z.max()) + 1
        places: tuple[Any, ...] = (slice(None), *np.ix_(z - first, y, x))
        picked = np.ascontiguousarray(self._planes(first, last)[places])
        return picked if self._resampled else self.preparation.normalise(picked)

    def _planes(self, first: int, last: int) -> Array:
        """Planes [first, last) without padding: the file's values, or resampled ones, kept for the next box."""
        if not self._resampled:
            return self._voxels[:, first:last]
        depth, bottom = self.preparation.shape[0], self._top + self._held.shape[1]
        mirrored = 2 * depth - self.shape[0]  # the first plane that is seen again beyond the end
        top = max(self._top, min(first, mirrored))
        parts = [self._held[:, top - self._top :]]
        if last > bottom:
            parts.extend(self._resample(max(top, bottom), last))
        self._held, self._top = np.concatenate(parts, axis=1), top
        return self._held[:, first - top : last - top]

    def _resample(self, first: int, last: int) -> Iterator[Pixels]:
        """Planes [first, last), made of few of the file's at a time."""
        given, wanted = self.preparation.original, self.preparation.shape
        step = max(1, AT_ONCE * wanted[0] // prod(given))
        for start in range(first, last, step):
            stop = min(last, start + step)
            top, bottom = planes_needed(given, wanted, start, stop)
            values = self.preparation.normalise(self._voxels[:, top:bottom])
            yield resample_planes(values, top, given, wanted, start, stop)


def undo_slabs(slabs: Iterable[Pixels], preparation: VolumePreparation) -> Iterator[Pixels]:
    """Slabs `(K, z, y, x)` of the network's grid, one after the other, to slabs `(K, Z, Y, X)` of the file's.

    Together they are what `preparation.undo` gives, within 1e-5 where it resamples; a slab has at most `AT_ONCE` values
    or one plane.
    """
    given, wanted = preparation.shape, preparation.original
    most = AT_ONCE // prod(wanted[1:])
    held, top, done = np.empty((0, 0, *given[1:]), np.float32), 0, 0
    for slab in slabs:
        own = slab[:, : given[0] - top - held.shape[1], : given[1], : given[2]]
        held = np.concatenate([held, own], axis=1) if held.shape[1] else own
        del slab, own  # `held` has them, and lets go of them before the next one is made
        while done < wanted[0]:
            last = min(wanted[0], done + max(1, most // len(held)))
            first, bottom = planes_needed(given, wanted, done, last)
            if bottom > top + held.shape[1]:
                break
            held, top = held[:, first - top :], first
            yield resample_planes(held[:, : bottom - top], top, given, wanted, done, last)
            done = last
        rest = planes_needed(given, wanted, done, done + 1)[0] if done < wanted[0] else given[0]
        rest = min(rest, top + held.shape[1])
        held, top = held[:, rest - top :].copy(), rest
