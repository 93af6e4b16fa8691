"""`maskline ingest`, `train`, `segment` and `verify`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.options import (
    DEVICE,
    DIAMETER,
    ENGINE,
    EXISTING,
    FILE,
    FOLDER,
    MODEL,
    NEW,
    NO_SKIP,
    NO_TRACK,
    PAGES,
    PIXEL_SIZE,
    SEGMENT_DEVICE,
    SERIES,
    THREADS,
    TIME,
    TTA,
    Duration,
    given,
)

if TYPE_CHECKING:
    from pipeline.config import SegmentConfig
    from pipeline.data.ingest import Ingested
    from pipeline.runs.segment_folder import SegmentSummary

LAYOUTS = click.Choice(["auto", "dsb", "paired", "paired-nifti", "unlabelled"])
MOST_TOLD = 10


@click.command(
    short_help="Audit a labelled folder and write its manifest.",
    epilog="""\b
Examples:
  maskline ingest dsb2018/stage1_train --out dsb2018.csv
  maskline ingest plates --out plates.csv --group '([^/]+)/' --strict
""",
)
@click.argument("folder", type=FOLDER)
@click.option("--out", "manifest", type=NEW, required=True, help="The manifest CSV to write; findings go beside it.")
@click.option("--layout", type=LAYOUTS, default="auto", show_default=True, help="How the folder is laid out.")
@click.option(
    "--masks",
    type=click.Choice(["instances", "classes"]),
    default="instances",
    show_default=True,
    help="What the numbers of label images are: objects, or classes such as organs.",
)
@PAGES
@click.option("--group", help="Regular expression on the path; images of one group are never split apart.")
@click.option(
    "--fractions",
    type=(float, float, float),
    default=(0.7, 0.15, 0.15),
    show_default=True,
    help="Train, validation and test part.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another split.")
@click.option(
    "--contiguous", is_flag=True, help="The images are slices of a stack: hold out runs of them, by their numbers."
)
@click.option("--strict", is_flag=True, help="Fail when the audit finds anything.")
def ingest(**options: Any) -> None:
    """Audit a labelled FOLDER and write the manifest that training and evaluation use.

    Layouts: Data Science Bowl (ID/images, ID/masks), images beside masks of the same name, paired NIfTI, label images
    of maskline or QuPath, unlabelled images. Every image and mask is read; each finding is a row with what to do.
    """
    from flows.progress import LiveProgress
    from pipeline.config import IngestConfig, build_config
    from pipeline.runs.ingest_folder import ingest_folder

    config = build_config(IngestConfig, given(options), "ingest")
    with LiveProgress() as watch:
        ingested = ingest_folder(config, watch)
    _tell_ingested(ingested, config.manifest)


def _tell_ingested(ingested: "Ingested", path: Path) -> None:
    from collections import Counter

    from pipeline.runs.ingest_folder import findings_path, groups_path

    manifest = ingested.manifest
    sizes = {name: len(manifest.split(name)) for name in ("train", "val", "test", "unlabelled")}
    splits = ", ".join(f"{size:,} {name}" for name, size in sizes.items() if size)
    counts = Counter(finding.severity for finding in ingested.findings)
    severities = ", ".join(f"{counts[name]:,} {name}s" for name in ("error", "warning", "note"))
    click.echo(f"layout    {manifest.layout}")
    click.echo(f"manifest  {path}: {len(manifest.cases):,} images ({splits}), digest {manifest.digest[:12]}")
    click.echo(f"findings  {findings_path(path)}: {severities}")
    click.echo(f"groups    {groups_path(path)}: {len(ingested.merged_groups):,} sets of near-duplicates, kept together")


@click.command(
    short_help="Train a model as a config says.",
    epilog="""\b
Examples:
  maskline train nuclei --data dsb2018.csv --out runs/first --time-budget 60m
  maskline train my.yaml --data masks/ --out runs/second --from runs/first --set optimiser.lr=0.0005
  maskline train nuclei --data dsb2018.csv --out runs/first --resume
  maskline train nuclei --data dsb2018.csv --out runs/folds --folds 5 --time-budget 30m
""",
)
@click.argument("config")
@click.option("--data", type=EXISTING, required=True, help="A manifest CSV, or a labelled folder.")
@click.option("--out", type=NEW, required=True, help="Where the model and the training's state go.")
@click.option("--from", "start", metavar="MODEL", help="A model whose weights to start from: a NAME, or a folder.")
@click.option("--resume", is_flag=True, help="Go on with the training that stopped in --out.")
@click.option("--time-budget", type=Duration(), help="Stop after this time and keep the best model: 30m, 1h30m.")
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Train one model a fold, score every image by the one that never saw it, keep the mean of all.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a field of the config; may be repeated."
)
@DEVICE
@NO_TRACK
def train(
    config: str,
    data: Path,
    out: Path,
    start: str | None,
    resume: bool,
    time_budget: float | None,
    folds: int | None,
    overrides: tuple[str, ...],
    device: str,
    no_track: bool,
) -> None:
    """Train a model as CONFIG says: a YAML file, or the name of a config that ships (nuclei, guide-clean, ...).

    Ctrl-C stops cleanly and keeps the best model so far; --resume goes on from there. With --folds the splits of the
    data are not looked at: each image is tested in one fold, and the time budget is each fold's.
    """
    from flows.addresses import use_running_servers
    from flows.names import config_path
    from flows.progress import LiveProgress
    from pipeline.config import TrainConfig, load_config
    from pipeline.runs.cross_validate import cross_validate
    from pipeline.runs.train_model import train_model

    use_running_servers()
    settings = load_config(TrainConfig, config_path(config), overrides)
    with LiveProgress() as watch:
        how: dict[str, Any] = {
            "resume": resume,
            "start": start,
            "time_budget": time_budget,
            "device": device,
            "track": not no_track,
            "watch": watch,
        }
        trained = (
            cross_validate(settings, data, out, folds, **how) if folds else train_model(settings, data, out, **how)
        )
    for line in trained.lines():
        click.echo(line)


@click.command(
    short_help="Segment every image of a folder.",
    epilog="""\b
