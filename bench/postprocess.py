"""maskline's decoding and measuring against the scikit-image chain, on 2048 x 2048 fields whose truth is known.

    python bench/postprocess.py [--fields dense,sparse] [--repeats N] [--geojson N]

The chain is the one tutorials show: threshold, Euclidean distance transform, peak_local_max, watershed, and
regionprops_table with the columns of `measure`. Both read the channels of a network that sees the truth through blur
and noise; the chain takes the border off the foreground before the distance transform, without which it tells touching
objects apart much worse (AP@.5 of 0.94). Its numbers are those of its best AP@.5 on the very field. Both run on one
thread, interleaved.
`--geojson N` times writing N objects instead, on a label image of some 530 px an object.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.feature import peak_local_max
from skimage.measure import regionprops_table
from skimage.segmentation import watershed

from pipeline.config import SeparatedTarget
from pipeline.data.geojson import write_geojson
from pipeline.data.simulate import simulate_image
from pipeline.model.decode import Thresholds, decode
from pipeline.model.targets import encode
from pipeline.scoring.measure import measure
from pipeline.scoring.metrics import match
from pipeline.types import Array, Geometry, Image, Labels, Pixels

SIDE = 2048
COVER = {"dense": 0.35, "sparse": 0.04}
RULES = Thresholds(foreground=0.5, seed=0.3, border=0.5, minimum_area=30, minimum_seed=6, peak=0.6)
COLUMNS = ("label", "centroid", "bbox", "area", "intensity_mean", "intensity_min", "intensity_max", "perimeter")
SHAPES = ("axis_major_length", "axis_minor_length", "equivalent_diameter_area", "eccentricity", "orientation")
PROPERTIES = (*COLUMNS, *SHAPES, "solidity")


@dataclass(frozen=True)
class Field:
    """An image, the truth, and what a network would say of it: `(3, Y, X)` probabilities."""

    image: Array
    truth: Labels
    probabilities: Pixels


@dataclass(frozen=True)
class Chain:
    """The numbers of the scikit-image chain; `sigma` (px) smooths the distance before its peaks are looked for."""

    threshold: float
    border: float
    sigma: float
    apart: int

    def label(self, probabilities: Pixels) -> Labels:
        mask = probabilities[0] > self.threshold
        inner = probabilities[0] - self.border * probabilities[1] > self.threshold
        distance = distance_transform_edt(inner)
        smooth = cv2.GaussianBlur(distance, (0, 0), self.sigma) if self.sigma else distance
        peaks = peak_local_max(smooth, min_distance=self.apart, labels=inner.astype(int), exclude_border=False)
        markers = np.zeros(mask.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        return np.asarray(watershed(-smooth, markers, mask=mask), np.uint32)

    def run(self, field: Field) -> tuple[Labels, Any]:
        labels = self.label(field.probabilities)
        return labels, regionprops_table(labels, field.image, properties=PROPERTIES)


def ours(field: Field) -> tuple[Labels, Any]:
    labels = decode(field.probabilities, SeparatedTarget(), RULES)
    return labels, measure(labels, Image(field.image[None], Geometry.pixels()))


def make(kind: str, seed: int) -> Field:
    """Nuclei of some 10 px, a third of them in contact, blurred by a pixel, under noise of the grain of a network's."""
    rng = np.random.default_rng(seed)
    image, truth = simulate_image(rng, "fluorescence", (SIDE, SIDE), density=COVER[kind], radius=10.0)
    seen = []
    for channel in encode(truth, SeparatedTarget()):
        noise = cv2.GaussianBlur(rng.standard_normal(channel.shape).astype(np.float32), (0, 0), 2.0)
        seen.append(np.clip(cv2.GaussianBlur(channel, (0, 0), 1.0) + 0.04 * noise / noise.std(), 0, 1))
    return Field(image, truth, np.stack(seen).astype(np.float32))


def tune(field: Field) -> Chain:
    """The chain with the best AP@.5 on this field."""
    choices = product((0.5, 0.6), (0.5, 1.0), (2.0, 3.0, 4.0), (5, 7))
    chains = [Chain(*numbers) for numbers in choices]
    return max(chains, key=lambda chain: match(field.truth, chain.label(field.probabilities)).ap(0.5))


def timed(work: Callable[[], tuple[Labels, Any]]) -> tuple[float, float, Labels]:
    """Wall and CPU seconds, and the labels."""
    wall, cpu = time.perf_counter(), time.process_time()
    labels, _ = work()
    return time.perf_counter() - wall, time.process_time() - cpu, labels


def compare(kind: str, repeats: int) -> str:
    field = make(kind, 0)
    chain = tune(field)
    objects, cover = int(field.truth.max()), float((field.truth > 0).mean())
    print(f"{kind}: {objects} objects, {100 * cover:.0f} % of {SIDE} x {SIDE}; {chain}")
    rivals: tuple[Callable[[], tuple[Labels, Any]], ...] = (lambda: chain.run(field), lambda: ours(field))
    for work in rivals:
        work()
    walls, cpus = [], []
    for repeat in range(1, repeats + 1):
        (wall, cpu, theirs), (own_wall, own_cpu, labels) = map(timed, rivals)
        walls.append(wall / own_wall)
        cpus.append(cpu / own_cpu)
        print(
            f"{repeat}: scikit-image {wall:.2f} s ({cpu:.2f} CPU), "
            f"maskline {own_wall:.3f} s ({own_cpu:.3f} CPU), {walls[-1]:.1f}x"
        )
    a, b = (match(field.truth, found).ap(0.5) for found in (theirs, labels))
    equal = "equal" if abs(a - b) <= 0.002 else "NOT EQUAL"
    print(f"AP@.5 against the truth: scikit-image {a:.4f}, maskline {b:.4f}: {equal} (a difference of {b - a:+.4f})")
    span = f"range {min(walls):.1f}-{max(walls):.1f}"
    return f"{kind} {statistics.median(walls):.1f}x ({span}; CPU {statistics.median(cpus):.1f}x)"


def write_many(count: int) -> None:
    """A label image of that many objects, repeated from one field, to GeoJSON."""
    _, one = simulate_image(np.random.default_rng(0), "fluorescence", (SIDE, SIDE), density=0.35, radius=7.0)
    most = int(one.max())
    side = int(np.ceil(np.sqrt(count / most)))
    labels = np.zeros((side * SIDE, side * SIDE), np.uint32)
    for number in range(side**2):
        y, x = divmod(number, side)
        box = labels[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE]
        kept = one * (one <= max(0, count - number * most))
        np.add(kept, number * most, out=box, where=kept > 0, casting="unsafe")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.geojson"
        wall, cpu = time.perf_counter(), time.process_time()
        write_geojson(path, labels)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = path.stat().st_size / 1e6
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"image {labels.shape}, {labels.nbytes / 2**20:.0f} MiB; file {size:.0f} MB; {more:.0f} MiB more at the peak")
    print(f"GeoJSON of {int(labels.max())} objects: {wall:.1f} s ({cpu:.1f} s CPU)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fields", default="dense,sparse")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--geojson", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.geojson:
        write_many(arguments.geojson)
        return
    ratios = [compare(kind, arguments.repeats) for kind in arguments.fields.split(",")]
    print(f"post-processing over the scikit-image chain: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
