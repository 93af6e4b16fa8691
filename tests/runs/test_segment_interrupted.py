"""Ctrl-C while a large image is streamed: it ends at the next tile, and the next run goes on from there."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from smoothed_segmenter import make_segmenter
from squares import fingerprint, make_model
from test_segment_killed import wait_for

from pipeline.config import SegmentConfig
from pipeline.results.ledger import Entry, Product
from pipeline.runs import segment_case
from pipeline.runs import segment_chunk as module
from pipeline.runs.segment_case import ChunkJob, Worked
from pipeline.runs.segment_folder import segment_folder
from pipeline.types import Case, Chunk, Event

RUN = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from smoothed_segmenter import make_segmenter
from pipeline.config import SegmentConfig
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test may itself be run with Ctrl-C ignored
stand_in = make_segmenter()
stand_in.engine.pause = 0.15
segment_case.load_segmenter = lambda job: stand_in
config = SegmentConfig(folder=sys.argv[2], out=sys.argv[3], model=sys.argv[4], track=False, diameter="native",
                       whole_megapixels=1.0)
try:
    segment_folder(config)
except KeyboardInterrupt:
    print(stand_in.engine.tiles)
    sys.exit(130)
"""
ROWS, COLUMNS, BAND = 3072, 1280, 20  # 3 bands of 20 tiles, 3 s each at the pace of the test


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    picture = np.kron(np.random.default_rng(0).integers(0, 2, (ROWS // 32, COLUMNS // 32)), np.full((32, 32), 180))
    picture = (picture * (np.arange(ROWS) % 32 > 3)[:, None] + 12).astype(np.uint8)
    for name in ("large.tif", "copy.tif"):  # the same bytes: neither may take the other's work
        tifffile.imwrite(folder / name, picture, tile=(256, 256), compression="zlib")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent the POSIX way")
def test_ctrl_c_ends_a_large_image_at_its_next_tile(tmp_path, images, monkeypatch):
    """A real SIGINT when two images are at their second bands: few tiles more are done, and the end is a calm run's."""
    model, out = make_model(tmp_path / "model"), tmp_path / "out"
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, here, str(images), str(out), str(model)], stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: list(out.glob(".maskline/large/*/band-*.planes")), process)
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert BAND <= int(told) < 4 * BAND  # of six
    assert not (out / "images.csv").exists()
    kept = {path: path.stat().st_ino for path in out.glob(".maskline/large/*/band-*.planes")}
    assert kept

    def again(where):
        segmenter = make_segmenter()
        monkeypatch.setattr(segment_case, "load_segmenter", lambda job: segmenter)
        given = {"folder": images, "out": where, "model": str(model), "track": False, "diameter": "native"}
        assert segment_folder(SegmentConfig(**given, whole_megapixels=1.0)).done == 2
        return segmenter.engine.tiles

    assert again(out) == again(tmp_path / "calm") - BAND * len(kept)
    assert fingerprint(out) == fingerprint(tmp_path / "calm")


def test_what_ends_a_chunk_ends_its_large_image(tmp_path, monkeypatch):
    """Who listens is interrupted: an image that tells of its tiles ends at the next, one that does not is finished."""
    under_way, ended = threading.Event(), []
    done = Entry("quick.tif", "quick", "failed", Product("", (0, 0, 0, 0)), "", "")

    def work(case, job, watch):
        if case.id == "quick":
            assert under_way.wait(20)
            return Worked(done)
        under_way.set()
        for tile in range(2000):
            ended[:] = [tile]
            watch(Event("predict", tile, 2000))
            time.sleep(0.01)
        return Worked(done)

    def interrupted(outcome):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "segment_case", work)
    cases = tuple(Case(name, tmp_path / name, name) for name in ("quick", "large", "never"))
    job = ChunkJob(SegmentConfig(folder=tmp_path, out=tmp_path / "out"), tmp_path, "", "", "1")
    with pytest.raises(KeyboardInterrupt):
        module.segment_chunk(Chunk(0, cases), job, interrupted)
    assert ended[0] < 1999
