"""A model's record as plain values, for who must not wait for torch."""

import json
from pathlib import Path
from typing import Any

RECORD = "model.json"  # as pipeline.model.bundle has it


def read_record(model: Path) -> dict[str, Any]:
    """The model's record as plain values; empty where it is no JSON (loading it says why)."""
    try:
        record = json.loads((model / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
