"""The decoder of a U-Net, computed for a tile's core alone where a frame says what that is.

A tile is its core and a halo: all that the network sees around it. The encoder needs the whole of it, but a decoder of
two 3 x 3 convolutions a level looks `KEPT` px of each level beyond the core and no farther. The rest is left out, a
third of the decoder's work for a core of 1,024 px with a halo of 112 px, and the core's logits stay what they were, bit
for bit.

A frame is an int64 tensor `(top, left, bottom, right)`: how many pixels of the image lie around the core, the halo or,
where the image ends, less. It is a tensor so that one traced graph takes every frame.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

KEPT = 4  # px of a level around its core: two convolutions, one more of the finest skip, and even for the step up

Skip = tuple[Tensor, Callable[[Tensor], Tensor] | None]  # a value, and what it goes through before it is joined


def trims(network: nn.Module) -> bool:
    """Whether a network takes a frame as its second argument, and answers its core alone."""
    return bool(getattr(network, "trims", False))


def takes_frame(network: nn.Module) -> bool:
    """Whether its `forward` has a place for one; one that does not trim (of volumes, say) wants None there."""
    return "frame" in inspect.signature(network.forward).parameters


def trim(x: Tensor, frame: Tensor | None, stride: int, keep: int, have: int | None = None) -> Tensor:
    """`(N, C, y, x)` at a stride without what lies more than `keep` of its px around the core.

    `have` px are there, or all that the frame says. Without a frame everything is core.

    >>> row, frame = torch.arange(8).view(1, 1, 1, 8), torch.tensor([0, 2, 0, 4])
    >>> [trim(row, frame, 1, keep).flatten().tolist() for keep in (0, 1)]
    [[2, 3], [1, 2, 3, 4]]
    >>> trim(row, frame, 1, 0, have=2).flatten().tolist()
    [2, 3, 4, 5]
    """
    if frame is None:
        return x
    around = frame // stride
    beyond = ((around if have is None else around.clamp(max=have)) - keep).clamp(min=0)
    return x[:, :, beyond[0] : x.shape[2] - beyond[2], beyond[1] : x.shape[3] - beyond[3]]


def decode(
    x: Tensor, skips: Sequence[Skip], up: Iterable[nn.Module], merge: Iterable[nn.Module], frame: Tensor | None
) -> list[Tensor]:
    """The levels of a decoder, finest first, each with `KEPT` px around the core at most.

    `skips` are finest first, at strides 1, 2, 4, ..., and `x` is at the next; `up` and `merge` are deepest first: a
    step to twice the size, and two 3 x 3 convolutions of what comes up and its skip, side by side.
    """
    levels: list[Tensor] = []
    strides = [2**level for level in range(len(skips))]
    for stride, (skip, layer), above, join in zip(strides[::-1], skips[::-1], up, merge, strict=True):
        below = trim(x, frame, 2 * stride, KEPT // 2, have=KEPT if levels else None)
        beside = trim(skip, frame, stride, KEPT)
        x = join(torch.cat([beside if layer is None else layer(beside), above(below)], dim=1))
        levels.insert(0, x)
    return levels or [trim(x, frame, 1, KEPT)]
