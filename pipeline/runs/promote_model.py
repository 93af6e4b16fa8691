"""Give an alias to a registered model, after comparing it with the one that holds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.results.tracking import Tracking

SCORES = ("val_map", "val_dice")  # of objects, of classes; on the validation images of the manifest on record


def _provenance(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("provenance", {})
    return found


def judge(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """Why `new` is not known to be better than `old`, by their provenance; "" when it is.

    >>> first, second = {"manifest_digest": "a", "val_map": 0.50}, {"manifest_digest": "a", "val_map": 0.55}
    >>> judge(second, first)
    ''
    >>> judge(first, second)
    'its val_map is 0.5000, that of the other 0.5500'
    >>> judge(second, {"manifest_digest": "b", "val_map": 0.5})
    'they were validated on different data'
    """
    score = next((name for name in SCORES if name in new and name in old), "")
    if not score:
        return f"{' or '.join(SCORES)} is not on record for both"
    if not new.get("manifest_digest") or new.get("manifest_digest") != old.get("manifest_digest"):
        return "they were validated on different data"
    if new[score] <= old[score]:
        return f"its {score} is {new[score]:.4f}, that of the other {old[score]:.4f}"
    return ""


def promote_model(tracking: Tracking, name: str, version: str, alias: str, *, anyway: bool = False) -> list[str]:
    """Move `alias` to `version`, unless it is not known to be better than the holder; answers what to tell.

    Raises ModelError in that case (not with `anyway`), TrackingError when there is no such version.
    """
    rows = [row for row in tracking.models() if row["name"] == name]
    holder = next((row["version"] for row in rows if alias in row["aliases"]), None)
    folder = tracking.resolve(name, version)
    number = next((row["version"] for row in rows if version == row["version"] or version in row["aliases"]), version)
    if holder == number:
        return [f"{name}/{number} is @{alias} already"]
    if holder is not None and not anyway:
        doubt = judge(_provenance(folder), _provenance(tracking.resolve(name, holder)))
        if doubt:
            where, wanted = f"{name}/{number}", f"one that is known to be better than {name}/{holder}"
            raise ModelError(where, f"a model of which this holds: {doubt}", wanted, "compare them, then add --anyway")
    tracking.promote(name, number, alias)
    before = f", which was {name}/{holder}" if holder else ""
    return [f"{name}/{number} is now @{alias}{before}"]
