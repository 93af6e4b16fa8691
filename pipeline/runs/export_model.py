"""Take a model elsewhere: as maskline's folder, a torch.export program, ONNX, or a bioimage.io package.

What is exported answers with probabilities `(N, K, (Z,) Y, X)` of a prepared image `(N, C, (Z,) Y, X)`, and carries the
model's record. Sides may be any multiple of the stride where torch can trace the network so, else they are fixed.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import unet
from pipeline.config import single_network
from pipeline.data.files import move_into_place, remove, temporary_name
from pipeline.errors import ModelError, UsageError
from pipeline.model.bundle import RECORD, TrainedModel, load_model
from pipeline.model.targets import activate
from pipeline.runs.copy_model import refuse_existing
from pipeline.runs.find_model import find_any_model

Format = Literal["folder", "torch", "onnx", "bioimageio"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
_LEAST = 128  # px a side of the image it is checked with


@dataclass(frozen=True)
class Exported:
    """Where it lies, the largest difference from torch's own answer, and whether sides are free."""

    path: Path
    difference: float
    free_sides: bool

    def lines(self) -> list[str]:
        """A line or two for a person."""
        sides = "any multiple of the stride" if self.free_sides else "fixed, as torch cannot trace it otherwise"
        checked = f"largest difference from torch {self.difference:.1e}; sides {sides}"
        return [str(self.path), *([checked] if np.isfinite(self.difference) else [])]


def as_format(name: str) -> Format:
    """The format of a name; raises UsageError for one that there is not."""
    for form in FORMATS:
        if form == name:
            return form
    raise UsageError("--format", name, f"one of {', '.join(FORMATS)}", "name one of these")


class Probabilities(nn.Module):
    """A trained network with what comes after it: logits to probabilities."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network, self.target = model.network, model.record.target

    def forward(self, image: Tensor) -> Tensor:
        return activate(self.network(image), self.target)


def export_model(name: str, form: Format, out: Path, *, author: str = "", licence: str = "CC-BY-4.0") -> Exported:
    """Write the model that `name` means to `out`, which must not exist yet, and has its name only when it is whole.

    Raises OutputError where `out` exists, and ModelError where a library is missing, the network cannot be exported,
    or the exported model answers with something else than torch (by more than 1e-4).
    """
    refuse_existing(out)
    folder = find_any_model(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    place = temporary_name(out)
    place.mkdir()
    try:
        difference, free = _write(folder, form, place / out.name, author, licence)
        if difference > TOLERANCE or (np.isnan(difference) and form != "folder"):
            came, wanted = f"answers that differ by {difference:.1e}", f"at most {TOLERANCE:.0e}"
            raise ModelError(f"export to {out}", came, wanted, "export it as a folder")
        move_into_place(place / out.name, out)
    finally:
        remove(place)
    return Exported(out, difference, free)


def _write(folder: Path, form: Format, out: Path, author: str, licence: str) -> tuple[float, bool]:
    """The model as `form`; the largest difference from torch (NaN: not compared), and whether sides are free."""
    if form == "folder":
        shutil.copytree(folder, out)
        return float("nan"), True
    model = load_model(folder)
    text = (folder / RECORD).read_text(encoding="utf-8")
    module = Probabilities(model).eval()
    image = example_image(model)
    program, free = trace(module, image, unet.stride_of(model.network))
    checks = _checks(model, image, free)
    if form == "torch":
        torch.export.save(program, out, extra_files={RECORD: text})
        again = torch.export.load(out).module()
        return _difference(module, lambda x: again(x), checks), free
    if form == "onnx":
        return write_onnx(program, module, checks, text, out), free
    from pipeline.runs.bioimageio_package import write_package

    onnx = out.with_name("weights.onnx")
    difference = write_onnx(program, module, checks, text, onnx)
    write_package(model, module, onnx, out, free, author=author, licence=licence)
    return difference, free


def example_image(model: TrainedModel) -> Tensor:
    """A prepared image `(2, C, (Z,) Y, X)` of drawn numbers, large enough for one tile with its halo."""
    stride = unet.stride_of(model.network)
    dimensions = single_network(model.record.network).dimensions
    strides = stride if isinstance(stride, tuple) else (stride,) * dimensions
    least = max(_LEAST if dimensions == 2 else 1, 2 * (model.record.halo or 0) + 1)
    sides = [each * max(2, ceil(least / each)) for each in strides]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, model.record.prepare.channels, *sides, generator=generator)


def trace(module: nn.Module, image: Tensor, stride: int | tuple[int, ...]) -> tuple[ExportedProgram, bool]:
    """The network as a program, and whether batch and sides are free in it; raises ModelError where torch cannot."""
    strides = stride if isinstance(stride, tuple) else (stride,) * (image.ndim - 2)
    shape: dict[int, Any] = {0: Dim("batch", min=1)}
    for axis, (name, each) in enumerate(zip(("z", "y", "x")[-len(strides) :], strides, strict=True), start=2):
        shape[axis] = each * Dim(name, min=2) if each > 1 else Dim(name, min=2)
    with torch.no_grad():
        try:
            if unet.traces_at_any_size(module):
                return torch.export.export(module, (image,), dynamic_shapes=(shape,)), True
        except (RuntimeError, ValueError, TypeError, AssertionError):  # torch's ways of saying so are many
            pass
        try:
            return torch.export.export(module, (image[:1],)), False
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                "export", str(error).splitlines()[0], "a network that torch can trace", "export it as a folder"
            ) from None


def _checks(model: TrainedModel, image: Tensor, free: bool) -> list[Tensor]:
    """What an exported model is tried with: the image it was traced with, and where batch and sides are free, three
    images of other sides, which differ from each other.
    """
    if not free:
        return [image[:1]]
    stride = unet.stride_of(model.network)
    strides = stride if isinstance(stride, tuple) else (stride,) * (image.ndim - 2)
    sides = [side + number * step for number, (side, step) in enumerate(zip(image.shape[2:], strides, strict=True), 1)]
    return [image[:1], torch.rand(3, image.shape[1], *sides, generator=torch.Generator().manual_seed(1))]


def _difference(module: nn.Module, other: Any, images: Sequence[Tensor]) -> float:
    """The largest one over all images; NaN where any answer has one."""
    with torch.no_grad():
        differences = [(module(image) - other(image)).abs().max() for image in images]
        return float(torch.stack(differences).max())


def write_onnx(program: ExportedProgram, module: nn.Module, images: Sequence[Tensor], record: str, out: Path) -> float:
    """The program as ONNX, its record in the metadata; onnxruntime's largest difference from torch on `images`."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch writes ONNX with
    except ImportError as error:
        raise ModelError(
            "export to ONNX", f"{error.name} missing", "the export extra", "pip install 'maskline[export]'"
        ) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nobody needs
    try:
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        said = str(error.__cause__ or error).strip().splitlines()[0]  # the error itself tells how to report it
        raise ModelError("export to ONNX", said, "layers that ONNX has", "export it as torch or as a folder") from None
    assert written is not None
    proto = written.model_proto
    onnx.helper.set_model_props(proto, {"maskline.record": json.dumps(json.loads(record))})
    onnx.checker.check_model(proto)
    out.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return _difference(module, run, images)
