"""The sides of tiles' cores that were measured on this machine, as files remember them; needs no torch."""

import json
import platform
from pathlib import Path

from pipeline.data.files import maskline_home
from pipeline.types import FORMAT_VERSION

LARGEST_CORE = 1024  # px; what accelerators begin with
MADE_AHEAD = 4  # tiles that wait with memory of their own, as they were magnified
_STREAMED = {"torch": 768, "openvino": 768}


def largest_streamed(engine: str) -> int:
    """The side of the largest core that an engine of the CPU is given of a streamed image, by its name.

    In float32 two larger tiles and what else streaming holds are more than 2 GB.
    """
    return _STREAMED.get(engine, LARGEST_CORE)


def core_file(digest: str, engine: str, threads: int | str) -> Path:
    """The file that keeps what was measured; folders may be shared by machines, so each has its own."""
    return maskline_home() / "cache" / "tiles" / f"{digest[:16]}-{engine}-{threads}-{platform.node()}.json"


def read_core(file: Path) -> int | None:
    """The core that is kept there, None where there is none."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        return int(tree["core"]) if tree["format_version"] == FORMAT_VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not measured yet, or damaged: it is measured again


def remembered_core(digest: str, engine: str, threads: int | None = None) -> int | None:
    """What a model (by the `digest` of its record) was measured to be quickest with; without a number of `threads`, by
    what was measured last. None where nothing is remembered.
    """
    pattern = core_file(digest, engine, threads or "*")
    files = sorted(pattern.parent.glob(pattern.name), key=lambda file: file.stat().st_mtime)
    return read_core(files[-1]) if files else None
