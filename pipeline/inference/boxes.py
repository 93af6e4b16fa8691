"""Where boxes of a volume lie, and how large they may be. Integers only: no voxels, no network."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from pipeline.inference.windows import Tile
from pipeline.types import Window

WHOLE = 4_000_000  # voxels up to which a volume goes through in one piece, and that a box is held to where it can be
Sides = tuple[int, ...]


def plan_boxes(shape: Sides, core: Sides, halos: Sides, strides: Sides, within: Window | None = None) -> Iterator[Tile]:
    """Boxes over `shape`, or over what is `within` it, with a core, halo and stride for each axis; every voxel of that
    lies in exactly one core.

    >>> [(t.read.stop, t.core.start) for t in plan_boxes((8, 16), (8, 8), (4, 8), (4, 8))]
    [((8, 16), (0, 0)), ((8, 16), (0, 8))]
    """
    steps = tuple(max(stride, side // stride * stride) for side, stride in zip(core, strides, strict=True))
    whole = within or Window((0,) * len(shape), shape)
    for start in product(*map(range, whole.start, whole.stop, steps)):
        stop = tuple(min(end, a + step) for end, a, step in zip(whole.stop, start, steps, strict=True))
        first = tuple(max(0, a - halo) for a, halo in zip(start, halos, strict=True))
        last = tuple(min(side, b + halo) for side, b, halo in zip(shape, stop, halos, strict=True))
        yield Tile(Window(first, last), Window(start, stop))


def choose_core(shape: Sides, halos: Sides, strides: Sides, most: int = WHOLE) -> Sides:
    """The largest core whose box holds at most `most` voxels: the volume itself, its longest sides halved in turn.

    >>> choose_core((512, 512, 512), (48, 48, 48), (8, 8, 8))
    (32, 64, 64)
    """
    core = list(shape)
    while box_of(shape, core, halos) > most:
        axis = max(range(len(core)), key=lambda k: core[k] / strides[k])
        if core[axis] <= strides[axis]:
            break
        core[axis] = max(strides[axis], -(-core[axis] // 2 // strides[axis]) * strides[axis])
    return tuple(core)


def box_of(shape: Sides, core: Sequence[int], halos: Sides) -> int:
    """Voxels of a core's box at most."""
    return prod(min(side, a + 2 * halo) for side, a, halo in zip(shape, core, halos, strict=True))


def moved(window: Window, origin: Sides) -> Window:
    """The window as seen from there."""
    start, stop = (tuple(a - b for a, b in zip(end, origin, strict=True)) for end in (window.start, window.stop))
    return Window(start, stop)
