"""A folder of images in; labels, tables, a report and a run on record out. Safe to kill, safe to repeat."""

import functools
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config import SegmentConfig
from pipeline.data.files import atomic_write
from pipeline.errors import OutputError
from pipeline.results.ledger import Ledger
from pipeline.results.lock import STATE, hold_folder, sweep, writing
from pipeline.runs.collect_results import (
    Collected,
    Pictures,
    collect,
    drop_orphans,
    drop_replaced,
    mark_tables,
    write_folder_report,
    write_tables,
)
from pipeline.runs.plan_segmentation import absolute, find_work, make_plan, plan_segmentation
from pipeline.runs.planned_run import Plan
from pipeline.runs.record_run import Tally, Tracked, describe_run, logging_to, write_run
from pipeline.runs.scratch import drop_others
from pipeline.runs.segment_case import ChunkJob, load_segmenter
from pipeline.runs.segment_chunk import LEDGER, segment_chunk
from pipeline.types import Event, Failed, Outcome, RunChunks, Watch, run_serially, unwatched

__all__ = ["SegmentSummary", "plan_segmentation", "segment_folder", "try_model"]
log = logging.getLogger("maskline.segment")


@dataclass(frozen=True)
class SegmentSummary:
    """How a run ended. `done` are this run's, `skipped` were proven done before; `failed` and `objects` are those of
    the images asked for, as the folder now stands; class maps have no objects. Exit code 0 all well, 3 some failed,
    4 more than the config allows.
    """

    done: int
    skipped: int
    failed: int
    objects: int | None
    seconds: float
    exit_code: int
    out: Path
    run_id: str = ""
    run_url: str = ""
    failures: tuple[Failed, ...] = ()

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def segment_folder(
    config: SegmentConfig, run_chunks: RunChunks = run_serially, watch: Watch = unwatched
) -> SegmentSummary:
    """Segment every image of `config.folder` that is not proven done, into `config.out`.

    Raises InputError (no such folder, no images), ModelError, LockedError (another run holds the folder) and
    OutputError (it cannot be written, or holds the results of another folder). Anything wrong with one image is a row.
    """
    config, began, started = absolute(config), time.monotonic(), datetime.now(UTC)
    found = find_work(config)
    with hold_folder(config.out) as clean, logging_to(config.out / "maskline.log"):
        if not clean:
            log.warning("the run before did not end; %d temporary files removed", sweep(config.out))
        ledger = Ledger(config.out / LEDGER)
        _set_damaged_aside(ledger, config.out)
        plan = make_plan(config, found, ledger)
        _claim_for_folder(plan, ledger)
        left = drop_others(config.out, (planned.case for planned in plan.todo), plan.model_digest, plan.settings)
        if left:
            log.info("%d large images were begun that are not to be done, or not so: that work is removed", left)
        run = ledger.next_run()
        log.info("run %s of %s: %d to do, %d skipped", run, config.folder, len(plan.todo), len(plan.skipped))
        if plan.todo and plan.short_of_memory:
            log.warning("%s", plan.short_of_memory)
        with Tracked(plan) as tracked:
            before = dict(ledger.entries)
            tally = _run_chunks(plan, run, run_chunks, watch)
            ledger.refresh()
            drop_orphans(config.out, ledger)
            drop_replaced(config.out, before, ledger)
            collected = collect(plan, ledger, run)
            return _finish(plan, collected, tally, tracked, ledger.root, started, began, watch)


def try_model(plan: Plan) -> None:
    """Load the model as the run would before its first image. Raises what that raises: ModelError, and UsageError where
    this machine, or the network, has no such device or engine.
    """
    if plan.todo:
        load_segmenter(ChunkJob(plan.config, plan.model, plan.model_digest, plan.settings, run=""))


def _set_damaged_aside(ledger: Ledger, out: Path) -> None:
    if ledger.damaged:
        with writing(out):
            aside = ledger.set_damaged_aside()
        log.warning("damaged ledger segments, whose images are done again: %s", ", ".join(aside))


