"""maskline's full audit against the notebook way of reading the same masks; prints one ratio, from one run.

    python bench/ingest.py [--data FOLDER] [--every N] [--repeats N]

Ours: `ingest` of a Data Science Bowl folder with nothing in the cache: every image and mask read and audited, instances
merged at full size, duplicates looked for, splits drawn. The notebooks': skimage's imread of the image and of each
mask, each resized to 128 x 128 with anti-aliasing, `np.maximum`. Both in one process, interleaved, on the same files.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.config import IngestConfig
from pipeline.data.ingest import ingest
from pipeline.data.layouts import discover_cases
from pipeline.types import Case

SIDE = 128


def notebook_way(cases: tuple[Case, ...]) -> None:
    """What the published notebooks do: read, resize, maximum; no audit."""
    from skimage.io import imread
    from skimage.transform import resize

    images = np.zeros((len(cases), SIDE, SIDE, 3), np.uint8)
    merged = np.zeros((len(cases), SIDE, SIDE, 1), bool)
    for number, case in enumerate(cases):
        image = imread(case.image)[:, :, :3]
        images[number] = resize(image, (SIDE, SIDE), mode="constant", preserve_range=True, anti_aliasing=True)
        mask = np.zeros((SIDE, SIDE, 1), bool)
        for path in case.masks:
            one = imread(path)
            one = np.expand_dims(
                resize(one, (SIDE, SIDE), mode="constant", preserve_range=True, anti_aliasing=True), axis=-1
            )
            mask = np.maximum(mask, one)
        merged[number] = mask


def our_way(folder: Path, home: Path) -> None:
    """A cold ingest: a cache folder of its own, empty."""
    with tempfile.TemporaryDirectory(dir=home) as cache:
        answer = ingest(IngestConfig(folder=folder, manifest=home / "manifest.csv", cache=Path(cache)))
    if answer.warm:
        raise SystemExit("the cache was not empty")


def sample(data: Path, every: int, home: Path) -> Path:
    """A folder of links to every n-th case, so that both read the same files."""
    folder = home / "sample"
    folder.mkdir()
    for case in sorted(path for path in data.iterdir() if path.is_dir())[::every]:
        (folder / case.name).symlink_to(case, target_is_directory=True)
    return folder


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    data = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "dsb2018" / "stage1_train"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=data, help="a Data Science Bowl folder of ID/images, ID/masks")
    parser.add_argument("--every", type=int, default=8, help="take every n-th case (1: all of them)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        folder = sample(arguments.data.absolute(), arguments.every, home)
        _, cases = discover_cases(folder)
        print(f"{len(cases)} images, {sum(len(case.masks) for case in cases)} masks, {os.cpu_count()} cores")
        our_way(folder, home)  # imports and the page cache are warm for both
        notebook_way(cases[:2])
        ratios = []
        for repeat in range(1, arguments.repeats + 1):
            ours, theirs = timed(lambda: our_way(folder, home)), timed(lambda: notebook_way(cases))
            ratios.append(theirs / ours)
            print(f"{repeat}: notebook {theirs:.2f} s, maskline {ours:.2f} s, {ratios[-1]:.1f}x")
        began = time.perf_counter()
        cache = home / "cache"
        for _ in range(2):
            answer = ingest(IngestConfig(folder=folder, manifest=home / "manifest.csv", cache=cache))
        print(f"warm start: {answer.seconds:.3f} s ({time.perf_counter() - began:.2f} s with filling the cache)")
    print(f"ingest: {statistics.median(ratios):.1f}x over the notebook way (range {min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
