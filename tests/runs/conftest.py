"""A small folder of images, a model that needs no network, and a run over them."""

import sys
from pathlib import Path

import pytest

from pipeline.config import SegmentConfig
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder

sys.path.insert(0, str(Path(__file__).parent))
from squares import draw_folder, make_model
from threshold_segmenter import ThresholdSegmenter


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
