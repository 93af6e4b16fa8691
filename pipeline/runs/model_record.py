"""A model's record as plain values, for who must not wait for torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import ClassesTarget, colours_of

RECORD = "model.json"  # as pipeline.model.bundle has it


def read_record(model: Path) -> dict[str, Any]:
    """The model's record as plain values; empty where it is no JSON (loading it says why)."""
    try:
        record = json.loads((model / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def class_key(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the numbers of a model's labels mean: value, name and colour `[r, g, b]` of each class; empty for objects.

    >>> class_key({"target": {"kind": "classes", "names": ["none", "cell"]}})[1]
    {'value': 1, 'name': 'cell', 'colour': [255, 76, 76]}
    >>> class_key({"target": {"kind": "separated"}}), class_key({})
    ([], [])
    """
    target = record.get("target", {})
    if target.get("kind") != "classes":
        return []
    known = ClassesTarget.model_validate(target)
    pairs = zip(known.names, colours_of(known), strict=True)
    return [{"value": value, "name": name, "colour": list(colour)} for value, (name, colour) in enumerate(pairs)]
