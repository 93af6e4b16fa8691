"""A copy of a model with thresholds chosen anew on labelled images; its network stays as it is."""

from dataclasses import asdict
from pathlib import Path

from pipeline.config import ClassesTarget
from pipeline.data.manifest import load_data
from pipeline.errors import InputError, ModelError
from pipeline.runs.copy_model import copy_model, refuse_existing
from pipeline.runs.find_model import find_any_model
from pipeline.runs.labelled_examples import labelled_examples
from pipeline.types import Watch, unwatched


def tune_model(name: str, data: Path, out: Path, watch: Watch = unwatched) -> list[str]:
    """Choose thresholds and the doubtful cut on the validation images of a manifest, as a training does at its end, and
    keep them in a copy of the model at `out`; returns what to tell, line by line.

    Images are taken at their own size. Raises ModelError where the model is not one of objects in images, or no
    thresholds are better than those it has; InputError where there are too few labelled images to choose by;
    OutputError where `out` exists.
    """
    from pipeline.inference.engines import make_engine
    from pipeline.inference.forward import on_grid
    from pipeline.inference.predict import predict
    from pipeline.model.bundle import load_model, record_thresholds
    from pipeline.runs.keep_model import FEW, choose_doubtful
    from pipeline.training.validate import Answer, scores_at, tune_thresholds

    folder = find_any_model(name)
    model = load_model(folder)
    record = model.record
    if record.volume is not None or isinstance(record.target, ClassesTarget):
        came = f"a model of {'volumes' if record.volume is not None else 'classes'}"
        raise ModelError(f"tuning {name}", came, "one of objects in images", "use it as it is")
    refuse_existing(out)
    manifest = load_data(data)
    examples = labelled_examples(manifest, data, "val", record, watch)
    if len(examples) < FEW:
        came, wanted = f"{len(examples)} labelled images in split val", f"{FEW} at least to choose thresholds by"
        raise InputError(str(data), came, wanted, "label more, or let a larger part be val (ingest --fractions)")
    engine = make_engine(model, "cpu", "torch")
    found = []
    for example in examples:
        planes = predict(engine, *on_grid(example.pixels, example.preparation))
        found.append(Answer(example, example.preparation.undo(planes), example.labels, 0.0))
    before, value = scores_at(found, record.target, model.thresholds)
    thresholds, after = tune_thresholds(found, record.target, watch)
    if scores_at(found, record.target, thresholds)[1] <= value:
        came, wanted = f"none better than its own (map {before:.3f})", "a gain on the validation images"
        raise ModelError(f"tuning {name}", came, wanted, "use it as it is")
    tuned = {"manifest_digest": manifest.digest, "images": len(found), "val_map": round(after, 6)}
    made = {key: value for key, value in record.provenance.items() if key != "val_map"}  # with thresholds that are gone
    if made.get("manifest_digest") == manifest.digest:
        made["val_map"] = tuned["val_map"]
    changes = {
        "thresholds": record_thresholds(thresholds).model_dump(),
        "confidence": choose_doubtful(found, record.target, thresholds),
        "provenance": {**made, "tuned": tuned},
    }
    note = (
        f"Thresholds were chosen anew for this copy on {len(found)} validation images (`maskline models tune`): "
        f"map {after:.3f} there, {before:.3f} before."
    )
    copy_model(folder, out, changes, note)
    return [
        f"map       {before:.4f} before, {after:.4f} now, on {len(found)} validation images",
        "chosen    " + ", ".join(f"{name} {value:g}" for name, value in asdict(thresholds).items()),
        f"kept      {out}",
        f"use it    maskline segment FOLDER --out DIR --model {out}",
    ]
