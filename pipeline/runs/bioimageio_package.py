"""A model as a bioimage.io package (model description 0.5): ONNX weights, test tensors, the record beside them."""

import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

import unet
from pipeline.config import Divide, PrepareConfig, ZScore
from pipeline.errors import ModelError
from pipeline.model.bundle import TrainedModel
from pipeline.types import Geometry

_OPSET = 18


def write_package(
    model: TrainedModel, module: nn.Module, onnx: Path, out: Path, free: bool, *, author: str, licence: str
) -> None:
    """Write the package to `out` (a zip file); raises ModelError where bioimageio.spec's validator finds fault."""
    try:
        from bioimageio.spec import ValidationContext, load_description, save_bioimageio_package
    except ImportError as error:
        raise ModelError(
            "export to bioimage.io", f"{error.name} missing", "the export extra", "pip install 'maskline[export]'"
        ) from None
    with tempfile.TemporaryDirectory() as folder, ValidationContext(perform_io_checks=True, root=Path(folder)):
        place = Path(folder)
        raw, answer = _test_tensors(model, module)
        np.save(place / "input.npy", raw)
        np.save(place / "output.npy", answer)
        (place / "weights.onnx").write_bytes(onnx.read_bytes())
        (place / "README.md").write_text(_documentation(model), encoding="utf-8")
        (place / "model.json").write_text(model.record.model_dump_json(indent=2), encoding="utf-8")
        description = _validated(_description(model, place, raw.shape, free, author, licence))
        save_bioimageio_package(description, output_path=out)
    found = load_description(out, perform_io_checks=True)
    if found.validation_summary.status == "failed":
        raise ModelError(f"export to {out.name}", found.validation_summary.format(), "a valid package", "report this")


def _validated(description: dict[str, Any]) -> Any:
    """The description as bioimageio.spec has it; raises ModelError with what it says of the first field at fault."""
    from bioimageio.spec.model.v0_5 import ModelDescr

    try:
        return ModelDescr.model_validate(description)
    except ValidationError as error:
        first = error.errors()[0]
        field, wanted = str(first["loc"][0]), first["msg"].splitlines()[0]
        hint = {"license": "see spdx.org/licenses: MIT, Apache-2.0, CC-BY-4.0", "authors": "change --author"}.get(field)
        raise ModelError(
            f"export to bioimage.io: {field}",
            repr(first["input"])[:80],
            "a name of SPDX's list" if field == "license" else wanted[:200],
            hint or "export it as onnx",
        ) from None


def package_name(name: str) -> str:
    """A name that bioimage.io takes: 5 to 128 of its characters; a short one becomes that of a model.

    >>> package_name("demo"), package_name("nuclei#2"), package_name("д")
    ('demo model', 'nuclei-2', '- model')
    """
    plain = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)[:128].strip()
    return plain if len(plain) >= 5 else f"{plain} model".strip()


def _test_tensors(model: TrainedModel, module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """A raw image `(1, C, (Z,) Y, X)` of values in [0, 255] and the probabilities that belong to it."""
    from pipeline.model.prepare import fit
    from pipeline.model.volumes import fit_volume
    from pipeline.runs.export_model import example_image

    raw = (example_image(model)[:1] * 255).round().numpy()
    native = model.record.prepare.model_copy(update={"size": PrepareConfig().size})
    if raw.ndim == 5:
        prepared = fit_volume(raw[0], Geometry.pixels(3), native, (1, 1, 1)).apply(raw[0])
    else:
        prepared = fit(raw[0], native, stride=1).apply(raw[0])
    with torch.no_grad():
        answer = module(torch.from_numpy(prepared)[None])
    return raw, answer.numpy()


def _documentation(model: TrainedModel) -> str:
    record = model.record
    lines = [
        f"# {record.name}",
        f"A {record.network.kind} trained by maskline: probabilities of {', '.join(record.outputs)}.",
        "How probabilities become objects, at which size it wants its images, and where it comes from is said in the "
        "record, `model.json`, which is also in the metadata of the ONNX file.",
        "## Validation",
        "See the provenance in the record.",
    ]
    return "\n\n".join(lines) + "\n"


def _preprocessing(model: TrainedModel, axes: list[str]) -> list[dict[str, Any]]:
    """What bioimage.io calls our preparation of values: each channel by itself, over `axes`."""
    normalise = model.record.prepare.normalise
    if isinstance(normalise, ZScore):
        by_itself = {"id": "zero_mean_unit_variance", "kwargs": {"axes": axes}}
        return [by_itself, {"id": "clip", "kwargs": {"min": -5.0, "max": 5.0}}]
    if isinstance(normalise, Divide):
        first: dict[str, Any] = {"id": "scale_linear", "kwargs": {"gain": 1 / normalise.by, "offset": 0.0}}
    else:
        limits = {"min_percentile": normalise.low, "max_percentile": normalise.high}
        first = {"id": "scale_range", "kwargs": {"axes": axes, **limits}}
    return [first, {"id": "clip", "kwargs": {"min": -0.5, "max": 1.5}}]


def _answered(axis: str, halo: int | None) -> dict[str, Any]:
    """An axis of the answer: as long as the image's, less the halo for those who tile."""
    known = {"halo": halo} if halo else {}
    return {"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}, **known}


def _description(
    model: TrainedModel, place: Path, shape: tuple[int, ...], free: bool, author: str, licence: str
) -> dict[str, Any]:
    record, stride = model.record, unet.stride_of(model.network)
    axes = ["z", "y", "x"][-len(shape[2:]) :]
    steps = stride if isinstance(stride, tuple) else (stride,) * len(axes)
    sides: dict[str, Any] = dict(zip(axes, shape[2:], strict=True))
    if free:
        sides = {axis: {"min": side, "step": step} for (axis, side), step in zip(sides.items(), steps, strict=True)}
    known = record.volume.halos if record.volume is not None else (record.halo,) * len(axes)
    halos = dict(zip(axes, known or (None,) * len(axes), strict=True))
    channels = [f"channel{number}" for number in range(record.prepare.channels)]
    image = {
        "id": "image",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": channels},
            *({"type": "space", "id": axis, "size": size} for axis, size in sides.items()),
        ],
        "preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}, *_preprocessing(model, axes)],
        "test_tensor": {"source": place / "input.npy"},
    }
    probabilities = {
        "id": "probabilities",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(record.outputs)},
            *(_answered(axis, halos[axis]) for axis in axes),
        ],
        "test_tensor": {"source": place / "output.npy"},
    }
    return {
        "name": package_name(record.name),
        "description": f"{record.network.kind}: probabilities of {', '.join(record.outputs)}"[:512],
        "authors": [{"name": author or "not given"}],
        "cite": [{"text": "Ronneberger et al., U-Net (2015)", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": licence,
        "tags": ["segmentation", "unet", f"{len(axes)}d"],
        "documentation": {"source": place / "README.md"},
        "attachments": [{"source": place / "model.json"}],
        "inputs": [image],
        "outputs": [probabilities],
        "weights": {"onnx": {"source": place / "weights.onnx", "opset_version": _OPSET}},
        "timestamp": datetime.now(UTC).isoformat(),
        "format_version": "0.5.4",
        "type": "model",
    }
