"""Option types of the command line, and what turns options into a config."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
NEW = click.Path(path_type=Path)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
SEGMENT_DEVICE = click.option(
    "--device", help="auto, cpu, cuda, cuda:1, mps, or cuda:0,cuda:1 to share the work.  [default: auto]"
)
ENGINE = click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "torch-bfloat16", "openvino", "openvino-int8"]),
    help="What runs the network on a CPU; bfloat16 and int8 are quicker and less exact.  "
    "[default: auto, float32 by OpenVINO where it is installed]",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of the CPU that predict.  [default: all]",
)
NO_SKIP = click.option("--no-skip", is_flag=True, help="Predict background too, where the model would leave it out.")
TTA = click.option("--tta", is_flag=True, help="Mean over eight flips and turns: eight times the work.")
PAGES = click.option(
    "--pages",
    type=click.Choice(["refuse", "stack", "channels"]),
    help="What the pages of a TIFF, time points, or the 4th axis of a NIfTI are.  [default: refuse]",
)
SERIES = click.option("--series", metavar="N|NAME", help="Which image of a file that holds several, from 0 or by name.")
TIME = click.option("--time", type=click.IntRange(0), metavar="N", help="Which time point of a series, from 0.")
MODEL = "shipped:NAME, a registered NAME[@alias|/version], or the folder of a model or of its training."
NO_TRACK = click.option("--no-track", is_flag=True, help="Leave MLflow out of it.")


def parse_duration(text: str) -> float:
    """Seconds in a duration like 90s, 30m, 1h30m; raises ValueError for anything else.

    >>> parse_duration("1h30m"), parse_duration("1.5m"), parse_duration("90s")
    (5400.0, 90.0, 90.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Diameter(click.ParamType[float | str]):
    """Pixels, a length with its unit, `auto`, or `native`."""

    name = "px|8um|auto|native"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value in ("auto", "native") or re.fullmatch(r"\d*\.?\d+\s*[uµμm]m", str(value).strip()):
            return str(value)
        try:
            pixels = float(value)
        except ValueError:
            pixels = 0.0
        if not pixels > 0:
            wanted = "a number of pixels above 0, nor a length such as 8um, nor auto, nor native"
            self.fail(f"{value!r} is neither {wanted}", param, ctx)
        return pixels


DIAMETER = click.option(
    "--diameter",
    type=Diameter(),
    help="How large the objects are: 30 (pixels), or 8um where the pixel size is known.  "
    "[default: auto, by the pixel size where the model has one, else found in each image]",
)
PIXEL_SIZE = click.option(
    "--pixel-size",
    type=click.FloatRange(0, min_open=True),
    help="Micrometres a pixel of the full image, where its file does not say it or is wrong.",
)


class Duration(click.ParamType[float]):
    """A duration with its unit: 90s, 30m, 1h30m. The value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value if isinstance(value, float) else parse_duration(value)
        except ValueError:
            self.fail(f"{value!r} is no duration; write it with its unit: 90s, 30m or 1h30m", param, ctx)
        if seconds <= 0:
            self.fail("the time has to be above 0", param, ctx)
        return seconds


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were said on the command line: not None, not an empty list, not a flag left off.

    >>> given({"limit": None, "include": (), "force": False, "channel": 0})
    {'channel': 0}
    """
    return {key: value for key, value in options.items() if value is not None and value != () and value is not False}
