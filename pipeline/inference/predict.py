"""From an image to probabilities: by exact tiles where the record gives a halo, blended windows where not."""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.inference.cores import Framed, map_cores
from pipeline.inference.engines import Engine
from pipeline.inference.forward import identity
from pipeline.inference.windows import plan_tiles
from pipeline.model.prepare import Preparation, distinct
from pipeline.types import Array, Pixels

_WHOLE = 1024 * 1024  # pixels up to which an image goes through in one piece
_WINDOW = 256  # of networks that see the whole field
_AT_ONCE = 8  # windows that the engine is given together, for its threads or its batch
_TURNS = tuple((turns, flip) for turns in range(4) for flip in (False, True))


def predict(
    engine: Engine,
    pixels: Array,
    preparation: Preparation | None = None,
    *,
    core: int | None = None,
    tta: bool = False,
) -> Pixels:
    """Probabilities `(K, y, x)` float32 of an image `(C, y, x)` whose sides are multiples of the stride.

    `pixels` are raw values to be normalised as `preparation` says; without one they are prepared already.
    `core` is the side of a tile's core; None takes a small image whole and cuts a large one. The answer is the same.
    `tta` (test-time augmentation) takes the mean over the eight flips and quarter turns, for eight times the work.
    """
    how = preparation or identity(len(pixels), pixels.shape[1:])
    height, width = pixels.shape[1:]
    if engine.halo is None and max(height, width) <= engine.stride:  # one value a channel at the bottom: no statistics
        mirrored = np.pad(pixels, ((0, 0), (0, height), (0, width)), mode="symmetric")
        return predict(engine, mirrored, preparation, core=core, tta=tta)[:, :height, :width]
    whole = core is None and height * width <= _WHOLE
    if not whole and engine.halo is None:
        return _blended(engine, pixels, how, tta)
    side = max(height, width) if whole else core or engine.core
    tiles = list(plan_tiles((height, width), side, engine.halo or 0, engine.stride))
    parts = (Framed(pixels[(slice(None), *tile.read.slices)], tile.frame) for tile in tiles)
    answers = eightfold(engine, parts, how) if tta else map_cores(engine, parts, how)
    if len(tiles) == 1:
        return next(iter(answers))
    answer = np.empty((engine.outputs, height, width), np.float32)
    for tile, found in zip(tiles, answers, strict=True):
        answer[(slice(None), *tile.core.slices)] = found
    return answer


def tile_grid(engine: Engine) -> tuple[int, int]:
    """Halo and stride (px) of tiles whose cores, taken together, are the whole image's answer.

    A network that sees the whole field is asked through windows that overlap by half: what lies in a tile is covered by
    the same windows as in the whole image, if the tile starts where a window does and reaches a window further.
    """
    if engine.halo is not None:
        return engine.halo, engine.stride
    return _WINDOW, math.lcm(_WINDOW // 2, engine.stride)


def predict_tiles(
    engine: Engine, tiles: Iterable[Framed], preparation: Preparation, tta: bool = False
) -> Iterator[Pixels]:
    """Probabilities `(K, y, x)` of the cores of tiles on the `tile_grid`, in order, few of them held at a time."""
    if engine.halo is None:
        return (_blended(engine, tile.pixels, preparation, tta)[(slice(None), *tile.core)] for tile in tiles)
    return eightfold(engine, tiles, preparation) if tta else map_cores(engine, tiles, preparation)


def eightfold(engine: Engine, tiles: Iterable[Framed], preparation: Preparation) -> Iterator[Pixels]:
    """What `map_cores` yields, as the mean over the symmetries of the square.

    Tiles keep to the stride's grid when they are turned, so they stay exact.
    """
    views = (_turn(tile, turns, flip) for tile in tiles for turns, flip in _TURNS)
    total: Pixels | None = None
    for number, answer in enumerate(map_cores(engine, views, preparation)):
        turns, flip = _TURNS[number % len(_TURNS)]
        back = np.rot90(answer[:, :, ::-1] if flip else answer, -turns, (1, 2))
        total = back.copy() if total is None else np.add(total, back, out=total)
        if (number + 1) % len(_TURNS) == 0:
            yield total / np.float32(len(_TURNS))
            total = None


def _turn(tile: Framed, turns: int, flip: bool) -> Framed:
    """Quarter turns against the clock: what was at the right comes to the top."""
    turned = np.rot90(tile.pixels, turns, (1, 2))
    sides = deque(tile.frame)
    sides.rotate(turns)
    top, left, bottom, right = sides
    if flip:
        return Framed(turned[:, :, ::-1], (top, right, bottom, left))
    return Framed(turned, (top, left, bottom, right))


def _blended(engine: Engine, pixels: Array, preparation: Preparation, tta: bool) -> Pixels:
    from monai.inferers.utils import sliding_window_inference  # only models that need blending pay for MONAI

    def window(image: torch.Tensor) -> torch.Tensor:
        parts = eightfold(engine, map(Framed, image.numpy()), plain) if tta else engine.map(iter(image.numpy()), plain)
        return torch.from_numpy(np.stack(list(parts)))

    plain = identity(len(pixels), pixels.shape[1:])
    values = preparation.normalise(pixels)
    planes = torch.from_numpy(np.require(distinct(values), requirements="W"))
    image = planes.expand(len(values), -1, -1)[None]
    answer = sliding_window_inference(image, (_WINDOW, _WINDOW), _AT_ONCE, window, overlap=0.5, mode="gaussian")
    assert isinstance(answer, torch.Tensor)
    found: Pixels = answer[0].numpy()
    return found
