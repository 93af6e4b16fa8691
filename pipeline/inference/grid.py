"""An image as the network takes it, band by band: channels chosen, on the network's grid, padded to its stride.

Rows come from the file once; what the next band needs again (the halo) is kept, of a grey image in one plane. They are
held as they take least: on the grid where the image is reduced, as the file has them where it is magnified.
"""

from collections.abc import Callable

import numpy as np

from pipeline.inference.resampling import axis_weights, resample
from pipeline.model.prepare import Preparation, distinct, for_all, share_channels
from pipeline.types import Array, ImageSource, Window

_AT_ONCE = 1024  # rows of the file, about, that are reduced together


class _Rows:
    """Rows `(C, y, X)` that are held, from `top` on; `make` gives those from one row to another."""

    def __init__(self, make: Callable[[int, int], Array]) -> None:
        self._make, self._held, self.top, self._bottom = make, np.empty((1, 0, 0)), 0, 0

    def hold(self, top: int, bottom: int) -> None:
        """Have rows [top, bottom) at hand, and let go of those before; `top` never goes back."""
        parts = [self._held[:, top - self.top :]] if top < self._bottom else []
        if bottom > max(top, self._bottom):
            parts.append(self._make(max(top, self._bottom), bottom))
        self._held = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self.top, self._bottom = top, max(bottom, self._bottom)

    def part(self, top: int, bottom: int, left: int, right: int) -> Array:
        """`(C, y, x)` of rows that are held."""
        return self._held[:, top - self.top : bottom - self.top, left:right]


class ModelGrid:
    """The rows of `source` (2-D) on the grid of `preparation`, in the file's dtype; float32 where it is resampled.

    `magnified` windows are made anew each, others are parts of what is held.
    """

    def __init__(self, source: ImageSource, channels: int, channel: int | None, preparation: Preparation) -> None:
        self.source, self.channels, self.channel, self.preparation = source, channels, channel, preparation
        height, width = (side + -side % preparation.stride for side in preparation.shape)
        self.shape: tuple[int, int] = (height, width)
        prepared, original = preparation.shape, preparation.original
        self.magnified = prepared != original and min(p - o for p, o in zip(prepared, original, strict=True)) >= 0
        self._rows = _Rows(self._reduced if prepared != original and not self.magnified else self._read)

    def hold(self, top: int, bottom: int) -> None:
        """Have rows [top, bottom) at hand, and let go of those before; `top` never goes back."""
        top, bottom = self._mirrored(top, 0), min(bottom, self.preparation.shape[0])
        if self.magnified:
            _, top, bottom = axis_weights(self.preparation.original[0], self.preparation.shape[0], top, bottom)
        self._rows.hold(top, bottom)

    def window(self, window: Window) -> Array:
        """`(C, y, x)` of rows that are held."""
        if self.magnified:
            return self._resampled(window, self._rows.part)
        return self._padded(self._rows.part(*self._inside(window)), window)

    def alone(self, window: Window) -> Array:
        """`(C, y, x)` of a window by itself: only its part of the file is read, and rows that are held stay so."""
        if self.preparation.shape != self.preparation.original:
            return self._resampled(window, self._read)
        return self._padded(self._read(*self._inside(window)), window)

    def _inside(self, window: Window) -> tuple[int, int, int, int]:
        """What of a window is no padding, or is mirrored there: top, bottom, left, right."""
        (top, left), (bottom, right) = window.start, window.stop
        height, width = self.preparation.shape
        return self._mirrored(top, 0), min(bottom, height), self._mirrored(left, 1), min(right, width)

    def _mirrored(self, start: int, axis: int) -> int:
        """The start of a window, or of what is mirrored at the far end of the axis, if that comes before."""
        side, padded = self.preparation.shape[axis], self.shape[axis]
        return max(0, min(start, 2 * side - padded))

    def _resampled(self, window: Window, part: Callable[[int, int, int, int], Array]) -> Array:
        """A window of the grid made of a part of the file."""
        top, bottom, left, right = self._inside(window)
        (height, width), (rows, columns) = self.preparation.original, self.preparation.shape
        down, above, below = axis_weights(height, rows, top, bottom)
        across, before, behind = axis_weights(width, columns, left, right)
        return self._padded(resample(part(above, below, before, behind), down, across), window)

    def _padded(self, pixels: Array, window: Window) -> Array:
        """Mirrored beyond the image, as `Preparation.apply` does, for all channels."""
        missing = [(0, max(0, b - side)) for b, side in zip(window.stop, self.preparation.shape, strict=True)]
        if any(after for _, after in missing):
            pixels = np.pad(pixels, ((0, 0), *missing), mode="symmetric")
        height, width = (b - a for a, b in zip(window.start, window.stop, strict=True))
        return for_all(self.channels, pixels[:, -height:, -width:])

    def _reduced(self, first: int, last: int) -> Array:
        """Rows [first, last) of the grid, `(C, rows, X)`."""
        (height, width), (rows, columns) = self.preparation.original, self.preparation.shape
        at_once = max(1, _AT_ONCE * rows // height)
        across, left, right = axis_weights(width, columns, 0, columns)
        parts = []
        for start in range(first, last, at_once):
            down, top, bottom = axis_weights(height, rows, start, min(last, start + at_once))
            parts.append(resample(self._read(top, bottom, left, right), down, across))
        return np.concatenate(parts, axis=1)

    def _read(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> Array:
        stop = self.preparation.original[1] if right is None else right
        image = self.source.read(Window((top, left), (bottom, stop)))
        return distinct(share_channels(image.pixels, self.channels, self.channel))
