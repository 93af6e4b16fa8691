"""Which folder a model's name means: `shipped:NAME`, a path, or a registered `NAME[@alias|/version]`.

The path may be a training's own folder, `runs/first`, which holds its model in `model/`.
"""

import re
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.results.tracking import Tracking, open_tracking

_REGISTERED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?:@(?P<alias>[A-Za-z0-9_.-]+)|/(?P<version>[0-9]+))?")


def parse_model_name(name: str) -> tuple[str, str] | None:
    """Name and alias or version of a registered model; None for what cannot be one.

    >>> parse_model_name("nuclei"), parse_model_name("nuclei@gpu"), parse_model_name("a/b/c")
    (('nuclei', 'champion'), ('nuclei', 'gpu'), None)
    """
    found = _REGISTERED.fullmatch(name)
    return (found["name"], found["alias"] or found["version"] or "champion") if found else None


def find_any_model(name: str, tracking: Tracking | None = None) -> Path:
    """The model's folder. A folder that exists goes before a registered name; raises ModelError or TrackingError.

    The bare name of a shipped model means that one until a registered version of the name holds `champion`.
    """
    from pipeline.model.bundle import RECORD, find_model, shipped_models

    if name.startswith("shipped:") or (Path(name) / RECORD).is_file():
        return find_model(name)
    if (Path(name) / "model" / RECORD).is_file():
        return find_model(str(Path(name) / "model"))
    registered = parse_model_name(name)
    if registered is None or Path(name).exists():
        raise ModelError(
            f"model {name}",
            f"no {RECORD} there",
            "a model folder, a training's folder, shipped:NAME or a registered name",
            "see `maskline models list`",
        )
    tracking = tracking or open_tracking("maskline")
    if name in shipped_models() and not _has_champion(tracking, name):
        return find_model(f"shipped:{name}")
    return tracking.resolve(*registered)


def _has_champion(tracking: Tracking, name: str) -> bool:
    return any(version["name"] == name and "champion" in version["aliases"] for version in tracking.models())
