"""A small folder of images, a model that needs no network, and a run over them."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.config import SegmentConfig
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder

sys.path.insert(0, str(Path(__file__).parent))
from threshold_segmenter import ThresholdSegmenter


def draw(path: Path, objects: int = 3, seed: int = 0, colour: bool = False) -> Path:
    """A dark 48 x 64 image with `objects` bright squares, no two touching."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 30, (48, 64, 3) if colour else (48, 64)).astype(np.uint8)
    for number in range(objects):
        y, x = 4 + 16 * (number // 4), 4 + 16 * (number % 4)
        size = 4 + (number + seed) % 5
        pixels[y : y + size, x : x + size] = 150 + (number + seed) % 100
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def draw_folder(folder: Path, count: int = 6) -> Path:
    for number in range(count):
        draw(folder / f"plate{number % 2}" / f"{number:02d}.png", 1 + number % 5, number, colour=number % 3 == 0)
    return folder


def make_model(folder: Path, name: str = "threshold") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"name": name}))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "images")


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> ThresholdSegmenter:
    stand_in = ThresholdSegmenter()
    monkeypatch.setattr(segment_case, "load_segmenter", lambda job: stand_in)
    return stand_in


@pytest.fixture
def run(tmp_path: Path, images: Path, segmenter: ThresholdSegmenter):
    """Segment the folder into `out`; keywords go into the config, `run_chunks` and `watch` to the run."""
    model = make_model(tmp_path / "model")

    def start(out: str = "out", run_chunks=None, watch=None, **changes):
        given = {"folder": images, "out": tmp_path / out, "model": str(model), "track": False} | changes
        how = {name: value for name, value in (("run_chunks", run_chunks), ("watch", watch)) if value is not None}
        return segment_folder(SegmentConfig(**given), **how)

    return start