def _claim_for_folder(plan: Plan, ledger: Ledger) -> None:
    """Refuse to mix: results of one folder are not written over by those of another that has the same names."""
    path = plan.config.out / STATE / "folder.json"
    try:
        before = Path(json.loads(path.read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        before = plan.config.folder
    if before.resolve() != plan.config.folder.resolve() and before.is_dir():
        here = {case.relative for case in (*plan.cases, *plan.others)}
        changed = {planned.case.relative for planned in plan.todo if planned.reason == "the file has changed"}
        if any(name not in here or name in changed for name, entry in ledger.entries.items() if entry.status == "done"):
            raise OutputError(
                f"output folder {plan.config.out}", f"the results of {before}", "one of its own", "give another --out"
            )
    text = json.dumps({"format_version": 1, "folder": str(plan.config.folder)})
    with writing(plan.config.out):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic_write(path, text.encode())


@dataclass
class _Progress:
    """Tells the watcher of every image where images are told of one by one, else of every chunk."""

    plan: Plan
    watch: Watch
    tally: Tally
    began: float

    def add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        if isinstance(outcome, Failed):
            log.warning("%s failed at %s: %s; %s", outcome.case, outcome.stage, outcome.error, outcome.hint)
        self.show()

    def show(self) -> None:
        done = self.tally.done + len(self.tally.failed)
        passed = time.monotonic() - self.began
        fields = {
            "images/s": round(done / passed, 3) if passed > 0 else 0.0,
            "objects": self.tally.objects,
            "failed": len(self.tally.failed),
            "skipped": len(self.plan.skipped),
        }
        self.watch(Event("segment", done, len(self.plan.todo), fields))


def _run_chunks(plan: Plan, run: str, run_chunks: RunChunks, watch: Watch) -> Tally:
    job = ChunkJob(plan.config, plan.model, plan.model_digest, plan.settings, run)
    progress = _Progress(plan, watch, Tally(), time.monotonic())
    progress.show()
    if not plan.chunks:
        return progress.tally
    here = run_chunks is run_serially  # then images can be told of one by one; a function does not cross to a worker
    tell = progress.add if here else None
    work = (
        functools.partial(segment_chunk, job=job, tell=tell, watch=watch)
        if here
        else functools.partial(segment_chunk, job=job)
    )
    for number, outcomes in enumerate(run_chunks(work, plan.chunks), 1):
        for outcome in () if here else outcomes:
            progress.add(outcome)
        log.info("chunk %d of %d sealed: %d images", number, len(plan.chunks), len(outcomes))
    return progress.tally


def _exit_code(failed: int, images: int, allowed: float) -> int:
    """The contract's exit code.

    >>> _exit_code(0, 10, 0.2), _exit_code(2, 10, 0.2), _exit_code(3, 10, 0.2)
    (0, 3, 4)
    """
    if not failed:
        return 0
    return 4 if failed > allowed * images else 3


def _finish(
    plan: Plan,
    collected: Collected,
    tally: Tally,
    tracked: Tracked,
    root: str,
    started: datetime,
    began: float,
    watch: Watch,
) -> SegmentSummary:
    out = plan.config.out
    asked = {case.relative for case in plan.cases}
    rows = [row for row in collected.rows if row["path"] in asked]
    failures = tuple(Failed(r["path"], r["stage"], r["error"], r["hint"]) for r in rows if r["status"] == "failed")
    exit_code = _exit_code(len(failures), len(rows), plan.config.max_failed_fraction)
    if collected.changed:
        tracked.begin()
    description = describe_run(plan, collected, tally, started, root, exit_code, tracked.run)
    if collected.changed:
        watch(Event("tables", 0, 1))
        images = write_tables(out, collected)
        watch(Event("tables", 1, 1))
        watch(Event("report", 0, 1))
        write_folder_report(out, collected, images, description)
        watch(Event("report", 1, 1))
    write_run(out, description)
    if tracked.run is not None:
        tracked.publish(description, out, exit_code)
        if collected.changed:
            from pipeline.results.publish import publish  # draws: a no-op run does not pay for it

            publish(tracked.run, images, Pictures(out, collected.entries), description)
    if collected.changed:
        mark_tables(out, collected.key, tracked.run.id if tracked.run is not None else "")
    objects = None if description["classes"] else sum(row["objects"] for row in rows if row["status"] == "done")
    numbers = (tally.done, len(plan.skipped), len(failures), "class maps" if objects is None else f"{objects} objects")
    log.info("finished: %d done, %d skipped, %d failed, %s", *numbers)
    return SegmentSummary(
        done=tally.done,
        skipped=len(plan.skipped),
        failed=len(failures),
        objects=objects,
        seconds=time.monotonic() - began,
        exit_code=exit_code,
        out=out,
        run_id=tracked.run.id if tracked.run is not None else "",
        run_url=tracked.run.url if tracked.run is not None else "",
        failures=failures,
    )
