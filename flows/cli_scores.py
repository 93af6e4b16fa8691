"""`maskline evaluate`, `score` and `compare`."""

from pathlib import Path
from typing import Any

import click

from flows.options import (
    DIAMETER,
    ENGINE,
    EXISTING,
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
    given,
)

SPLITS = click.Choice(["train", "val", "test", "all"])


@click.command(
    short_help="Predict labelled images, then score.",
    epilog="""\b
Examples:
  maskline evaluate --data dsb2018.csv --model runs/first --out runs/first/test
  maskline evaluate --data dsb2018.csv --model nuclei@champion --split val --out scores --json
""",
)
@click.option("--data", type=EXISTING, required=True, help="A manifest CSV, or a labelled folder.")
@click.option("--model", help=f"{MODEL}  [default: shipped:nuclei]")
@click.option("--out", type=NEW, required=True, help="Where scores.json and the tables go.")
@click.option("--split", type=SPLITS, help="Which part of the manifest.  [default: test]")
@PIXEL_SIZE
@DIAMETER
@TTA
@PAGES
@SERIES
@TIME
@click.option("--bootstrap", type=click.IntRange(1), help="Resamplings for the intervals.  [default: 1000]")
@click.option("--json", "as_json", is_flag=True, help="Print all scores for a program.")
@SEGMENT_DEVICE
@ENGINE
@THREADS
@NO_SKIP
@NO_TRACK
@click.pass_context
def evaluate(ctx: click.Context, /, as_json: bool, no_skip: bool, no_track: bool, **options: Any) -> None:
    """Predict labelled images, then score the predictions: overall, per modality and per group.

    Exit code 3 when some images could not be scored; they are named and left out of the numbers.
    """
    from flows.addresses import use_running_servers
    from flows.progress import LiveProgress
    from pipeline.config import EvaluateConfig, build_config
    from pipeline.runs.evaluate_model import evaluate_model

    use_running_servers()
    off = ({"track": False} if no_track else {}) | ({"skip": False} if no_skip else {})
    config = build_config(EvaluateConfig, given(options) | off, "evaluate")
    with LiveProgress() as watch:
        scores = evaluate_model(config, watch)
    ctx.exit(_tell_scores(scores, as_json))


@click.command(
    short_help="Score label files that exist already.",
    epilog="""\b
Examples:
  maskline score --predicted runs/plate7/labels --truth plate7-corrected
  maskline score --predicted other-tool/ --truth dsb2018.csv --split test --out scores --json
""",
)
@click.option("--predicted", type=FOLDER, required=True, help="A folder of label images.")
@click.option("--truth", type=EXISTING, required=True, help="A manifest CSV, or a labelled folder.")
@click.option("--split", type=SPLITS, default="all", show_default=True, help="Which part of the manifest.")
@click.option(
    "--masks",
    type=click.Choice(["instances", "classes"]),
    default="instances",
    show_default=True,
    help="What the numbers of a folder's label images are; a manifest says it.",
)
@click.option(
    "--ignore",
    type=click.IntRange(0, 255),
    default=255,
    show_default=True,
    help="The class number that does not count.",
)
@click.option("--out", type=NEW, help="Where scores.json and scores.csv go, if anywhere.")
@click.option(
    "--bootstrap", type=click.IntRange(1), default=1000, help="Resamplings for the intervals.  [default: 1000]"
)
@click.option("--json", "as_json", is_flag=True, help="Print all scores for a program.")
@click.pass_context
def score(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Score label files that exist already, whoever made them.

    An image without a label file counts as one in which nothing was found. Exit code 3 when some files could not be
    scored; they are named and left out of the numbers.
    """
    from flows.progress import LiveProgress
    from pipeline.runs.evaluate_model import score_folder

    with LiveProgress() as watch:
        scores = score_folder(watch=watch, **options)
    ctx.exit(_tell_scores(scores, as_json))


@click.command(
    short_help="Put evaluated models side by side.",
    epilog="""\b
Examples:
  maskline compare runs/first/test runs/second/test
  maskline compare runs/*/test --name ours --name theirs --out comparison
""",
)
@click.argument("runs", metavar="RUN RUN [RUN ...]", nargs=-1, required=True)
@click.option("--name", "names", multiple=True, help="What to call a run; repeat it, in the order of the RUNs.")
@click.option("--common", is_flag=True, help="Compare on the images that all runs scored, where some lack some.")
@click.option("--out", type=NEW, help="Where compare.csv, compare.json and compare.png go, if anywhere.")
@click.option(
    "--bootstrap", type=click.IntRange(1), default=1000, help="Resamplings for the intervals.  [default: 1000]"
)
@click.option("--json", "as_json", is_flag=True, help="Print everything for a program.")
@NO_TRACK
def compare(
    runs: tuple[str, ...],
    names: tuple[str, ...],
    common: bool,
    out: Path | None,
    bootstrap: int,
    as_json: bool,
    no_track: bool,
) -> None:
    """Compare models that were evaluated on the same images: scores, parameters, speed, memory.

    A RUN is the output folder of `maskline evaluate` or `score`, or the id of an evaluation's run in MLflow. Intervals
    hold 95 % of resamples of whole images, or of whole groups. Under each run but the first stands its difference from
    the first, whose interval comes from the same resamples: where it leaves out 0, the runs differ.

    Runs that did not score the same images against the same truth are refused; --common compares them on those that
    they did.
    """
    import json

    from flows.addresses import use_running_servers
    from pipeline.runs.compare_runs import compare_runs

    use_running_servers()
    comparison = compare_runs(runs, names, common=common, bootstrap=bootstrap, out=out, track=not no_track)
    lines = [json.dumps(comparison.as_json(), indent=2)] if as_json else comparison.lines()
    for line in lines:
        click.echo(line)


def _tell_scores(scores: dict[str, Any], as_json: bool) -> int:
    """Show the scores; the exit code they call for."""
    import json

    from pipeline.runs.evaluate_model import score_table

    click.echo(json.dumps(scores, indent=2) if as_json else score_table(scores))
    return 3 if scores["failed"] else 0


COMMANDS: tuple[click.Command, ...] = (evaluate, score, compare)
