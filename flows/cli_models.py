"""`maskline models`: list, show, describe, promote, quantise, skip and export."""

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.names import config_path, shipped_configs
from flows.options import EXISTING, NEW
from pipeline.errors import ModelError, TrackingError

if TYPE_CHECKING:
    from pipeline.results.tracking import Tracking

REGISTRY = "maskline"  # the experiment that the registry's own runs belong to


@click.group(short_help="List, show, describe, promote, quantise, copy and export models.")
def models() -> None:
    """The models: those that ship, and those that were trained here.

    A MODEL is shipped:NAME, a registered NAME (its champion), NAME@alias or NAME/version, or the folder of a
    model or of its training.
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


@models.command(
    epilog="""\b
Examples:
  maskline models describe shipped:nuclei
  maskline models describe nuclei --shape 1024x1024
  maskline models describe guide-clean
  maskline models describe my-config.yaml
"""
)
@click.argument("name", metavar="MODEL|CONFIG")
@click.option("--shape", default="", metavar="[Z x] Y x X", help="Describe the network at this input, e.g. 512x512.")
@click.option("--layers", is_flag=True, help="Also a model's network: layers, receptive field, work and memory.")
def describe(name: str, shape: str, layers: bool) -> None:
    """What MODEL is, in words; or the network of MODEL or of a training's CONFIG, layer by layer.

    A MODEL's card if it has one, else the main points of its record. A CONFIG is a YAML file, or the name of one that
    ships where no model is registered under it.
    """
    folder = _model_or_config(name)
    if folder.is_file():
        from pipeline.runs.describe_network import describe_config

        _say(describe_config(folder, _sides(shape)).lines())
        return
    if shape or layers:
        from pipeline.runs.describe_network import describe_model

        _say(describe_model(folder, _sides(shape)).lines())
        return
    from pipeline.model.bundle import CARD

    card = folder / CARD
    if card.is_file():
        click.echo(card.read_text(encoding="utf-8").rstrip())
        return
    _say(describe_record(json.loads((folder / "model.json").read_text(encoding="utf-8"))))


def _model_or_config(name: str) -> Path:
    """The folder of a model, or the file of a config; raises what `find_any_model` does for what is neither.

    TrackingError, too, where the registry cannot say whether a model has the name of a config.
    """
    if Path(name).suffix in {".yaml", ".yml"}:
        return config_path(name)
    try:
        return _find(name)
    except (ModelError, TrackingError):
        if name not in shipped_configs() or any(row["name"] == name for row in _registered()):
            raise
        return config_path(name)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _sides(shape: str) -> tuple[int, ...]:
    """Sides as `512x512` says them; raises UsageError where it says something else."""
    from pipeline.errors import UsageError

    sides = shape.replace(" ", "").split("x") if shape else []
    if not all(side.isdecimal() for side in sides):
        raise UsageError("--shape", repr(shape), "whole numbers with x between", "give it as 256x256")
    return tuple(int(side) for side in sides)


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


@models.command(epilog="\b\nExample:\n  maskline models tune shipped:nuclei --data MY_MASKS.csv --out nuclei-mine")
@click.argument("model")
@click.option("--data", type=EXISTING, required=True, help="A manifest CSV with validation images.")
@click.option("--out", type=NEW, required=True, help="Where the copy goes; must not exist yet.")
def tune(model: str, data: Path, out: Path) -> None:
    """Make a copy of MODEL with thresholds chosen anew on your labelled images; nothing is trained, minutes at most.

    Thresholds are what a training chooses at its end, on the same split (val): those with the best mean of Data
    Science Bowl score, AP@.5 and Dice. Refused where none are better than the model's own.
    """
    from flows.addresses import use_running_servers
    from flows.progress import LiveProgress
    from pipeline.runs.tune_model import tune_model

    use_running_servers()
    with LiveProgress() as watch:
        lines = tune_model(model, data, out, watch)
    for line in lines:
        click.echo(line)


@models.command(
    epilog="\b\nExample:\n  maskline models skip nuclei --low -0.1 --high 0.1 --tolerance 0.05 --out nuclei-skips"
)
@click.argument("model")
@click.option("--out", type=NEW, required=True, help="Where the copy goes; must not exist yet.")
@click.option("--low", type=float, default=-0.5, show_default=True, help="Least value; 0 is an image's dark.")
@click.option("--high", type=float, default=1.5, show_default=True, help="Largest value; 1 is an image's bright.")
@click.option("--tolerance", type=float, default=0.02, show_default=True, help="How far values of a tile may differ.")
def skip(model: str, out: Path, low: float, high: float, tolerance: float) -> None:
    """Make a copy of MODEL that does not predict flat background, if it can be trusted to.

    It is given the wildest tiles that the rule calls flat, and refused where it answers any of them with a probability
    within 0.1 of its threshold.
    """
    from flows.addresses import use_running_servers
    from pipeline.runs.skip_background import skip_background

    use_running_servers()
    for line in skip_background(model, out, low, high, tolerance):
        click.echo(line)


@models.command(
    epilog="""\b
Examples:
  maskline models export nuclei@champion --out nuclei-for-the-other-lab
  maskline models export nuclei --format onnx --out nuclei.onnx
  maskline models export nuclei --format bioimageio --out nuclei.zip --author "A. Author" --licence MIT
"""
)
@click.argument("model")
@click.option(
    "--format",
    "form",
    type=click.Choice(["folder", "torch", "onnx", "bioimageio"]),
    default="folder",
    show_default=True,
    help="maskline's folder, a torch.export program, ONNX, or a bioimage.io package.",
)
@click.option("--out", type=NEW, required=True, help="Where to; must not exist yet.")
@click.option("--author", default="", help="Who made it, for bioimage.io.")
@click.option("--licence", default="CC-BY-4.0", show_default=True, help="Its SPDX name, for bioimage.io.")
def export(model: str, form: str, out: Path, author: str, licence: str) -> None:
    """Take MODEL elsewhere. Every format carries the model's record; onnx and bioimageio need maskline[export].

    What is exported answers with probabilities of a prepared image, and is checked against torch to 1e-4.
    """
    from flows.addresses import use_running_servers
    from pipeline.runs.export_model import as_format, export_model

    use_running_servers()
    _say(export_model(model, as_format(form), out, author=author, licence=licence).lines())


COMMANDS: tuple[click.Command, ...] = (models,)
