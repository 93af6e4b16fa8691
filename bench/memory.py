"""Peak memory of segmenting images of 0.1, 1 and 4 gigapixels, beside MONAI's sliding window.

    python bench/memory.py [--gigapixels 0.1 1 4] [--folder DIR] [--monai 0.1]

Each size is a process of its own, whose peak resident set the system tells. Ours reads a tiled TIFF of touching discs
band by band, predicts, decodes, stitches, measures every object, and writes the labels as a tiled pyramid and the
table; only the network is left out (the probabilities are the image, smoothed), so that 4 gigapixels end within
minutes. MONAI's `sliding_window_inference` gets a network of one 1 x 1 convolution and the array that
`tifffile.imread` gives, and nothing after it; what does not fit is 20.5 bytes a pixel, as measured where it does.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TILE = 512
MONAI_BYTES = 20.5  # a pixel


def make_slide(path: Path, gigapixels: float) -> tuple[int, int]:
    """A tiled TIFF of about that size, of discs that touch and cross the tiles' borders; returns its shape."""
    import cv2
    import imagecodecs
    import tifffile

    side = round((gigapixels * 1e9) ** 0.5 / TILE) * TILE
    generator = np.random.default_rng(0)
    picture = np.full((4 * TILE, 4 * TILE), 20, np.uint8)
    for _ in range(2500):
        y, x = (int(v) for v in generator.integers(0, 4 * TILE, 2))
        cv2.circle(picture, (x, y), int(generator.integers(7, 16)), 180, -1)
    picture += generator.integers(0, 24, picture.shape).astype(np.uint8)
    tiles = [
        imagecodecs.zlib_encode(picture[y : y + TILE, x : x + TILE].tobytes(), level=1)
        for y in range(0, 4 * TILE, TILE)
        for x in range(0, 4 * TILE, TILE)
    ]
    columns = side // TILE

    def chosen() -> Iterator[bytes]:
        for number in range(columns * columns):
            row, column = divmod(number, columns)
            yield tiles[row % 4 * 4 + column % 4]

    options: dict[str, Any] = {"shape": (side, side), "dtype": np.uint8, "tile": (TILE, TILE), "compression": "zlib"}
    tifffile.imwrite(path, chosen(), bigtiff=True, photometric="minisblack", **options)
    return side, side


class Smoothed:
    """An engine without a network: foreground and distance are the image, smoothed a little."""

    name, outputs, core, halo, stride = "smoothed", 3, 1024, 16, 16

    def map(self, tiles: Iterable[np.ndarray], preparation: Any) -> Iterator[np.ndarray]:
        import cv2

        for tile in tiles:
            values = np.clip(preparation.normalise(tile[:1])[0], 0, 1)
            soft = cv2.blur(values, (3, 3))
            yield np.stack([soft, np.zeros_like(soft), cv2.erode(soft, np.ones((9, 9)))])


def ours(slide: Path, scratch: Path) -> dict[str, float]:
    """Stream one slide; what it took."""
    import unet
    from pipeline.config import NucleiUNet, PrepareConfig, SegmentConfig, SeparatedTarget
    from pipeline.data.images import open_image
    from pipeline.inference.segment import Segmenter
    from pipeline.model.bundle import ModelRecord, TrainedModel, describe_network
    from pipeline.runs.segment_large import segment_large

    network = NucleiUNet(filters=(4, 6, 8), in_channels=1)
    built = unet.build(network.kind, **network.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(built, 1)
    record = ModelRecord(
        name="smoothed",
        network=network,
        prepare=PrepareConfig(channels=1),
        target=SeparatedTarget(),
        outputs=("foreground", "border", "distance"),
        stride=stride,
        halo=halo,
    )
    segmenter = Segmenter(TrainedModel(built, record, "digest"), "cpu")
    segmenter.engine = Smoothed()
    config = SegmentConfig(folder=slide.parent, out=scratch, diameter="native")
    source = open_image(slide, max_megapixels=1e6)
    start, processor = time.perf_counter(), time.process_time()
    large = segment_large(
        source, segmenter, config, scratch / "work", "bench", scratch / "labels.tif", None, lambda _: None
    )
    return {
        "wall": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "objects": large.count,
        "labels_mb": (scratch / "labels.tif").stat().st_size / 1e6,
        "scratch_mb": sum(f.stat().st_size for f in (scratch / "work").rglob("*") if f.is_file()) / 1e6,
    }


def monai(slide: Path) -> dict[str, float]:
    """MONAI's sliding window over the whole slide in memory."""
    import tifffile
    import torch
    from monai.inferers.utils import sliding_window_inference

    network = torch.nn.Conv2d(1, 3, 1)
    start, processor = time.perf_counter(), time.process_time()
    image = torch.from_numpy(tifffile.imread(slide))[None, None].float()
    with torch.inference_mode():
        sliding_window_inference(image, (512, 512), 4, network, overlap=0.25)
    return {"wall": time.perf_counter() - start, "processor": time.process_time() - processor}


def in_a_process(what: str, slide: Path, scratch: Path) -> dict[str, float]:
    """Run one of the two by itself; its numbers, and its peak resident set in bytes."""
    command = [sys.executable, __file__, "--one", what, str(slide), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def one(what: str, slide: Path, scratch: Path) -> None:
    answer = ours(slide, scratch) if what == "ours" else monai(slide)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**answer, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[0.1, 1.0, 4.0])
    parser.add_argument(
        "--monai", type=float, default=0.1, help="largest size that MONAI is measured at, in gigapixels"
    )
    parser.add_argument("--folder", type=Path, help="where slides and labels go; a temporary one by default")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "SLIDE", "SCRATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, slide, scratch = arguments.one
        one(what, Path(slide), Path(scratch))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        table(Path(folder), arguments.gigapixels, arguments.monai)


def table(folder: Path, sizes: list[float], most: float) -> None:
    """One line a size; the last line is the ratio at the largest."""
    ratios = []
    for gigapixels in sizes:
        slide, scratch = folder / "slide.tif", folder / "out"
        shape = make_slide(slide, gigapixels)
        scratch.mkdir()
        found = in_a_process("ours", slide, scratch)
        shutil.rmtree(scratch)
        pixels = shape[0] * shape[1]
        theirs, how = pixels * MONAI_BYTES, "at 20.5 bytes a pixel"
        if gigapixels <= most:
            theirs, how = in_a_process("monai", slide, folder)["peak"], "measured"
        slide.unlink()
        ratios.append(theirs / found["peak"])
        print(
            f"{gigapixels:>5.1f} Gpx  ours {found['peak'] / 1e9:.2f} GB  MONAI {theirs / 1e9:.2f} GB ({how})  "
            f"{found['objects']:,.0f} objects in {found['wall']:.0f} s ({found['processor']:.0f} s of processor, "
            f"{pixels / 1e6 / found['wall']:.1f} Mpx/s), labels {found['labels_mb']:.0f} MB, "
            f"scratch {found['scratch_mb']:.0f} MB",
            flush=True,
        )
    print(f"peak memory, MONAI over ours: {ratios[-1]:.1f}x at the largest ({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
