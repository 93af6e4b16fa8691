"""An int8 copy of a model for `--engine openvino-int8`, made and judged on labelled images."""

from pathlib import Path

from pipeline.config import ClassesTarget
from pipeline.data.manifest import load_data
from pipeline.errors import ModelError
from pipeline.runs.find_model import find_any_model
from pipeline.runs.labelled_examples import labelled_examples
from pipeline.types import Watch, unwatched

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
    calibration = labelled_examples(manifest, data, "train", model.record, watch, CALIBRATION)
    validation = labelled_examples(manifest, data, "val", model.record, watch, VALIDATION)
    done = quantise(model, calibration, validation, torch.get_num_threads())
    return [
        f"Dice      {done.before:.4f} in float32, {done.after:.4f} in int8, on {len(validation)} validation images",
        f"kept      {done.file}",
        f"use it    maskline segment FOLDER --out DIR --model {name} --engine openvino-int8",
    ]
