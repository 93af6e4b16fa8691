"""`maskline data`: the public data sets of the guides."""

import os
import sys
from pathlib import Path

import click

from flows.options import FILE, NEW


@click.group(short_help="Fetch the public data sets of the guides.")
def data() -> None:
    """The public data sets that the guides train on, from where their makers put them."""


@data.command("list", epilog="\b\nExample:\n  maskline data list")
def list_sets() -> None:
    """All sets that `data get` knows, with their licences."""
    from pipeline.data.public_sets import SETS

    width = max(map(len, SETS)) + 2
    for one in SETS.values():
        size = f"{one.size / 1e6:,.0f} MB" if one.size else ""
        account = "by hand: its page takes an account" if one.manual else size
        click.echo(f"{one.name:<{width}}{one.title}")
        click.echo(f"{'':<{width}}{one.licence}{f'; {account}' if account else ''}")


@data.command(
    epilog="""\b
Examples:
  maskline data get hippocampus
  maskline data get pets --out /data/pets --accept-licence
  maskline data get flood --from ~/Downloads/archive.zip
"""
)
@click.argument("name")
@click.option("--out", type=NEW, help="The set's own folder.  [default: NAME below $MASKLINE_DATA, else below ./data]")
@click.option(
    "--from", "files", type=FILE, multiple=True, help="An archive that you downloaded; repeat it where a set has more."
)
@click.option("--accept-licence", is_flag=True, help="Accept the set's licence without being asked.")
def get(name: str, out: Path | None, files: tuple[Path, ...], accept_licence: bool) -> None:
    """Fetch the public data set NAME, check it, unpack it, and lay it out so that maskline reads it.

    `maskline data list` names the sets. Its licence is shown and has to be accepted. A download that broke off is gone
    on with by the same command; a set that is there is left as it is. Archives are compared with the checksum that was
    published for them; where none was, the digest is told and kept, and the next download compared with it. Proxies
    are taken from HTTPS_PROXY.
    """
    from flows.progress import LiveProgress
    from pipeline.data.public_sets import public_set
    from pipeline.runs.get_data import describe_set, get_data, is_there

    wanted = public_set(name)
    folder = out or Path(os.environ.get("MASKLINE_DATA") or "data").expanduser() / name
    accepted = accept_licence
    if not is_there(wanted, folder):
        for line in describe_set(wanted):
            click.echo(line)
        if not accepted and (files or not wanted.manual) and sys.stdin.isatty():
            accepted = click.confirm("Do you accept the licence?", default=False)
    with LiveProgress() as watch:
        got = get_data(wanted, folder, accepted=accepted, files=files, watch=watch)
    for line in got.lines():
        click.echo(line)


COMMANDS: tuple[click.Command, ...] = (data,)
