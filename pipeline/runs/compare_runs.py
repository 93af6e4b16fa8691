"""Systems side by side on the same images: the scores and records of their evaluations, read and compared."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.data.files import atomic_write
from pipeline.errors import InputError, UsageError
from pipeline.results.comparison import Comparison, System, comparison_csv, comparison_json
from pipeline.scoring.counts import COUNTS, read_counts
from pipeline.scoring.paired import compare_scores, same_images
from pipeline.scoring.present import JSON

if TYPE_CHECKING:
    from pipeline.results.tracking import Tracking

FILES = ("compare.csv", "compare.json", "compare.png")
EXPERIMENT = "maskline-comparison"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ABOUT = ("model", "model_digest", "data", "manifest_digest", "split")


def compare_runs(
    runs: Sequence[str],
    names: Sequence[str] = (),
    *,
    common: bool = False,
    bootstrap: int = 1000,
    out: Path | None = None,
    track: bool = True,
) -> Comparison:
    """Compare evaluations; the first is what the others are measured against.

    Parameters
    ----------
    runs : output folders of `maskline evaluate` or `score`, or ids of MLflow runs of `maskline evaluate`.
    names : what to call them, one a run; by default the ends of their paths.
    common : compare on the images that all of them scored, instead of refusing where some did not.
    bootstrap : resamples for the intervals.
    out : where `compare.csv`, `compare.json` and `compare.png` go, if anywhere.
    track : log them to MLflow.

    Raises
    ------
    UsageError
        Fewer than two runs, one named twice, or not as many names as runs.
    InputError
        A run holds no evaluation, or the runs are not of the same images.
    TrackingError
        MLflow does not know a run's id.
    """
    called = _names(runs, names)
    with _opened(dict(zip(called, runs, strict=True))) as folders:
        counted = {name: read_counts(folder) for name, folder in folders.items()}
        records = {name: _record(folder) for name, folder in folders.items()}
    aligned, left_out = same_images(counted, common)
    scores = compare_scores(aligned, bootstrap)
    systems = [
        System(name, run, scores[name], {k: records[name].get(k, "") for k in _ABOUT}, records[name].get("cost", {}))
        for name, run in zip(called, runs, strict=True)
    ]
    first = aligned[called[0]]
    over = "groups" if any(image.group for image in first.images) else "images"
    comparison = Comparison(first.kind, tuple(systems), len(first.images), left_out, over, bootstrap)
    _keep(comparison, out, track)
    return comparison


def _names(runs: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    if len(runs) < 2:
        raise UsageError("compare", f"{len(runs)} run", "two at least", "name the output folders of two evaluations")
    if names and len(names) != len(runs):
        raise UsageError(
            "--name", f"{len(names)} names for {len(runs)} runs", "one a run", "repeat --name in their order"
        )
    called = tuple(names) or short_names(runs)
    twice = next((name for name in called if called.count(name) > 1), "")
    if twice:
        raise UsageError("compare", f"{twice} twice", "runs that differ, under names that differ", "name each run once")
    return called


def short_names(runs: Sequence[str]) -> tuple[str, ...]:
    """The ends of paths, without what all end in, as long as it takes to tell them apart; of MLflow's ids 8 characters.

    >>> short_names(["r/first/test", "r/second/test/"]), short_names(["a/x", "b/y"]), short_names(["a/x", "b/c/x"])
    (('first', 'second'), ('x', 'y'), ('a', 'c'))
    """
    parts = [(run[:8],) if _RUN_ID.fullmatch(run) else PurePosixPath(Path(run).as_posix()).parts for run in runs]
    while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        ends = tuple("/".join(part[-length:]) for part in parts)
        if len(set(ends)) == len(set(parts)):
            return ends
    return tuple(runs)


@contextmanager
def _opened(runs: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """The folder of each run; those of MLflow are fetched for as long as they are read."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for number, (name, run) in enumerate(runs.items()):
            folders[name] = _folder(run, Path(scratch, str(number)))
        yield folders


def _folder(run: str, scratch: Path) -> Path:
    if Path(run).is_dir():
        return Path(run)
    if not _RUN_ID.fullmatch(run):
        wanted = "an output folder of maskline evaluate, or the id of its MLflow run"
        raise InputError(run, "no such folder", wanted, "check the path")
    scratch.mkdir()
    tracking = _tracking()
    for file in (COUNTS, JSON):
        tracking.fetch_artifact(run, file, scratch)
    return scratch


def _tracking() -> "Tracking":
    from pipeline.results.tracking import open_tracking

    return open_tracking(EXPERIMENT)


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / JSON
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), str(error), "the scores of an evaluation", "evaluate again") from None
    if not isinstance(record, dict):
        raise InputError(str(path), type(record).__name__, "the scores of an evaluation", "evaluate again")
    return record


def _keep(comparison: Comparison, out: Path | None, track: bool) -> None:
    """Write the files, and log them."""
    if out is None and not track:
        return
    from pipeline.results.comparison_picture import comparison_picture

    contents = (comparison_csv(comparison), comparison_json(comparison), comparison_picture(comparison))
    files = dict(zip(FILES, contents, strict=True))
    for name, content in files.items() if out is not None else ():
        atomic_write(Path(str(out)) / name, content)
    if not track:
        return
    names = [system.name for system in comparison.systems]
    params = {"runs": [system.run for system in comparison.systems], "names": names, "images": comparison.images}
    with _tracking().start(f"compare {' and '.join(names)}"[:250], params, {"maskline.job": "compare"}) as run:
        run.log_metrics(comparison.numbers())
        for name, content in files.items():
            run.log_picture(content, name)
        run.set_note("```\n" + "\n".join(comparison.lines()) + "\n```")
