"""A copy of a model that knows background: flat tiles are not predicted, as it was measured to find nothing there."""

from pathlib import Path

from pipeline.config import ClassesTarget
from pipeline.errors import ModelError, UsageError
from pipeline.runs.copy_model import copy_model, refuse_existing
from pipeline.runs.find_model import find_any_model

MARGIN = 0.1  # of probability below the threshold that the largest answer has to stay
_AROUND = 256  # px of a measured tile besides its halos


def skip_background(name: str, out: Path, low: float, high: float, tolerance: float) -> list[str]:
    """Copy a model to `out` with the rule that flat tiles are background; returns what to tell, line by line.

    A tile is flat when its normalised values lie in `low`..`high` (0 and 1 are the image's dark and bright) and within
    `tolerance` of each other. Raises ModelError where the model is not one of objects in images or its windows are
    blended, or where it answers flat tiles with more than the foreground's threshold less `MARGIN`; OutputError where
    `out` exists; UsageError for an empty range.
    """
    from pipeline.inference.background import foreground_of_flat
    from pipeline.inference.engines import make_engine
    from pipeline.model.bundle import FlatBackground, load_model

    if not (low < high and 0 < tolerance <= high - low):
        came = f"{low:g}..{high:g} within {tolerance:g}"
        raise UsageError("--low, --high, --tolerance", came, "a range and what lies in it", "give other values")
    folder = find_any_model(name)
    model = load_model(folder)
    record = model.record
    if record.halo is None or record.volume is not None or isinstance(record.target, ClassesTarget):
        wanted = "one of objects in images whose tiles are exact"
        raise ModelError(f"skipping with {name}", "another kind of model", wanted, "use it as it is")
    refuse_existing(out)
    rule = FlatBackground(low=low, high=high, tolerance=tolerance)
    side = -(-(_AROUND + 2 * record.halo) // record.stride) * record.stride
    engine = make_engine(model, "cpu", "torch")
    most, limit = foreground_of_flat(engine, record.prepare.channels, rule, side), model.thresholds.foreground - MARGIN
    if not most < limit:
        came, hint = f"{most:.3f} as the largest answer to flat tiles", "narrow the rule, or train with blank fields"
        raise ModelError(f"skipping with {name}", came, f"less than {limit:.3f}", hint)
    note = f"Flat tiles of {low:g} to {high:g} are taken for background in this copy (`maskline models skip`)."
    copy_model(folder, out, {"background": rule.model_dump()}, note)
    return [
        f"largest answer to flat tiles {most:.3f}, threshold {model.thresholds.foreground:.3f}",
        f"kept      {out}",
        f"use it    maskline segment FOLDER --out DIR --model {out}",
    ]
