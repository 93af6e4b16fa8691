"""One block of an image larger than memory: its probabilities decoded, its own objects picked out and measured.

Objects are told apart on the finer of the two grids, the file's or the network's, as for small images; what leaves here
lies on the file's grid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spans import Integers
from pipeline.inference.blocks import SIZES, Block, Sizes
from pipeline.inference.planes import PlaneStore
from pipeline.inference.resampling import axis_weights, resample
from pipeline.inference.stitch import Owned
from pipeline.model.bundle import TrainedModel
from pipeline.model.decode import Bytes, Components, Thresholds, decode_components, scale_areas
from pipeline.model.prepare import Preparation
from pipeline.scoring.confidence import Confidence, ConfidenceSums, Share, confidence
from pipeline.scoring.measure import measure
from pipeline.types import Array, Geometry, ImageSource, Labels, Window

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DecodedBlock:
    """A block's own objects, one row each in `objects`, positions in the whole image; labels are 1..n until stitched.

    `pixels` `(C, y, x)` is the core as the file has it. `cut` of the objects are parts of one that is larger than the
    widest margin: they end at the core's edge.
    """

    owned: Owned
    objects: "pd.DataFrame"
    pixels: Array
    cut: int
    sums: ConfidenceSums


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
        planes, target = self._planes(region), self.model.record.target
        found = decode_components(planes, target, self._thresholds)
        mine, cut = choose_owned(found, region, block, self.sizes)
        if cut.size and not wide:
            return self.decode(block, wide=True)
        keep = np.union1d(mine, cut)
        sure = confidence(found.labels, planes, target, Share(keep, inside(block.core, region)))
        clip_to_core(found.labels, cut, region, block.core)
        return self._on_the_file(block, region, found.labels, keep, sure, int(cut.size))

    @property
    def _thresholds(self) -> Thresholds:
        shrink = float(np.prod(self.shape)) / float(np.prod(self.preparation.shape))
        return scale_areas(self.model.thresholds, shrink)

    def _planes(self, region: Window) -> Bytes:
        """Probabilities `(K, y, x)` of a region of the finer grid, 0..255."""
        prepared = self.preparation.shape
        if self.shape == prepared:
            return self.store.read(region)
        rows, top, bottom = axis_weights(prepared[0], self.shape[0], region.start[0], region.stop[0])
        columns, left, right = axis_weights(prepared[1], self.shape[1], region.start[1], region.stop[1])
        values = resample(self.store.read(Window((top, left), (bottom, right))), rows, columns)
        return np.rint(values).astype(np.uint8)

    def _on_the_file(
        self, block: Block, region: Window, labels: Labels, keep: Integers, sure: Confidence, cut: int
    ) -> DecodedBlock:
        """Keep objects `keep` alone, bring them to the file's grid, measure them."""
        table = np.zeros(int(labels.max(initial=0)) + 1, np.uint32)
        table[keep] = np.arange(1, keep.size + 1)
        own, window, core = table[labels], self._on_file(region), self._on_file(block.core)
        objects_sure = sure.objects[keep - 1]
        if self.shape != self.preparation.original:
            down, across = (self._positions(axis)[s] - region.start[axis] for axis, s in enumerate(window.slices))
            own = own[down[:, None], across[None, :]]
            present = np.unique(own[own > 0]).astype(np.int64)  # an object of less than a pixel may be gone
            table = np.zeros(keep.size + 1, np.uint32)
            table[present] = np.arange(1, present.size + 1)
            own, objects_sure = table[own], objects_sure[present - 1]
        image = self.source.read(window)
        objects = shift(measure(own, image, objects_sure), window, image.geometry)
        y, x = inside(core, window)
        owned = Owned(block.row, block.column, core, window, own, len(objects))
        return DecodedBlock(owned, objects, image.pixels[:, y, x].copy(), cut, sure.sums)

    def _positions(self, axis: int) -> Integers:
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


def inside(window: Window, region: Window) -> tuple[slice, slice]:
    """A window's slices in a region that holds it."""
    y, x = (slice(a - o, b - o) for a, b, o in zip(window.start, window.stop, region.start, strict=True))
    return y, x


def choose_owned(found: Components, region: Window, block: Block, sizes: Sizes) -> tuple[Integers, Integers]:
    """Ids of the objects that begin (first pixel in raster order) in the block's core; ids of those that are cut.

    Cut is an object that not every block whose core it reaches sees whole with the widest margin. Whoever does sees its
    box, which says so; whoever does not sees it end at an edge of the region that is not the image's. So all of these
    blocks agree, and either one of them has the object or each has what lies in its core.
    """
    box, core = found.box + np.tile(region.start, 2), block.core
    y, x = (found.first + region.start).T
    begins = (y >= core.start[0]) & (y < core.stop[0]) & (x >= core.start[1]) & (x < core.stop[1])
    cut = is_too_large(box, block.shape, sizes)
    for axis in (0, 1):
        if region.start[axis] > 0:
            cut |= box[:, axis] == region.start[axis]
        if region.stop[axis] < block.shape[axis]:
            cut |= box[:, axis + 2] == region.stop[axis]
    reaches = np.zeros(len(box) + 1, bool)
    reaches[found.labels[inside(core, region)].ravel()] = True
    cut &= reaches[1:]
    return np.flatnonzero(begins & ~cut) + 1, np.flatnonzero(cut) + 1


def is_too_large(box: Integers, shape: tuple[int, int], sizes: Sizes) -> NDArray[np.bool_]:
    """Whether boxes `(n, 4)` in an image `(Y, X)` leave the widest region of a block whose core they touch.

    No box of at most `widest` px a side does. The first and last of these cores along each axis decide.

    >>> sizes = Sizes(side=128, margin=40, widest=96)
    >>> boxes = np.array([[0, 118, 20, 214], [0, 118, 20, 340], [0, 10, 20, 138], [0, 0, 20, 128]])
    >>> is_too_large(boxes, (400, 400), sizes).tolist()
    [False, True, True, False]
    """
    answer = np.zeros(len(box), bool)
    for axis in (0, 1):
        start, stop = box[:, axis], box[:, axis + 2]
        low = (stop - 1) // sizes.side * sizes.side - sizes.widest
        high = (start // sizes.side + 1) * sizes.side + sizes.widest
        answer |= ((low > 0) & (start <= low)) | ((high < shape[axis]) & (stop >= high))
    return answer


def clip_to_core(labels: Labels, cut: Integers, region: Window, core: Window) -> None:
    """Take away, in place, what cut objects have outside the core: the neighbours keep that part as theirs."""
    if not cut.size:
        return
    chosen = np.zeros(int(labels.max()) + 1, bool)
    chosen[cut] = True
    outside = np.ones(labels.shape, bool)
    outside[inside(core, region)] = False
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
