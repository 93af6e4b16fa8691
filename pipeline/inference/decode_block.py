"""One block of an image larger than memory: its probabilities decoded, its own objects picked out and measured.

Objects are told apart on the finer of the two grids, the file's or the network's, as for small images; what leaves here
lies on the file's grid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.blocks import SIZES, Block, Sizes
from pipeline.inference.planes import PlaneStore
from pipeline.inference.resampling import axis_weights, resample
from pipeline.inference.stitch import Owned
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation
from pipeline.model.targets import Thresholds, decode, scale_areas
from pipeline.scoring.confidence import confidence
from pipeline.scoring.measure import measure
from pipeline.types import Array, Geometry, ImageSource, Labels, Pixels, Window

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DecodedBlock:
    """A block's own objects, one row each in `objects`, positions in the whole image; labels are 1..n until stitched.

    `pixels` `(C, y, x)` is the core as the file has it. `cut` objects are larger than the widest margin: they end at
    the core's edge.
    """

    owned: Owned
    objects: "pd.DataFrame"
    pixels: Array
    cut: int


@dataclass(frozen=True)
class Decoder:
    """What decoding a block needs to know of the image, the model, and the probabilities on disk."""

    store: PlaneStore
    source: ImageSource
    model: TrainedModel
    preparation: Preparation
    sizes: Sizes = SIZES

    @property
    def shape(self) -> tuple[int, int]:
        """Of the grid that objects are told apart on: the finer one."""
        prepared, original = self.preparation.shape, self.preparation.original
        return prepared if prepared[0] * prepared[1] > original[0] * original[1] else original

    def core(self, block: Block) -> Window:
        """The block's core on the file's grid."""
        return self._on_file(block.core)

    def decode(self, block: Block, wide: bool = False) -> DecodedBlock:
        """Decode a block whose probabilities, `widest` px around its core, are on disk."""
        region = block.region(self.sizes.widest if wide else self.sizes.margin)
        planes = self._planes(region)
        labels = decode(planes, self.model.record.target, self._thresholds)
        sure = confidence(labels, planes, self.model.record.target).objects
        mine, cut = choose_owned(labels, region, block)
        if cut.size and not wide:
            return self.decode(block, wide=True)
        clip_to_core(labels, cut, region, block.core)
        keep = np.unique(np.concatenate([mine, cut]))
        return self._on_the_file(block, region, labels, keep, sure[keep - 1], int(cut.size))

    @property
    def _thresholds(self) -> Thresholds:
        shrink = float(np.prod(self.shape)) / float(np.prod(self.preparation.shape))
        return scale_areas(self.model.thresholds, shrink)

    def _planes(self, region: Window) -> Pixels:
        """Probabilities `(K, y, x)` of a region of the finer grid."""
        prepared = self.preparation.shape
        if self.shape == prepared:
            return self.store.read(region).astype(np.float32) / np.float32(255)
        rows, top, bottom = axis_weights(prepared[0], self.shape[0], region.start[0], region.stop[0])
        columns, left, right = axis_weights(prepared[1], self.shape[1], region.start[1], region.stop[1])
        return resample(self.store.read(Window((top, left), (bottom, right))), rows, columns) / np.float32(255)

    def _on_the_file(
        self, block: Block, region: Window, labels: Labels, keep: NDArray[np.int64], sure: Array, cut: int
    ) -> DecodedBlock:
        """Keep objects `keep` alone, bring them to the file's grid, measure them."""
        table = np.zeros(int(labels.max(initial=0)) + 1, np.uint32)
        table[keep] = np.arange(1, keep.size + 1)
        own, window, core = table[labels], self._on_file(region), self._on_file(block.core)
        if self.shape != self.preparation.original:
            y, x = (self._positions(axis)[s] - region.start[axis] for axis, s in enumerate(window.slices))
            own = own[y[:, None], x[None, :]]
            present = np.unique(own[own > 0]).astype(np.int64)  # an object of less than a pixel may be gone
            table = np.zeros(keep.size + 1, np.uint32)
            table[present] = np.arange(1, present.size + 1)
            own, sure = table[own], sure[present - 1]
        image = self.source.read(window)
        objects = shift(measure(own, image, sure), window, image.geometry)
        y, x = (slice(a - o, b - o) for a, b, o in zip(core.start, core.stop, window.start, strict=True))
        owned = Owned(block.row, block.column, core, window, own, len(objects))
        return DecodedBlock(owned, objects, image.pixels[:, y, x].copy(), cut)

    def _positions(self, axis: int) -> NDArray[np.int64]:
        """For every row (column) of the file, the row (column) of the finer grid its centre lies in."""
        given, wanted = self.shape[axis], self.preparation.original[axis]
        return ((np.arange(wanted) + 0.5) * (given / wanted)).astype(np.int64)

    def _on_file(self, window: Window) -> Window:
        """The pixels of the file whose centres lie in a window of the finer grid."""
        if self.shape == self.preparation.original:
            return window
        edges = [
            np.searchsorted(self._positions(axis), (window.start[axis], window.stop[axis])).tolist() for axis in (0, 1)
        ]
        return Window((edges[0][0], edges[1][0]), (edges[0][1], edges[1][1]))


def choose_owned(labels: Labels, region: Window, block: Block) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the objects that begin (first pixel in raster order) in the block's core; ids of those that are cut.

    Cut is what reaches into the core and to an edge of the region that is not the image's: larger than the margin.
    """
    count = int(labels.max(initial=0))
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    flat = labels.ravel()
    first = np.zeros(count + 1, np.int64)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # of many assignments the last one stays
    y, x = np.divmod(first, labels.shape[1])
    top, left = (c - r for c, r in zip(block.core.start, region.start, strict=True))
    bottom, right = (c - r for c, r in zip(block.core.stop, region.start, strict=True))
    inside = np.zeros(count + 1, bool)
    inside[labels[top:bottom, left:right].ravel()] = True
    open_ended = np.zeros(count + 1, bool)
    for axis, lines in enumerate((labels, labels.T)):
        if region.start[axis] > 0:
            open_ended[lines[0]] = True
        if region.stop[axis] < block.shape[axis]:
            open_ended[lines[-1]] = True
    begins = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    begins[0] = inside[0] = False
    cut = inside & open_ended
    return np.flatnonzero(begins & ~cut), np.flatnonzero(cut)


def clip_to_core(labels: Labels, cut: NDArray[np.int64], region: Window, core: Window) -> None:
    """Take away, in place, what cut objects have outside the core: the neighbours keep that part as theirs."""
    if not cut.size:
        return
    chosen = np.zeros(int(labels.max()) + 1, bool)
    chosen[cut] = True
    outside = np.ones(labels.shape, bool)
    y, x = (slice(a - o, b - o) for a, b, o in zip(core.start, core.stop, region.start, strict=True))
    outside[y, x] = False
    labels[outside & chosen[labels]] = 0


def shift(objects: "pd.DataFrame", window: Window, geometry: Geometry) -> "pd.DataFrame":
    """Positions of objects measured in a window, in the whole image."""
    moved = objects.copy()
    for axis, name in enumerate(("y", "x")):
        offset = window.start[axis]
        moved[f"centroid_{name}_px"] += offset
        if geometry.unit != "px":
            moved[f"centroid_{name}_{geometry.unit}"] += offset * geometry.spacing[-2:][axis]
    for axis, sides in enumerate((("top", "bottom"), ("left", "right"))):
        for side in sides:
            moved[f"bbox_{side}_px"] += window.start[axis]
    return moved
