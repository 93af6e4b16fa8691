"""Volumes on their way to the network and back: values, voxel size, the network's grid.

As in `pipeline.model.prepare`, `fit_volume` looks at the whole volume once, and applying is a pure function of voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

from pipeline.config import Divide, PrepareConfig, SpacingSize, ZScore
from pipeline.errors import ImageError
from pipeline.model.halo import probe_halos
from pipeline.types import Array, Geometry, Pixels
from unet import stride_of

_SAMPLE = 8_000_000  # voxels a channel that statistics are taken from
_FARTHEST = 256  # voxels: a network that sees farther has its windows blended
_TO_MM = {"mm": 1.0, "um": 1e-3}
Sides = tuple[int, ...]
Box = tuple[int, int, int]


@dataclass(frozen=True)
class VolumePreparation:
    """How one volume is prepared: value -> (value - offset) * scale a channel, cut to `limits`, resampled to `shape`.

    `shape` and `original` are (Z, Y, X); `strides` is what each side is padded to a multiple of.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    limits: tuple[float, float]
    shape: Sides
    original: Sides
    strides: Sides

    @property
    def padded(self) -> Sides:
        """The sides of the network's grid."""
        return tuple(side + -side % stride for side, stride in zip(self.shape, self.strides, strict=True))

    def is_at_most(self, voxels: int) -> bool:
        """Whether neither the file's grid nor the network's has more voxels."""
        return max(prod(self.original), prod(self.padded)) <= voxels

    def normalise(self, voxels: Array) -> Pixels:
        """Values alone: `(C, Z, Y, X)` of any dtype to float32; a constant channel becomes 0."""
        offset, scale = (np.asarray(v, np.float32)[:, None, None, None] for v in (self.offset, self.scale))
        values: Pixels = np.clip((voxels.astype(np.float32) - offset) * scale, *self.limits)
        return values

    def on_grid(self, voxels: Array) -> Pixels:
        """`(C, Z, Y, X)` of any dtype to `(C, z, y, x)` float32 of the model's voxel size, without padding."""
        return resample(self.normalise(voxels), self.shape)

    def labels_on_grid(self, labels: Array) -> Array:
        """Labels `(Z, Y, X)` on the same grid: the nearest voxel's."""
        return nearest(labels, self.shape)

    def apply(self, voxels: Array) -> Pixels:
        """`(C, Z, Y, X)` of any dtype to what the network takes, padded to the strides by mirroring at the far ends."""
        return pad_far(self.on_grid(voxels), self.strides)

    def undo(self, planes: Pixels) -> Pixels:
        """`(K, z, y, x)` of the network's grid back to `(K, Z, Y, X)` of the file's."""
        z, y, x = self.shape
        return resample(planes[:, :z, :y, :x], self.original)


def pad_far(values: Array, strides: Sequence[int]) -> Array:
    """`(C, Z, Y, X)` mirrored at the far ends, so that each side is a multiple of its stride."""
    missing = [(0, -side % stride) for side, stride in zip(values.shape[1:], strides, strict=True)]
    return np.ascontiguousarray(np.pad(values, ((0, 0), *missing), mode="symmetric"))


def resample(values: Pixels, shape: Sides) -> Pixels:
    """Each channel of `(C, Z, Y, X)` to `shape`, linearly; axes that shrink are smoothed first, so nothing aliases."""
    if values.shape[1:] == shape:
        return values
    ratios = [old / new for old, new in zip(values.shape[1:], shape, strict=True)]
    if max(ratios) > 1:
        values = gaussian_filter(values, (0.0, *_smoothing(values.shape[1:], shape)), mode="nearest")
    resized = F.interpolate(torch.from_numpy(values)[None], size=shape, mode="trilinear", align_corners=False)[0]
    result: Pixels = resized.numpy()
    return result


def _smoothing(given: Sides, wanted: Sides) -> tuple[float, ...]:
    return tuple(max(0.0, (old / new - 1) / 2) for old, new in zip(given, wanted, strict=True))


def _places(given: int, wanted: int, first: int, last: int) -> tuple[Array, Array, Pixels]:
    """For samples [first, last) of `wanted` along an axis: those of `given` before and after each, and the weight of
    the one after.
    """
    step, half = np.float32(given) / np.float32(wanted), np.float32(0.5)
    at = np.maximum(step * (np.arange(first, last, dtype=np.float32) + half) - half, 0)
    before = np.minimum(np.floor(at).astype(np.int64), given - 1)
    weight = (at - before).astype(np.float32)
    return before, np.where(weight > 0, np.minimum(before + 1, given - 1), before), weight


def planes_needed(given: Sides, wanted: Sides, first: int, last: int) -> tuple[int, int]:
    """The planes [top, bottom) of a volume of sides `given` that planes [first, last) of it at `wanted` are made of.

    >>> planes_needed((4, 9, 9), (8, 9, 9), 3, 5), planes_needed((16, 9, 9), (4, 9, 9), 1, 2)
    ((1, 3), (0, 13))
    """
    before, after, _ = _places(given[0], wanted[0], first, last)
    radius = int(4 * _smoothing(given, wanted)[0] + 0.5)  # as far as gaussian_filter reaches
    return max(0, int(before[0]) - radius), min(given[0], int(after[-1]) + 1 + radius)


