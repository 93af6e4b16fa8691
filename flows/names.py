"""Names that a person may say instead of a path, and the numbers a person asks for first."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

HEADLINE = ("map", "ap50", "ap75", "f1_50", "pq", "aji", "dice_mean", "iou_mean", "miou", "accuracy", "count_error")


def shipped_configs() -> tuple[str, ...]:
    """Names of the configs that come with maskline."""
    folder = resources.files("pipeline.shipped.configs")
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


def config_path(name: str) -> Path:
    """The YAML file that `name` stands for: a path, or the name of a config that ships; raises ConfigError."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"config {name}", "no such file", "a YAML file", "check the path")
    if name not in shipped_configs():
        known = ", ".join(shipped_configs()) or "none"
        raise ConfigError(
            f"config {name}",
            "neither a file nor a known name",
            f"one of {known}",
            "name one of these or give the path of a YAML file",
        )
    return Path(str(resources.files("pipeline.shipped.configs") / f"{name}.yaml"))


def headline(scores: Mapping[str, Any]) -> dict[str, float]:
    """The overall scores that matter first, of those that there are.

    >>> headline({"map": 0.5, "other": 1, "dice_mean": 0.9})
    {'map': 0.5, 'dice_mean': 0.9}
    """
    overall = scores.get("overall", scores)
    return {name: float(overall[name]) for name in HEADLINE if isinstance(overall.get(name), int | float)}
