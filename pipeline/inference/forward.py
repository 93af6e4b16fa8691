"""From raw tiles to probabilities, as one module: what every engine runs, in whichever way."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import unet
from pipeline.inference.cores import ALL_CORE, Frame
from pipeline.model.prepare import Preparation, distinct, for_all
from pipeline.model.targets import activate
from pipeline.types import Array, Pixels

LOWEST, HIGHEST = -0.5, 1.5  # what `Preparation.normalise` cuts values to
_AS_THEY_ARE = (np.uint8, np.uint16, np.float32)


class Forward(nn.Module):
    """`(N, C, y, x)` of any dtype, with `(1, C, 1, 1)` float32 offset and scale, to `(N, K, y, x)` float32 in [0, 1].

    The network computes in `dtype`; values before and logits after it are float32. With a frame (unet/trimming.py) the
    answer is that of the core, computed as such by a network that `trims`.
    """

    def __init__(
        self, network: nn.Module, target: object, dtype: torch.dtype = torch.float32, *, trims: bool = False
    ) -> None:
        super().__init__()
        self.network, self.target, self.dtype, self.trims = network.to(dtype), target, dtype, trims

    def forward(self, tiles: Tensor, offset: Tensor, scale: Tensor, frame: Tensor | None = None) -> Tensor:
        values = torch.clamp((tiles.to(torch.float32) - offset) * scale, LOWEST, HIGHEST).to(self.dtype)
        logits = self.network(values, frame) if self.trims else unet.trim(self.network(values), frame, 1, 0)
        # in one piece, as torch takes another sigmoid, with other last digits, for what lies scattered
        return activate(logits.to(torch.float32).contiguous(), self.target)  # type: ignore[arg-type]


class Raw(NamedTuple):
    """A tile `(C, y, x)` in memory of its own, and how its values are normalised: `(C, 1, 1)` float32 each.

    `frame` `(4,)` int64 is what of it lies around its core.
    """

    tile: Array
    offset: Pixels
    scale: Pixels
    frame: NDArray[np.int64]


def precision_of(engine: object) -> str:
    """What an engine's network computes in: float32 where it does not say."""
    return str(getattr(engine, "precision", "float32"))


def identity(channels: int, shape: tuple[int, ...]) -> Preparation:
    """The preparation of values that are prepared already; `shape` (y, x) is not looked at by engines."""
    sides = (int(shape[0]), int(shape[1]))
    return Preparation((0.0,) * channels, (1.0,) * channels, sides, sides, 1)


def raw_tile(tile: Array, preparation: Preparation, frame: Frame = ALL_CORE) -> Raw:
    """What `Forward` takes. Other dtypes than uint8, uint16 and float32 are converted, as `normalise` does.

    Where a channel is constant all over the image its values come from the others, which is done here; and here one
    plane that stands for all channels becomes as many.
    """
    if 0.0 in preparation.scale:
        tile, preparation = preparation.normalise(tile), identity(len(tile), tile.shape[1:])
    if tile.dtype not in _AS_THEY_ARE:
        tile = tile.astype(np.float32)
    across = (slice(None), *(None,) * (tile.ndim - 1))
    offset, scale = (np.asarray(v, np.float32)[across] for v in (preparation.offset, preparation.scale))
    return Raw(np.require(tile, requirements=["C", "W"]), offset, scale, np.asarray(frame, np.int64))


def on_grid(pixels: Array, preparation: Preparation) -> tuple[Array, Preparation]:
    """An image `(C, Y, X)` on the network's grid, sides multiples of the stride, and how its values are normalised.

    Without resizing these are the file's own values, mirrored at the far edges as `Preparation.apply` does it.
    """
    if preparation.shape != preparation.original:
        prepared = preparation.apply(pixels)
        return prepared, identity(len(prepared), prepared.shape[1:])
    missing = [(0, -side % preparation.stride) for side in preparation.shape]
    padded = pixels
    if any(after for _, after in missing):
        padded = for_all(len(pixels), np.pad(distinct(pixels), [(0, 0), *missing], mode="symmetric"))
    return padded, replace(preparation, shape=(padded.shape[1], padded.shape[2]))
