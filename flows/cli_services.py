"""`maskline demo`, `serve`, `status` and `doctor`."""

import os
from pathlib import Path
from typing import Any

import click

from flows.options import EXISTING, FOLDER, NEW, Duration


@click.command(
    short_help="See the whole line run once, on made images.",
    epilog="""\b
Examples:
  maskline demo
  maskline demo --data $MASKLINE_DATA/dsb2018 --time-budget 20m
""",
)
@click.option("--data", type=EXISTING, help="A labelled folder or manifest of your own, instead of made images.")
@click.option(
    "--out", type=NEW, default=Path("demo"), show_default=True, help="Where everything goes, MLflow's store included."
)
@click.option("--time-budget", type=Duration(), default="4m", show_default=True, help="How long to train.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other images.")
def demo(data: Path | None, out: Path, time_budget: float, seed: int) -> None:
    """Run the whole line once: images, ingest, a short training, segmentation of unseen images, a report, MLflow runs.

    Everything lies below --out, and nothing outside it is touched.
    """
    out = out.absolute()
    os.environ["MASKLINE_HOME"] = str(out / "home")
    from flows.names import config_path
    from flows.progress import LiveProgress
    from pipeline.config import TrainConfig, load_config
    from pipeline.runs.demo import run_demo

    config = load_config(TrainConfig, config_path("demo"))
    with LiveProgress() as watch:
        shown = run_demo(out, config, data=data, time_budget=time_budget, seed=seed, say=click.echo, watch=watch)
    for line in shown.lines():
        click.echo(line)


def local_timezone() -> str:
    """The name of this machine's time zone, UTC where it has none to tell."""
    name = os.environ.get("TZ", "").lstrip(":")
    link = Path("/etc/localtime")
    if not name and link.is_symlink():
        name = link.resolve().as_posix().partition("zoneinfo/")[2]
    return name or "UTC"


@click.command(
    short_help="Prefect, MLflow and the deployments, in one command.",
    epilog="""\b
Examples:
  maskline serve
  maskline serve --inbox /data/microscope --results /data/results --cron "0 2 * * *"
Then, in another terminal, with the line `export PREFECT_API_URL=...` that serve prints:
  prefect deployment run segment-folder/segment-folder -p folder=/data/plate7 -p out=/data/results/plate7
""",
)
@click.option("--inbox", type=NEW, help="Folder that the nightly run segments.  [default: MASKLINE_HOME/inbox]")
@click.option("--results", type=NEW, help="Where the nightly run's results go.  [default: MASKLINE_HOME/nightly]")
@click.option(
    "--cron", default="0 2 * * *", show_default=True, help="When the nightly run starts, in the time of this machine."
)
@click.option("--prefect-port", type=click.IntRange(1, 65535), help="[default: 4200, or a free one]")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help="[default: 5000, or a free one]")
@click.option(
    "--runs-at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many flow runs may work side by side.",
)
def serve(
    inbox: Path | None,
    results: Path | None,
    cron: str,
    prefect_port: int | None,
    mlflow_port: int | None,
    runs_at_once: int,
) -> None:
    """Prefect server, MLflow pages and the deployments, in one command, on loopback, until Ctrl-C.

    The nightly run takes only what is new or changed in --inbox.
    """
    from flows.deployments import Nightly
    from flows.serve import ServeOptions
    from flows.serve import serve as serve_until_stopped
    from pipeline.data.files import maskline_home

    home = maskline_home().absolute()
    folder, out = (inbox or home / "inbox").absolute(), (results or home / "nightly").absolute()
    nightly = Nightly(folder, out, check_cron(cron), local_timezone())
    serve_until_stopped(ServeOptions(nightly, prefect_port, mlflow_port, runs_at_once), click.echo)


def check_cron(cron: str) -> str:
    """The expression as it is; raises BadParameter for one that Prefect would refuse after a minute of starting up."""
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise click.BadParameter(
            f"{cron!r} is no cron expression; for 2 o'clock every night write '0 2 * * *'"
        ) from None
    return cron


@click.command(short_help="What is running, and the last runs.")
@click.argument("folder", type=FOLDER, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def status(folder: Path | None, as_json: bool) -> None:
    """What is running: the servers, the last runs, and the state of a results FOLDER if one is given."""
    import json

    from flows.status import look, tell

    seen = look(folder)
    if as_json:
        click.echo(json.dumps({"format_version": 1, **seen}, indent=2))
        return
    for line in tell(seen):
        click.echo(line)


@click.command(short_help="Look at this installation.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look at this installation: versions (also known-vulnerable ones), device, servers, free disk.

    Exit code 1 when something has to be put right.
    """
    import json
    from dataclasses import asdict

    from flows.doctor import examine

    checks: list[Any] = examine()
    if as_json:
        click.echo(json.dumps({"format_version": 1, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        marks = {
            "ok": click.style("ok  ", fg="green"),
            "note": click.style("note", fg="yellow"),
            "bad": click.style("BAD ", fg="red"),
        }
        for check in checks:
            click.echo(
                f"{marks[check.verdict]}  {check.name:<14} {check.found}" + (f"  ({check.hint})" if check.hint else "")
            )
    ctx.exit(1 if any(check.verdict == "bad" for check in checks) else 0)


COMMANDS: tuple[click.Command, ...] = (demo, serve, status, doctor)