def resample_planes(values: Pixels, top: int, given: Sides, wanted: Sides, first: int, last: int) -> Pixels:
    """Planes [first, last) of what `resample` makes of a volume of sides `given` at `wanted`.

    `values` `(C, z, Y, X)` are the volume's planes from `top` on, `planes_needed` of them. Equal to
    `resample` but for the rounding of float32 (under 1e-5 for values in [0, 1]).
    """
    if given == wanted:
        return values[:, first - top : last - top]
    sigma = _smoothing(given, wanted)
    if max(sigma) > 0:
        values = gaussian_filter(values, (0.0, *sigma), mode="nearest")
    before, after, weight = _places(given[0], wanted[0], first, last)
    flat = torch.from_numpy(np.ascontiguousarray(values).reshape(1, -1, *given[1:]))
    if given[1:] != wanted[1:]:
        flat = F.interpolate(flat, size=wanted[1:], mode="bilinear", align_corners=False)
    across: Pixels = flat.numpy().reshape(len(values), -1, *wanted[1:])
    later = weight[:, None, None]
    return across[:, before - top] * (1 - later) + across[:, after - top] * later


def nearest(labels: Array, shape: Sides) -> Array:
    """Labels `((Z,) Y, X)` on a grid of `shape`: each voxel takes the label under its centre.

    >>> nearest(np.array([[[1, 2]]]), (1, 1, 4)).tolist()
    [[[1, 1, 2, 2]]]
    """
    if labels.shape == shape:
        return labels
    places = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(labels.shape, shape, strict=True)]
    return np.asarray(labels[np.ix_(*places)])


def _statistics(voxels: Array, config: PrepareConfig) -> tuple[list[float], list[float]]:
    if isinstance(config.normalise, Divide):
        return [0.0] * len(voxels), [1 / config.normalise.by] * len(voxels)
    step = max(1, int(np.ceil((voxels[0].size / _SAMPLE) ** (1 / 3))))
    sample = voxels[:, ::step, ::step, ::step].reshape(len(voxels), -1).astype(np.float64)
    if not np.isfinite(sample).all():
        raise ImageError("voxels", "NaN or infinite values", "finite numbers", "mend the volume or mask those voxels")
    if isinstance(config.normalise, ZScore):
        low, span = sample.mean(axis=1), sample.std(axis=1)
    else:
        low, high = np.percentile(sample, (config.normalise.low, config.normalise.high), axis=1)
        span = high - low
    scale = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)
    return low.tolist(), scale.tolist()


def grid_shape(shape: Sides, geometry: Geometry, config: PrepareConfig) -> Sides:
    """The sides (Z, Y, X) of a volume at the model's voxel size; raises ImageError where its own is not known."""
    if not isinstance(config.size, SpacingSize):
        return shape
    if geometry.unit not in _TO_MM:
        wanted = f"a voxel size, as the model's is {config.size.spacing} {config.size.unit}"
        raise ImageError("volume", "no voxel size", wanted, "save it with one, or give --pixel-size if it is cubic")
    factor = _TO_MM[geometry.unit] / _TO_MM[config.size.unit]
    zooms = [own * factor / wanted for own, wanted in zip(geometry.spacing, config.size.spacing, strict=True)]
    return tuple(max(1, round(side * zoom)) for side, zoom in zip(shape, zooms, strict=True))


def fit_volume(voxels: Array, geometry: Geometry, config: PrepareConfig, strides: Sides) -> VolumePreparation:
    """Draw up the preparation of `(C, Z, Y, X)`, channels already as the model takes them.

    Raises ImageError where the volume is empty, holds NaN, or has no voxel size though the model has one.
    """
    original = tuple(int(side) for side in voxels.shape[1:])
    if 0 in original:
        raise ImageError("volume", f"shape {original}", "at least one voxel", "remove the empty file")
    offset, scale = _statistics(voxels, config)
    limits = (-5.0, 5.0) if isinstance(config.normalise, ZScore) else (-0.5, 1.5)
    shape = grid_shape(original, geometry, config)
    return VolumePreparation(tuple(offset), tuple(scale), limits, shape, original, strides)


def strides_of(network: nn.Module) -> Box:
    """What each side (Z, Y, X) of a volume must be a multiple of."""
    stride = stride_of(network)
    z, y, x = (stride,) * 3 if isinstance(stride, int) else stride
    return z, y, x


def describe_volume_network(network: nn.Module, channels: int) -> tuple[Box, Box | None]:
    """Strides and halos (Z, Y, X) of a network of volumes; no halos where its windows can only be blended."""
    strides = strides_of(network)
    halos = probe_halos(network, channels, strides, limit=_FARTHEST)
    return strides, (halos[0], halos[1], halos[2]) if halos else None
