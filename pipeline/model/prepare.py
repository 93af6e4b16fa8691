"""From an image as the file has it to what the network takes, with the way back.

`fit` looks at the whole image once and draws up a `Preparation`: statistics, size on the model's grid. Applying it is
then a pure function of pixels, so tiles of one image are prepared alike.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.config import Divide, FixedSize, Percentile, PrepareConfig
from pipeline.errors import ImageError
from pipeline.types import Array, Pixels

_SAMPLE = 2_000_000  # pixels a channel that percentiles are taken from
_EMPTY = 0.1  # of an 8-bit RGB image's widest span: less is noise or JPEG's trace of the others (3-7 %; tissue: 15 %)
_TRACE = 3  # grey levels: less is that too, in dim images
_BRIGHT = 127  # grey levels: an 8-bit colour image all of whose channels reach them is a bright field
_PALE = 0.2  # of its brightest: if it spans less, it is stretched no further (empty glass: 1-5 %; tissue: 20 %)


@dataclass(frozen=True)
class Preparation:
    """How one image is prepared: value -> (value - offset) * scale a channel, then resized to `shape` (Y, X)."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    shape: tuple[int, int]
    original: tuple[int, int]
    stride: int

    def normalise(self, pixels: Array) -> Pixels:
        """Values alone: `(C, Y, X)` of any dtype and any window of the image to float32 in [-0.5, 1.5].

        Channels of scale 0 (constant, or next to it, all over the image) become the mean of the others: fluorescence
        saved as one colour of RGB is the grey image it was. An image that is constant in all of them becomes 0. One
        plane that stands for all channels (`share_channels`) stays one.
        """
        if is_shared(pixels) and len({*zip(self.offset, self.scale, strict=True)}) == 1:
            alone = replace(self, offset=self.offset[:1], scale=self.scale[:1])
            return for_all(len(pixels), alone.normalise(pixels[:1]))
        offset, scale = (np.asarray(v, np.float32)[:, None, None] for v in (self.offset, self.scale))
        values: Pixels = np.clip((pixels.astype(np.float32) - offset) * scale, -0.5, 1.5)
        empty = scale[:, 0, 0] == 0
        if empty.any() and not empty.all():
            values[empty] = values[~empty].mean(axis=0)
        return values

    def inverted(self) -> "Preparation":
        """Dark for bright: 1 minus every value that this one makes; constant channels stay as they are.

        >>> plain = Preparation((10.0,), (0.5,), (1, 3), (1, 3), 1)
        >>> values = np.array([[[10, 11, 12]]], np.uint8)
        >>> bool((plain.inverted().normalise(values) == 1 - plain.normalise(values)).all())
        True
        """
        pairs = zip(self.offset, self.scale, strict=True)
        offset = tuple(first + 1 / scale if scale else first for first, scale in pairs)
        return replace(self, offset=offset, scale=tuple(-scale for scale in self.scale))

    def apply(self, pixels: Array) -> Pixels:
        """`(C, Y, X)` of any dtype to `(C, y, x)` float32, padded to the stride by mirroring at the far edges."""
        values = self.normalise(pixels)
        resized = resize_planes(distinct(values), self.shape)
        height, width = (-n % self.stride for n in self.shape)
        padded = np.pad(resized, ((0, 0), (0, height), (0, width)), mode="symmetric")
        return for_all(len(values), np.ascontiguousarray(padded))

    def undo(self, planes: Pixels) -> Pixels:
        """`(K, y, x)` of the network's grid back to `(K, Y, X)` of the file's."""
        return resize_planes(planes[:, : self.shape[0], : self.shape[1]], self.original)


def resize_planes(planes: Pixels, shape: tuple[int, int]) -> Pixels:
    """Each plane of `(K, Y, X)` float32 resized to `shape`; area-averaged when shrinking, linear when growing."""
    if planes.shape[1:] == shape:
        return planes
    shrinking = shape[0] * shape[1] < planes.shape[1] * planes.shape[2]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, shape[::-1], interpolation=method) for plane in planes]).astype(np.float32)


def is_shared(pixels: Array) -> bool:
    """Whether all channels of `(C, ...)` are one plane in memory, as `share_channels` leaves those of a grey image."""
    return len(pixels) > 1 and pixels.strides[0] == 0