Examples:
  maskline segment plate7 --out runs/plate7
  maskline segment plate7 --out runs/plate7 --model nuclei@champion --diameter 30 --geojson
  maskline segment plate7 --out runs/plate7 --include 'day1/*.png' --dry-run
Run the same command again: what is proven done is skipped, what is new or changed is done.
""",
)
@click.argument("folder", type=FOLDER)
@click.option("--out", type=NEW, required=True, help="Where labels/, objects.parquet, images.csv and report.html go.")
@click.option("--model", help=f"{MODEL}  [default: shipped:nuclei]")
@click.option("--config", "config_file", type=FILE, help="YAML with the same settings; options go first.")
@PIXEL_SIZE
@DIAMETER
@click.option("--channel", type=click.IntRange(0), help="Which channel to segment, counted from 0.")
@TTA
@PAGES
@SERIES
@click.option("--level", type=click.IntRange(0), help="Pyramid level to segment; labels have its shape.  [default: 0]")
@TIME
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not files that match; may be repeated.")
@click.option("--group", metavar="REGEX", help="On the path; its first bracket names the group in the tables.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option("--force", is_flag=True, help="Do everything again, also what is done.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, with memory, disk and time, and do nothing.")
@click.option("--geojson", is_flag=True, help="Write outlines for QuPath beside the label images.")
@SEGMENT_DEVICE
@ENGINE
@THREADS
@NO_SKIP
@NO_TRACK
@click.pass_context
def segment(ctx: click.Context, /, config_file: Path | None, dry_run: bool, no_track: bool, **options: Any) -> None:
    """Segment every image in FOLDER, sub-folders included.

    One bad file does not stop the others: it becomes a row in images.csv that says why and what to do.
    """
    from flows.addresses import use_running_servers
    from pipeline.config import SegmentConfig, build_config, read_tree

    use_running_servers()
    no_skip = options.pop("no_skip")
    tree = (read_tree(config_file) if config_file else {}) | given(options)
    tree |= ({"track": False} if no_track else {}) | ({"skip": False} if no_skip else {})
    config = build_config(SegmentConfig, tree, "segment")
    if dry_run:
        from pipeline.runs.segment_folder import plan_segmentation, try_model

        plan = plan_segmentation(config)
        try_model(plan)
        for line in plan.lines():
            click.echo(line)
        ctx.exit(3 if plan.refused or plan.short_of_disk else 0)
    summary = _segment_by_flow(config) if os.environ.get("PREFECT_API_URL") else _segment_here(config)
    _tell_segmented(summary)
    ctx.exit(summary.exit_code)


def _segment_here(config: "SegmentConfig") -> "SegmentSummary":
    from flows.progress import LiveProgress
    from pipeline.runs.segment_folder import segment_folder

    with LiveProgress() as watch:
        return segment_folder(config, watch=watch)


def _segment_by_flow(config: "SegmentConfig") -> "SegmentSummary":
    from flows.segment import segment_config

    return segment_config(config)


def _tell_segmented(summary: "SegmentSummary") -> None:
    from flows.progress import show_seconds

    counts = f"{summary.done:,} done, {summary.skipped:,} skipped, {summary.failed:,} failed"
    made = "class maps" if summary.objects is None else f"{summary.objects:,} objects"
    click.echo(f"{counts}; {made} in {show_seconds(summary.seconds)}")
    for failed in summary.failures[:MOST_TOLD]:
        where = "" if failed.case in failed.error else f"{failed.case}: "
        click.echo(f"failed    {where}{failed.error}; {failed.hint}")
    if summary.failed:
        more = f"all {summary.failed:,}, and what to do" if summary.failed > MOST_TOLD else "columns error and hint"
        click.echo(f"table     {summary.out / 'images.csv'} ({more})")
    click.echo(f"report    {summary.out / 'report.html'}")
    if summary.run_url:
        click.echo(f"MLflow    {summary.run_url}")
    elif summary.run_id:
        click.echo(f"MLflow    run {summary.run_id} (maskline serve shows it)")


@click.command(short_help="Re-hash a results folder against its ledger.")
@click.argument("folder", type=FOLDER)
@click.pass_context
def verify(ctx: click.Context, folder: Path) -> None:
    """Re-hash everything in a results FOLDER and compare it with its ledger.

    Exit code 3 when something is missing or was changed; `maskline segment` on the same folder puts it right.
    """
    from flows.progress import LiveProgress
    from pipeline.runs.verify_folder import verify_folder

    with LiveProgress() as watch:
        verified = verify_folder(folder, watch)
    for line in verified.lines():
        click.echo(line)
    ctx.exit(0 if verified.ok else 3)


COMMANDS: tuple[click.Command, ...] = (ingest, train, segment, verify)
