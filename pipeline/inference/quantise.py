"""int8 weights and activations for OpenVINO, by calibration, behind a gate: Dice on validation must not suffer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import ModelError
from pipeline.inference.engines import Engine
from pipeline.inference.forward import on_grid
from pipeline.inference.openvino_engine import INSTALL, OpenVinoEngine, convert, import_openvino, int8_file
from pipeline.inference.predict import predict
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import Preparation
from pipeline.types import Array, Labels

if TYPE_CHECKING:
    import openvino

LARGEST_DROP = 0.001
CROP = 256  # px: side of the crops that activations are measured on
_PREPARING = ("Subtract", "Multiply", "Sigmoid", "Softmax")  # of values and logits, left as they are


class Example(Protocol):
    """A labelled image: `pixels` `(C, Y, X)` with channels as the model takes them, `labels` `(Y, X)`."""

    @property
    def pixels(self) -> Array: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def preparation(self) -> Preparation: ...


@dataclass(frozen=True)
class Quantised:
    """Where the graph lies, and the mean Dice of the foreground over the validation images before and after."""

    file: Path
    before: float
    after: float


def quantise(
    model: TrainedModel, calibration: Sequence[Example], validation: Sequence[Example], threads: int = 1
) -> Quantised:
    """Quantise a model, measure it, and keep it for `--engine openvino-int8` if Dice drops by 0.001 at most.

    `calibration` says what values occur inside the network (some dozens of training images), `validation` decides.
    Raises ModelError where the extra is missing, an example list is empty, or the drop is larger; nothing is kept then.
    """
    if not calibration or not validation:
        raise ModelError("quantising", "no labelled images", "some to calibrate on and some to validate on", "add them")
    graph = calibrate(convert(model), calibration, model.record.stride)
    before = mean_dice(OpenVinoEngine(model, threads), validation, model.thresholds.foreground)
    after = mean_dice(OpenVinoEngine(model, threads, graph), validation, model.thresholds.foreground)
    if before - after > LARGEST_DROP:
        raise ModelError(
            f"int8 for {model.record.name}",
            f"Dice {after:.4f} on {len(validation)} validation images",
            f"at least {before - LARGEST_DROP:.4f} ({before:.4f} in float32, less {LARGEST_DROP})",
            "use --engine openvino, or calibrate on more images",
        )
    return Quantised(_keep(graph, int8_file(model)), before, after)


def mean_dice(engine: Engine, examples: Sequence[Example], threshold: float) -> float:
    """Mean over the images of Dice between foreground and labels; 1 where both are empty."""
    found = []
    for example in examples:
        planes = example.preparation.undo(predict(engine, *on_grid(example.pixels, example.preparation)))
        mask, truth = planes[0] > threshold, example.labels > 0
        total = int(mask.sum()) + int(truth.sum())
        found.append(2 * int((mask & truth).sum()) / total if total else 1.0)
    return float(np.mean(found))


def crops(examples: Sequence[Example], stride: int) -> Iterator[list[Array]]:
    """Of each image, prepared, the crop with most foreground among nine: `Forward`'s inputs, side at most 256 px."""
    for example in examples:
        prepared = example.preparation.apply(example.pixels)
        sides = [min(CROP, side) // stride * stride for side in prepared.shape[1:]]
        y, x = (
            np.linspace(0, whole - side, 3).astype(int) for whole, side in zip(prepared.shape[1:], sides, strict=True)
        )
        boxes = [np.s_[a : a + sides[0], b : b + sides[1]] for a in y for b in x]
        best = max(boxes, key=lambda box: np.std(prepared[(slice(None), *box)]))
        ones = np.ones((1, len(prepared), 1, 1), np.float32)
        yield [np.ascontiguousarray(prepared[(slice(None), *best)])[None], ones * 0, ones]


def calibrate(graph: "openvino.Model", examples: Sequence[Example], stride: int) -> "openvino.Model":
    """The graph with int8 inside, for the values that the examples bring about; raises ModelError without nncf."""
    try:
        import nncf
    except ImportError as error:
        raise ModelError("maskline models quantise", str(error), "nncf", INSTALL) from None
    items = list(crops(examples, stride))
    return nncf.quantize(
        graph,
        nncf.Dataset(items),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(items),
        ignored_scope=nncf.IgnoredScope(types=list(_PREPARING), validate=False),
    )


def _keep(graph: "openvino.Model", file: Path) -> Path:
    """The two files of an IR, weights first, each whole or not at all."""
    import tempfile

    ov: Any = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / file.name
        ov.save_model(graph, made, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            atomic_write(file.with_suffix(suffix), made.with_suffix(suffix).read_bytes())
    return file
