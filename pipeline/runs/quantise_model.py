"""An int8 copy of a model for `--engine openvino-int8`, made and judged on labelled images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import ClassesTarget
from pipeline.data.manifest import load_data
from pipeline.errors import InputError, ModelError
from pipeline.runs.find_model import find_any_model
from pipeline.types import Case, Event, Watch, unwatched

if TYPE_CHECKING:
    from pipeline.model.bundle import ModelRecord
    from pipeline.training.dataset import Example

CALIBRATION, VALIDATION = 64, 200  # images at most


def quantise_model(name: str, data: Path, watch: Watch = unwatched) -> list[str]:
    """Calibrate on training images of a manifest, judge on its validation images; returns what to tell, line by line.

    Raises ModelError where the model is not found or not one of objects in images, the extra is not installed or Dice
    drops by more than 0.001, and InputError where a split has no labelled image.
    """
    import torch

    from pipeline.inference.quantise import quantise
    from pipeline.model.bundle import load_model

    model = load_model(find_any_model(name))
    if model.record.volume is not None or isinstance(model.record.target, ClassesTarget):
        came = f"a model of {'volumes' if model.record.volume is not None else 'classes'}"
        raise ModelError(f"int8 for {name}", came, "one of objects in images", "use it as it is")
    manifest = load_data(data)
    examples = []
    for split, most in (("train", CALIBRATION), ("val", VALIDATION)):
        cases = [case for case in manifest.split(split) if case.mask_kind != "none"]
        if not cases:
            wanted = "one at least"
            raise InputError(str(data), f"no labelled image in split {split}", wanted, "give a manifest with one")
        kept = cases[:: -(-len(cases) // most)]  # spread over all of them
        examples.append([_example(case, model.record) for case in _watched(kept, split, watch)])
    done = quantise(model, examples[0], examples[1], torch.get_num_threads())
    return [
        f"Dice      {done.before:.4f} in float32, {done.after:.4f} in int8, on {len(examples[1])} validation images",
        f"kept      {done.file}",
        f"use it    maskline segment FOLDER --out DIR --model {name} --engine openvino-int8",
    ]


def _watched(cases: Sequence[Case], split: str, watch: Watch) -> Iterator[Case]:
    for number, case in enumerate(cases, start=1):
        yield case
        watch(Event(f"load {split}", number, len(cases)))


def _example(case: Case, record: "ModelRecord") -> "Example":
    from pipeline.data.ingest import load_case
    from pipeline.model.prepare import fit, take_channels
    from pipeline.training.dataset import Example

    image, labels = load_case(case)
    pixels = take_channels(image.pixels, record.prepare.channels)
    return Example(case, pixels, labels, fit(pixels, record.prepare, stride=record.stride))
