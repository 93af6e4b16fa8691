"""`maskline segment` end to end, and where the time goes: one large OME-TIFF, and a folder of small images.

    python bench/pipeline_run.py [--gigapixels 1] [--images 1000] [--repeats 1] [--folder DIR] [--engine auto]

The large image is put together of real fields where `$MASKLINE_DATA` has them (simulated ones elsewhere), as tiled
deflate TIFF; the small ones are 256 x 256 parts of the same. Each is one run of the command, in a process of its own,
with the model that ships, large and small in turn; stages are what the run itself logged, of the run whose wall time is
the median. Stages of the large image run side by side, each told
by the clock over the threads it has, `predict` as the engine's own work without waiting for tiles: the last line is the
wall time of the run, start and report included, over its slowest stage. Of
small images two are in the works at a time; stages are their sums.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIELD = 256


def real_fields(most: int = 64) -> list[np.ndarray]:
    """RGB fields `(256, 256, 3)` uint8, real where there are any."""
    from pipeline.data.images import open_image
    from pipeline.data.simulate import simulate_image
    from pipeline.types import Window

    folder = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "dsb2018/stage1_train"
    fields = []
    for path in sorted(folder.glob("*/images/*.png"))[: 3 * most]:
        source = open_image(path)
        if source.shape[0] == 3 and min(source.shape[1:]) >= FIELD:
            pixels = source.read(Window((0, 0), (FIELD, FIELD))).pixels
            fields.append(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    if not fields:
        made = (simulate_image(np.random.default_rng(seed), "fluorescence", (FIELD, FIELD)) for seed in range(16))
        fields = [np.repeat(image[..., None] if image.ndim == 2 else image, 3, axis=-1)[..., :3] for image, _ in made]
    return fields[:most]


def make_large(path: Path, fields: list[np.ndarray], gigapixels: float) -> int:
    """A tiled OME-TIFF put together of the fields; returns its pixels."""
    import imagecodecs
    import tifffile

    columns = round((gigapixels * 1e9) ** 0.5 / FIELD)
    packed = [imagecodecs.zlib_encode(field.tobytes(), level=6) for field in fields]
    chosen = np.random.default_rng(0).integers(len(fields), size=columns * columns)
    side = columns * FIELD
    options: dict[str, Any] = {"tile": (FIELD, FIELD), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(
        path,
        (packed[k] for k in chosen),
        shape=(side, side, 3),
        dtype=np.uint8,
        bigtiff=True,
        ome=True,
        metadata={"axes": "YXS"},
        **options,
    )
    return side * side


def make_small(folder: Path, fields: list[np.ndarray], count: int) -> int:
    """PNGs of the fields, turned so that no two are alike; returns their pixels."""
    import imagecodecs

    for number in range(count):
        field = np.rot90(fields[number % len(fields)], number // len(fields) % 4)
        field = np.roll(field, number, axis=0)
        (folder / f"{number:05d}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(field)))
    return count * FIELD * FIELD


@dataclass(frozen=True)
class Ran:
    """One run of the command: seconds of wall and CPU time, and of each stage."""

    wall: float
    cpu: float
    stages: dict[str, float]


def run(images: Path, out: Path, engine: str) -> Ran:
    """Into an output folder of its own, which is removed."""
    command = [sys.executable, "-m", "flows.cli", "segment", str(images), "--out", str(out), "--no-track"]
    start, before = time.perf_counter(), children()
    done = subprocess.run([*command, "--engine", engine], capture_output=True, text=True, check=False)
    wall, cpu = time.perf_counter() - start, children() - before
    if done.returncode:
        raise SystemExit(f"segment ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    ran = Ran(wall, cpu, stages(out))
    shutil.rmtree(out)
    return ran


def children() -> float:
    """Seconds of CPU time that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stages(out: Path) -> dict[str, float]:
    """Of a large image as the log has them, else the sums over all images as the ledger has them."""
    logged = re.search(r"\.ome\.tif: (.+)$", (out / "maskline.log").read_text(), re.MULTILINE)
    if logged:
        pairs = (part.rsplit(" ", 2) for part in logged.group(1).split(", "))
        return {name: float(seconds) for name, seconds, _ in pairs}
    total: dict[str, float] = {}
    for segment in sorted((out / ".maskline/ledger").glob("*.jsonl")):
        for line in segment.read_text().splitlines():
            for name, seconds in json.loads(line).get("seconds", {}).items():
                total[name] = total.get(name, 0.0) + seconds
    return total


def show(what: str, pixels: int, runs: Sequence[Ran]) -> Ran:
    """Print the run whose wall time is the median, and return it."""
    ran = sorted(runs, key=lambda each: each.wall)[len(runs) // 2]
    print(f"{what}: {ran.wall:.1f} s wall, {ran.cpu:.1f} s CPU, {pixels / 1e6 / ran.wall:.2f} Mpx/s")
    for name, seconds in sorted(ran.stages.items(), key=lambda pair: -pair[1]):
        print(f"    {name:<10} {seconds:8.1f} s  {100 * seconds / ran.wall:5.1f} % of the wall time")
    return ran


def span(values: Iterable[float]) -> str:
    """Median and range.

    >>> span([3.0, 1.0, 2.0])
    '2.00 (range 1.00-3.00)'
    """
    found = sorted(values)
    return f"{statistics.median(found):.2f} (range {found[0]:.2f}-{found[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where images and results go; a temporary one by default")
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, fields = Path(name), real_fields()
        (folder / "large").mkdir()
        pixels = make_large(folder / "large/slide.ome.tif", fields, arguments.gigapixels)
        (folder / "small").mkdir()
        few = make_small(folder / "small", fields, arguments.images)
        large, small = [], []
        for _ in range(arguments.repeats):
            large.append(run(folder / "large", folder / "large-out", arguments.engine))
            small.append(run(folder / "small", folder / "small-out", arguments.engine))
        show(f"one image of {pixels / 1e9:.2f} Gpx", pixels, large)
        show(f"{arguments.images:,} images of {FIELD} x {FIELD}", few, small)
    print(f"small images a second: {span(arguments.images / each.wall for each in small)}")
    print(f"large image, Mpx/s: {span(pixels / 1e6 / each.wall for each in large)}")
    over = span(each.wall / max(each.stages.values()) for each in large)
    print(f"large image, wall time over its slowest stage: {over}")


if __name__ == "__main__":
    main()
