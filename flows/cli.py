"""The command line: `maskline COMMAND`. Nothing heavy is imported here, so that `maskline --help` answers at once.

Exit codes: 0 all well · 1 could not run · 2 wrong usage or config · 3 finished, some images failed · 4 too many
failed · 130 stopped by Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from flows import cli_data, cli_jobs, cli_models, cli_scores, cli_services
from pipeline.errors import MasklineError

INTERRUPTED = 130

EPILOG = """\b
First steps:
  maskline demo                                  see the whole line run on made images
  maskline segment plate7 --out runs/plate7      labels, tables and a report for a folder of images
  maskline train nuclei --data masks/ --out run1 train the model on your own masks
  maskline serve                                 Prefect and MLflow in the browser, runs on demand and every night

Exit codes: 0 all well; 1 could not run; 2 wrong usage or config; 3 finished, but some images failed; 4 too many failed.
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(package_name="maskline", message="maskline %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, not only its message.")
def cli(debug: bool) -> None:
    """Point it at a folder of scientific or medical images and get labelled objects, measurements and a report.

    Files that maskline keeps for itself (models, cache, the MLflow store) lie in MASKLINE_HOME, by default your
    user-data folder. MLFLOW_TRACKING_URI and PREFECT_API_URL are obeyed where they are set.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # what MLflow says of itself is no news to the user


for command in (
    *cli_jobs.COMMANDS,
    *cli_scores.COMMANDS,
    *cli_models.COMMANDS,
    *cli_data.COMMANDS,
    *cli_services.COMMANDS,
):
    cli.add_command(command)


def _say(message: str) -> None:
    click.echo(f"{click.style('error', fg='red', bold=True)}: {message}", err=True)


def _silence_stdout() -> None:
    """The reader of our output went away (`| head`): let nothing fail at exit when what is left is flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: MasklineError) -> None:
    _say(error.message)
    click.echo(f"  {click.style('what to do', bold=True)}: {error.hint}", err=True)


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """A training goes on only where it is told to; all else finds what is done.

    >>> _how_to_go_on(["train", "nuclei", "--data", "masks"]), _how_to_go_on(["segment", "train"])
    ('the same command with --resume', 'the same command')
    """
    command = next((word for word in arguments if not word.startswith("-")), "")
    return "the same command" + " with --resume" * (command == "train" and "--resume" not in arguments)


def run(arguments: Sequence[str]) -> int:
    """Run one command and answer its exit code; every foreseen error becomes one message on stderr."""
    debug = "--debug" in arguments
    try:
        answer = cli.main(args=list(arguments), prog_name="maskline", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say(f"stopped by Ctrl-C; what is finished is kept, and {_how_to_go_on(arguments)} goes on from there")
        return INTERRUPTED
    except MasklineError as error:
        if debug:
            traceback.print_exc()
        _explain(error)
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return MasklineError.exit_code
    return answer if isinstance(answer, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