def distinct(pixels: Array) -> Array:
    """The planes of `(C, ...)` that differ: one where it is shared, else all."""
    return pixels[:1] if is_shared(pixels) else pixels


def for_all(channels: int, planes: Array) -> Array:
    """What was done to `distinct` planes, as all channels have it: a view of one, not to be written to.

    >>> for_all(3, np.zeros((1, 4, 5))).shape, for_all(3, np.zeros((3, 4, 5))).shape
    ((3, 4, 5), (3, 4, 5))
    """
    return planes if len(planes) == channels else np.broadcast_to(planes, (channels, *planes.shape[1:]))


def share_channels(pixels: Array, channels: int, chosen: int | None = None) -> Array:
    """As `take_channels`; of a grey image all channels are one plane in memory, not to be written to."""
    if chosen is not None and 0 <= chosen < len(pixels):
        pixels, chosen = pixels[chosen : chosen + 1], None
    return for_all(channels, pixels) if len(pixels) == 1 and chosen is None else take_channels(pixels, channels, chosen)


def take_channels(pixels: Array, channels: int, chosen: int | None = None) -> Array:
    """`(C, Y, X)` as `(channels, Y, X)`: a grey image fills all of them, surplus ones are an error, never dropped."""
    available = pixels.shape[0]
    if chosen is not None:
        if not 0 <= chosen < available:
            raise ImageError("--channel", str(chosen), f"0 to {available - 1}", "count channels from 0")
        pixels = pixels[chosen : chosen + 1]
    if pixels.shape[0] == channels:
        return pixels
    if pixels.shape[0] == 1:
        return np.repeat(pixels, channels, axis=0)
    if channels == 1 and pixels.shape[0] == 3:
        grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), pixels.astype(np.float32), 1)
        return np.asarray(grey[None])
    raise ImageError("channels", f"{available} in the image", f"1 or {channels}", "choose one with --channel")


def _statistics(pixels: Array, config: PrepareConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(config.normalise, Divide):
        return (0.0,) * len(pixels), (1 / config.normalise.by,) * len(pixels)
    if not isinstance(config.normalise, Percentile):
        raise ImageError("image", config.normalise.kind, "percentile or divide for 2-D images", "set prepare.normalise")
    step = max(1, int(np.ceil((pixels[0].size / _SAMPLE) ** 0.5)))
    planes = distinct(pixels)
    sample = planes[:, ::step, ::step].reshape(len(planes), -1)
    if not np.isfinite(sample).all():
        raise ImageError("pixels", "NaN or infinite values", "finite numbers", "mend the image or mask those pixels")
    low, high = np.percentile(sample, (config.normalise.low, config.normalise.high), axis=1)
    span = high - low
    if len(planes) == 3 and pixels.dtype == np.uint8:
        widest = span.max()
        bright = high.min() > _BRIGHT and (sample[1:] != sample[0]).any()
        if bright and widest < _PALE * high.max():  # empty glass: its noise, stretched, looks like nuclei
            span[:] = _PALE * high.max()
            low = high - span
        else:
            span[span < max(_EMPTY * widest, min(_TRACE, widest / 3))] = 0
    span[span == 0] = np.inf  # its scale is 0: such a channel says nothing
    times = len(pixels) // len(planes)
    return tuple(low.astype(float).tolist()) * times, tuple((1 / span).astype(float).tolist()) * times


def fit(pixels: Array, config: PrepareConfig, *, stride: int, zoom: float = 1.0) -> Preparation:
    """Draw up the preparation of one image.

    Parameters
    ----------
    pixels : `(C, Y, X)`, channels already as the model takes them (`take_channels`).
    stride : the network's; sides are padded to a multiple of it.
    zoom : model pixels per file pixel along each axis, e.g. 0.5 when nuclei are twice the model's size.

    Raises ImageError where the image is empty or holds NaN.
    """
    original = (int(pixels.shape[1]), int(pixels.shape[2]))
    if 0 in original:
        raise ImageError("image", f"shape {original}", "at least one pixel", "remove the empty file")
    offset, scale = _statistics(pixels, config)
    shape = (max(1, round(original[0] * zoom)), max(1, round(original[1] * zoom)))
    if isinstance(config.size, FixedSize):
        shape = (config.size.height, config.size.width)
    return Preparation(offset, scale, shape, original, stride)
