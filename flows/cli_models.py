"""`maskline models`: list, show, describe, promote, quantise and export."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.options import EXISTING, NEW

if TYPE_CHECKING:
    from pipeline.results.tracking import Tracking

REGISTRY = "maskline"  # the experiment that the registry's own runs belong to


@click.group(short_help="List, show, describe, promote, quantise and export models.")
def models() -> None:
    """The models: those that ship, and those that were trained here.

    A MODEL is shipped:NAME, a registered NAME (its champion), NAME@alias or NAME/version, or the path of a model
    folder.
    """


def _open() -> "Tracking":
    from flows.addresses import use_running_servers
    from pipeline.results.tracking import open_tracking

    use_running_servers()
    return open_tracking(REGISTRY)


def _registered() -> list[dict[str, Any]]:
    """Every registered version; none where no store was made yet, which takes seconds and is not needed to say so."""
    from flows.addresses import use_running_servers
    from pipeline.results.tracking import embedded_uri

    use_running_servers()
    if not os.environ.get("MLFLOW_TRACKING_URI") and not Path(embedded_uri().removeprefix("sqlite:///")).is_file():
        return []
    return _open().models()


def _find(model: str) -> Path:
    from flows.addresses import use_running_servers
    from pipeline.runs.find_model import find_any_model

    use_running_servers()
    return find_any_model(model)


@models.command("list", epilog="\b\nExample:\n  maskline models list")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def list_models(as_json: bool) -> None:
    """All models, with version, aliases and when they were registered."""
    from pipeline.shipped import FOLDER

    names = sorted(record.parent.name for record in FOLDER.glob("*/model.json"))
    registered = _registered()
    if as_json:
        shipped = [{"name": f"shipped:{name}"} for name in names]
        click.echo(json.dumps({"format_version": 1, "models": shipped + registered}, indent=2))
        return
    for name in names:
        click.echo(f"{'shipped:' + name:<24} comes with maskline")
    for row in registered:
        when = datetime.fromtimestamp(row["created"] / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        aliases = " ".join(f"@{alias}" for alias in row["aliases"])
        click.echo(f"{row['name'] + '/' + row['version']:<24} {when}  {aliases}".rstrip())


@models.command(epilog="\b\nExample:\n  maskline models show nuclei@champion")
@click.argument("model")
def show(model: str) -> None:
    """The whole record of MODEL, as JSON: what inference goes by, and where it comes from."""
    click.echo((_find(model) / "model.json").read_text(encoding="utf-8").rstrip())


@models.command(epilog="\b\nExample:\n  maskline models describe shipped:nuclei")
@click.argument("model")
def describe(model: str) -> None:
    """What MODEL is, in words: its card if it has one, else the main points of its record."""
    folder = _find(model)
    card = folder / "README.md"
    if card.is_file():
        click.echo(card.read_text(encoding="utf-8").rstrip())
        return
    for line in describe_record(json.loads((folder / "model.json").read_text(encoding="utf-8"))):
        click.echo(line)


def describe_record(record: Mapping[str, Any]) -> list[str]:
    """The main points of a model's record, a line each."""
    halo = f"{record['halo']} px, tiles are exact" if record.get("halo") is not None else "none: windows are blended"
    diameter = f"{record['diameter']:.0f} px" if record.get("diameter") else "not recorded"
    lines = [
        f"name        {record['name']}",
        f"network     {record['network']['kind']}, {record['prepare']['channels']} channels in",
        f"predicts    {', '.join(record['outputs'])}",
        f"tiles       halo {halo}; stride {record['stride']}",
        f"objects     median diameter {diameter}",
        f"thresholds  {', '.join(f'{key} {value}' for key, value in record['thresholds'].items())}",
    ]
    provenance = {
        key: value for key, value in record.get("provenance", {}).items() if isinstance(value, str | int | float)
    }
    return lines + [f"{key:<11} {value}" for key, value in provenance.items()]


@models.command(
    epilog="""\b
Examples:
  maskline models promote nuclei 3
  maskline models promote nuclei 3 --alias gpu-worker
"""
)
@click.argument("name")
@click.argument("version")
@click.option("--alias", default="champion", show_default=True, help="Which alias to give it.")
@click.option(
    "--anyway", is_flag=True, help="Also when it is not known to be better than the one that holds the alias."
)
def promote(name: str, version: str, alias: str, anyway: bool) -> None:
    """Give an alias of NAME to VERSION, so that NAME@alias means it from now on. Nothing else moves an alias.

    The scores of both on the validation images of one and the same manifest are compared first.
    """
    from pipeline.runs.promote_model import promote_model

    for line in promote_model(_open(), name, version, alias, anyway=anyway):
        click.echo(line)


@models.command(epilog="\b\nExample:\n  maskline models quantise shipped:nuclei --data dsb2018.csv")
@click.argument("model")
@click.option("--data", type=EXISTING, required=True, help="A manifest CSV with training and validation images.")
def quantise(model: str, data: Path) -> None:
    """Make an int8 copy of MODEL beside it, for --engine openvino-int8: about three times as quick on a CPU.

    It is calibrated on training images and kept only if Dice on the validation images drops by 0.001 at most. Needs the
    extra maskline[openvino].
    """
    from flows.addresses import use_running_servers
    from flows.progress import LiveProgress
    from pipeline.runs.quantise_model import quantise_model

    use_running_servers()
    with LiveProgress() as watch:
        lines = quantise_model(model, data, watch)
    for line in lines:
        click.echo(line)


@models.command(epilog="\b\nExample:\n  maskline models export nuclei@champion nuclei-for-the-other-lab")
@click.argument("model")
@click.argument("folder", type=NEW)
def export(model: str, folder: Path) -> None:
    """Copy MODEL into a new FOLDER: safetensors and JSON, to take along and give to --model."""
    import shutil

    from pipeline.errors import OutputError

    source = _find(model)
    if folder.exists():
        raise OutputError(f"export to {folder}", "something there already", "a new folder", "name another one")
    shutil.copytree(source, folder)
    click.echo(f"{model} -> {folder}")


COMMANDS: tuple[click.Command, ...] = (models,)
