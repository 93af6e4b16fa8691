"""What orchestration and bookkeeping cost an image: the slope from 500 to 2,000 small images.

    python bench/bookkeeping.py [--small 500] [--large 2000] [--repeat 3] [--cpu]

Small PNG files go through `segment` with a segmenter that does nothing, without MLflow. What an image takes to be read,
segmented, measured, written and drawn is on record for each and is taken off the wall clock, and so is the report,
which is a matter of overlays; the rest is finding, proving, planning, chunking, ledger, shards, tables and run.json.
The run with nothing to do is measured as well. `--cpu` takes processor time instead of the wall clock, for a machine
that is busy with other things (waiting for the disk is then left out). The last line is the slope in ms an image: the
target is 1.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.config import SegmentConfig
from pipeline.runs import segment_case, stages
from pipeline.runs.segment_folder import segment_folder
from pipeline.types import Event, Image, ImageSource, Labels

SIZE = 32


@dataclass
class Answer:
    labels: Labels
    image: Image
    confidence: Any = None
    statistics: dict[str, float | str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Trivial:
    """Finds the same two squares everywhere."""

    def __init__(self) -> None:
        self.labels = np.zeros((SIZE, SIZE), np.uint32)
        self.labels[2:8, 2:8], self.labels[20:28, 20:28] = 1, 2

    def segment(self, source: ImageSource, options: Any) -> Answer:
        return Answer(self.labels, source.read())


def draw(folder: Path, count: int) -> None:
    """`count` files of noise, in sub-folders of 100."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", rng.integers(0, 255, (SIZE, SIZE)).astype(np.uint8))[1].tobytes())


@dataclass
class Cost:
    wall: float
    stages: float
    report: float
    idle: float

    @property
    def bookkeeping(self) -> float:
        return self.wall - self.stages - self.report


def measure(scratch: Path, count: int) -> Cost:
    """One run over `count` images, and one more with nothing to do."""
    images, out, model = scratch / "images", scratch / "out", scratch / "model"
    draw(images, count)
    model.mkdir()
    (model / "model.json").write_text(json.dumps({"name": "trivial"}))
    spent = {"report": 0.0}

    def watch(event: Event) -> None:
        if event.stage == "report":
            spent["report"] += stages.clock() * (1 if event.done else -1)

    config = SegmentConfig(folder=images, out=out, model=str(model), track=False)
    start = stages.clock()
    summary = segment_folder(config, watch=watch)
    wall = stages.clock() - start
    assert summary.done == count, summary
    statistics = json.loads((out / "run.json").read_text())["statistics"]
    start = stages.clock()
    assert segment_folder(config).skipped == count
    idle = stages.clock() - start
    return Cost(wall, sum(statistics["stage_seconds"].values()), spent["report"], idle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--large", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="processor time instead of the wall clock")
    options = parser.parse_args()
    if options.cpu:
        stages.clock = time.process_time
    segment_case.load_segmenter = lambda _: Trivial()  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), 20)  # imports
    slopes = []
    for _ in range(options.repeat):
        costs = []
        for count in (options.small, options.large):
            with tempfile.TemporaryDirectory() as scratch:
                costs.append(cost := measure(Path(scratch), count))
            print(
                f"{count:6,} images: {cost.wall:6.2f} s, of which stages {cost.stages:6.2f}, "
                f"report {cost.report:5.2f}, bookkeeping {cost.bookkeeping:5.2f}; with nothing to do {cost.idle:5.2f}"
            )
        slopes.append(1e3 * (costs[1].bookkeeping - costs[0].bookkeeping) / (options.large - options.small))
    print(f"bookkeeping {statistics.median(slopes):.3f} ms an image (median of {len(slopes)}; target 1)")


if __name__ == "__main__":
    main()
