"""kill -9 in the middle of a run: what was sealed is not done again, and the end is that of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from squares import draw_folder, fingerprint, make_model

from pipeline.errors import LockedError
from pipeline.results.ledger import Ledger

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from threshold_segmenter import ThresholdSegmenter
from pipeline.config import SegmentConfig
from pipeline.runs import segment_case
from pipeline.runs.segment_folder import segment_folder
stand_in = ThresholdSegmenter(pause=float(sys.argv[5]))
segment_case.load_segmenter = lambda job: stand_in
config = SegmentConfig(folder=sys.argv[2], out=sys.argv[3], model=sys.argv[4], track=False, chunk_seconds=0.08)
segment_folder(config)
"""


def start_run(images: Path, out: Path, model: Path, pause: float) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", RUN, here, str(images), str(out), str(model), str(pause)])


def wait_for(condition, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    pytest.fail("the run never got that far")


def inode_of_labels(out: Path) -> dict[str, int]:
    return {path.relative_to(out).as_posix(): path.stat().st_ino for path in (out / "labels").rglob("*.tif")}


@pytest.mark.parametrize("sealed", [1, 3])
def test_killed_run_goes_on_where_it_was(tmp_path, run, segmenter, sealed):
    """Killed with some chunks sealed; the next run does the rest only, and all bytes are those of one calm run."""
    images, model, out = draw_folder(tmp_path / "images", 12), make_model(tmp_path / "model"), tmp_path / "out"
    process = start_run(images, out, model, 0.1)
    ledger = out / ".maskline/ledger"
    try:
        wait_for(lambda: ledger.is_dir() and len(list(ledger.glob("*.jsonl"))) >= sealed, process)
        with pytest.raises(LockedError, match=f"process {process.pid} "):
            run()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = set(Ledger(ledger).entries)
    assert 0 < len(finished) < 12
    assert not (out / "images.csv").exists()
    kept = inode_of_labels(out)
    segmenter.seen.clear()
    summary = run()
    assert summary.skipped == len(finished)
    assert {Path(path).name for path in finished}.isdisjoint(segmenter.seen)
    assert len(segmenter.seen) == 12 - len(finished)
    after = inode_of_labels(out)
    assert {name: after[name] for name in kept if name[7:-4] + ".png" in finished} == {
        name: inode for name, inode in kept.items() if name[7:-4] + ".png" in finished
    }
    run(out="calm")
    assert fingerprint(out) == fingerprint(tmp_path / "calm")
    assert not list(out.rglob("*.partial"))
    shards = {path.name for path in (out / ".maskline/shards").iterdir()}
    assert shards == set(Ledger(ledger).shards)


@pytest.mark.skipif(sys.platform == "win32", reason="limits are set the POSIX way")
def test_disk_that_is_really_full(tmp_path, run):
    """Files may not grow beyond 20 kB, as on a full disk: one OutputError that says so, and nothing half-written."""
    images, model, out = draw_folder(tmp_path / "images", 40), make_model(tmp_path / "model"), tmp_path / "out"
    limited = RUN.replace(
        "import sys\n", "import sys, resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)\n", 1
    )
    command = [sys.executable, "-c", limited, str(Path(__file__).parent), str(images), str(out), str(model), "0"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode != 0
    assert "OutputError" in answer.stderr.splitlines()[-1]
    assert "a folder that can be written; free space on its disk" in answer.stderr
    assert "Logging error" not in answer.stderr
    assert not list(out.rglob("*.partial"))
    run()
    run(out="calm")
    assert fingerprint(out) == fingerprint(tmp_path / "calm")


def test_killed_after_the_last_chunk_writes_tables_and_report(tmp_path, run, segmenter, monkeypatch):
    """Everything sealed, but no tables yet: nothing is segmented, tables and report are made."""
    from pipeline.runs import segment_folder as module

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_tables", die)
        with pytest.raises(KeyboardInterrupt):
            run()
    out = tmp_path / "out"
    assert not (out / "images.csv").exists()
    segmenter.seen.clear()
    assert run().skipped == 6
    assert segmenter.seen == []
    assert (out / "report.html").is_file()
    run(out="calm")
    assert fingerprint(out) == fingerprint(tmp_path / "calm")


def test_killed_between_tables_and_report(tmp_path, run, monkeypatch):
    """Tables stand, the report does not: the next run makes it."""
    from pipeline.runs import segment_folder as module

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_folder_report", die)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not (tmp_path / "out/report.html").exists()
    assert run().done == 0
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, run, segmenter):
    """A run that is killed after every second or so gets to the end all the same."""
    images, model, out = draw_folder(tmp_path / "images", 12), make_model(tmp_path / "model"), tmp_path / "out"
    for _ in range(20):
        process = start_run(images, out, model, 0.1)
        before = len(list((out / ".maskline/ledger").glob("*.jsonl"))) if out.exists() else 0
        while process.poll() is None and len(list((out / ".maskline/ledger").glob("*.jsonl"))) <= before:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        if process.wait() == 0:
            break
    assert process.returncode == 0
    assert run().skipped == 12
    run(out="calm")
    assert fingerprint(out) == fingerprint(tmp_path / "calm")
