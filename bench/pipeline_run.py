"""`maskline segment` end to end, and where the time goes: one large OME-TIFF, and a folder of small images.

    python bench/pipeline_run.py [--gigapixels 1] [--images 1000] [--folder DIR] [--engine auto]

The large image is put together of real fields where `$MASKLINE_DATA` has them (simulated ones elsewhere), as tiled
deflate TIFF; the small ones are 256 x 256 parts of the same. Each is one run of the command, in a process of its own,
with the model that ships; stages are what the run itself logged. Stages of the large image run side by side, each told
by the clock over the threads it has, `predict` as the engine's own work without waiting for tiles: the last line is the
wall time of the run, start and report included, over its slowest stage. Of
small images two are in the works at a time; stages are their sums.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
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


def run(images: Path, out: Path, engine: str) -> tuple[float, dict[str, float]]:
    """One run of the command: wall seconds, and the seconds of each stage."""
    command = [sys.executable, "-m", "flows.cli", "segment", str(images), "--out", str(out), "--no-track"]
    start = time.perf_counter()
    done = subprocess.run([*command, "--engine", engine], capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"segment ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    return wall, stages(out)


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


def show(what: str, pixels: int, wall: float, found: dict[str, float]) -> None:
    print(f"{what}: {wall:.1f} s, {pixels / 1e6 / wall:.2f} Mpx/s")
    for name, seconds in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"    {name:<10} {seconds:8.1f} s  {100 * seconds / wall:5.1f} % of the wall time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where images and results go; a temporary one by default")
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, fields = Path(name), real_fields()
        (folder / "large").mkdir()
        pixels = make_large(folder / "large/slide.ome.tif", fields, arguments.gigapixels)
        wall, found = run(folder / "large", folder / "large-out", arguments.engine)
        show(f"one image of {pixels / 1e9:.2f} Gpx", pixels, wall, found)
        slowest = max(found.values())
        (folder / "small").mkdir()
        small = make_small(folder / "small", fields, arguments.images)
        took, parts = run(folder / "small", folder / "small-out", arguments.engine)
        show(f"{arguments.images:,} images of {FIELD} x {FIELD}", small, took, parts)
    print(f"small images: {arguments.images / took:.1f} a second")
    print(f"large image: wall time over its slowest stage {wall / slowest:.2f}x")


if __name__ == "__main__":
    main()
