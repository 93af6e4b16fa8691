"""Labelled images of a manifest as a model takes them, for what is measured on them outside a training."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.manifest import Manifest
from pipeline.errors import InputError
from pipeline.types import Case, Event, Watch

if TYPE_CHECKING:
    from pipeline.model.bundle import ModelRecord
    from pipeline.training.dataset import Example


def labelled_examples(
    manifest: Manifest, data: Path, split: str, record: "ModelRecord", watch: Watch, most: int | None = None
) -> list["Example"]:
    """The labelled images of one split, at most `most`, spread over all. Raises InputError where there is none."""
    cases = [case for case in manifest.split(split) if case.mask_kind != "none"]
    if not cases:
        raise InputError(str(data), f"no labelled image in split {split}", "one at least", "give a manifest with one")
    kept = cases if most is None else cases[:: -(-len(cases) // most)]
    examples = []
    for number, case in enumerate(kept, start=1):
        examples.append(_example(case, record))
        watch(Event(f"load {split}", number, len(kept)))
    return examples


def _example(case: Case, record: "ModelRecord") -> "Example":
    from pipeline.data.ingest import load_case
    from pipeline.model.prepare import fit, take_channels
    from pipeline.training.dataset import Example

    image, labels = load_case(case)
    pixels = take_channels(image.pixels, record.prepare.channels)
    return Example(case, pixels, labels, fit(pixels, record.prepare, stride=record.stride))
