"""An image as the network takes it, band by band: channels chosen, on the network's grid, padded to its stride.

Rows come from the file once; what the next band needs again (the halo) is kept, of a grey image in one plane.
"""

import numpy as np

from pipeline.inference.resampling import axis_weights, resample
from pipeline.model.prepare import Preparation, distinct, for_all, share_channels
from pipeline.types import Array, ImageSource, Window

_AT_ONCE = 1024  # rows of the file, about, that are resampled together


class ModelGrid:
    """The rows of `source` (2-D) on the grid of `preparation`, in the file's dtype; float32 where it is resampled."""

    def __init__(self, source: ImageSource, channels: int, channel: int | None, preparation: Preparation) -> None:
        self.source, self.channels, self.channel, self.preparation = source, channels, channel, preparation
        height, width = (side + -side % preparation.stride for side in preparation.shape)
        self.shape: tuple[int, int] = (height, width)
        self.top = self.bottom = 0  # rows that are held
        self._held: Array = np.empty((channels, 0, width))

    def hold(self, top: int, bottom: int) -> None:
        """Have rows [top, bottom) at hand, and let go of those before; `top` never goes back."""
        first, last = max(top, self.bottom), min(bottom, self.preparation.shape[0])
        kept = self._held[:, max(0, top - self.top) :]
        parts = [kept] if top < self.bottom else []
        if first < last:
            parts.append(self._rows(first, last))
        held = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        missing = bottom - max(last, self.bottom)
        if missing > 0:  # below the image: mirrored, as `Preparation.apply` does
            held = np.pad(held, ((0, 0), (0, missing), (0, 0)), mode="symmetric")
        self._held, self.top, self.bottom = held, top, max(bottom, self.bottom)

    def window(self, window: Window) -> Array:
        """`(C, y, x)` of rows that are held."""
        y, x = window.slices
        return for_all(self.channels, self._held[:, y.start - self.top : y.stop - self.top, x])

    def alone(self, window: Window) -> Array:
        """`(C, y, x)` of a window by itself: only its part of the file is read, and rows that are held stay so."""
        prepared, original = self.preparation.shape, self.preparation.original
        (top, left), (bottom, right) = window.start, (min(a, b) for a, b in zip(window.stop, prepared, strict=True))
        if prepared == original:
            pixels = self._read(top, bottom, left, right)
        else:
            rows, above, below = axis_weights(original[0], prepared[0], top, bottom)
            columns, before, behind = axis_weights(original[1], prepared[1], left, right)
            pixels = resample(self._read(above, below, before, behind), rows, columns)
        missing = ((0, window.stop[0] - bottom), (0, window.stop[1] - right))
        return for_all(self.channels, np.pad(pixels, ((0, 0), *missing), mode="symmetric"))

    def _rows(self, first: int, last: int) -> Array:
        """Rows [first, last) of the grid without its padding below, `(C, rows, X)` with the padding at the right."""
        prepared, original = self.preparation.shape, self.preparation.original
        if prepared == original:
            pixels = self._read(first, last)
        else:
            at_once = max(1, _AT_ONCE * prepared[0] // original[0])
            starts = range(first, last, at_once)
            pixels = np.concatenate([self._resampled(a, min(last, a + at_once)) for a in starts], axis=1)
        return np.pad(pixels, ((0, 0), (0, 0), (0, self.shape[1] - pixels.shape[2])), mode="symmetric")

    def _resampled(self, first: int, last: int) -> Array:
        prepared, original = self.preparation.shape, self.preparation.original
        rows, top, bottom = axis_weights(original[0], prepared[0], first, last)
        columns, left, right = axis_weights(original[1], prepared[1], 0, prepared[1])
        return resample(self._read(top, bottom)[:, :, left:right], rows, columns)

    def _read(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> Array:
        stop = self.preparation.original[1] if right is None else right
        image = self.source.read(Window((top, left), (bottom, stop)))
        return distinct(share_channels(image.pixels, self.channels, self.channel))
