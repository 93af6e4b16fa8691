"""Every kind of network goes the whole way: trained, resumed, kept, exported, and what was exported segments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import unet
from pipeline.config import (
    CropSampling,
    ImageOptions,
    MaskTarget,
    NoAugmentation,
    PrepareConfig,
    SingleNetwork,
    TrainConfig,
)
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import ModelRecord, describe_network, load_model, save_model
from pipeline.model.prepare import fit
from pipeline.model.targets import Thresholds, channel_names, decode
from pipeline.runs.export_model import export_model
from pipeline.training.dataset import Example
from pipeline.training.train import Training, resume_training, run_training, start_training
from pipeline.types import Case, Geometry, Image

KINDS = {config.model_fields["kind"].default: config for config in get_args(get_args(SingleNetwork)[0])}
SLIM: dict[str, dict[str, Any]] = {
    "guide_unet": {"filters": (4, 4), "dropout": (0.1, 0.1)},
    "nuclei_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "efficient_unet": {"filters": (4, 4, 4, 4), "deep_supervision": True},
    "original_unet": {"filters": (4, 4)},
    "half_unet": {"filters": (4, 4)},
    "two_convolutions": {"filters": 4},
    "two_level_unet": {"filters": (4, 4)},
    "vgg19_unet": {"filters": (4, 4, 4, 4)},
    "mobilenet_unet": {"filters": (4, 4, 4, 4)},
    "dense_unet": {"layers": (1, 1), "growth": 4, "stem": 4},
    "monai_basic_unet": {"filters": (4, 4, 4, 4, 4, 4)},
    "unet_plus_plus": {"filters": (4, 4, 4, 4, 4, 4), "deep_supervision": True},
    "attention_unet": {"filters": (4, 4, 4)},
    "residual_unet": {"filters": (4, 4, 4)},
    "dynamic_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "seg_res_net": {"filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    "swin_unetr": {"filters": 12},
}
FIXED = {"swin_unetr"}  # its windows are cut by sides that torch cannot leave open: exported at one size


def made(config: TrainConfig, seed: int, side: int = 64) -> Example:
    """Bright boxes on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint32)
    labels[8:24, 6:30], labels[34:58, 20:50] = 1, 2
    grey = ((labels > 0) * 150 + rng.integers(0, 60, labels.shape)).astype(np.uint8)
    pixels = np.repeat(grey[None], config.prepare.channels, axis=0)
    stride = 32  # of which all of them are divisors
    return Example(
        Case("made", Path("made.png"), "made.png"), pixels, labels, fit(pixels, config.prepare, stride=stride)
    )


def trained(config: TrainConfig, folder: Path) -> Training:
    """One epoch of one step, stopped; a new process' training that takes up its checkpoint and does the second."""
    learn, check = [made(config, 1)], [made(config, 2)]
    next(iter(run_training(start_training(config, "cpu"), learn, check, folder, "id")))
    training = start_training(config, "cpu")
    resume_training(training, folder, "id")
    assert (training.progress.epoch, training.progress.step) == (1, 1)
    assert len(list(run_training(training, learn, check, folder, "id"))) == 1
    assert (training.progress.epoch, training.progress.step) == (2, 2)
    return training


def keep(config: TrainConfig, training: Training, folder: Path) -> None:
    stride, halo = describe_network(training.average, config.prepare.channels)
    assert (halo is None) == unet.has_global_statistics(training.average)
    record = ModelRecord(
        name=config.network.kind,
        network=config.network,
        prepare=config.prepare,
        target=config.target,
        outputs=channel_names(config.target),
        stride=stride,
        halo=halo,
    )
    save_model(folder, training.average, record, half=True)


def segmented(record: ModelRecord, run: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """An image's foreground by an exported program and its record, without maskline's network."""
    preparation = fit(pixels, record.prepare, stride=record.stride)
    planes = preparation.undo(run(preparation.apply(pixels)[None])[0])
    assert decode(planes, record.target, Thresholds(**record.thresholds.model_dump())).shape == pixels.shape[1:]
    return planes


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_trains_resumes_exports_and_segments(kind: str, tmp_path: Path) -> None:
    """A step, a checkpoint, another step; as torch and ONNX it gives what maskline's own line gives of an image.

    Exports are checked at a second size and batch where sides are free; the image here is of a third.
    """
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = KINDS[kind](**{"out_channels": 1, **SLIM.get(kind, {})})
    config = TrainConfig(
        network=network,
        target=MaskTarget(),
        prepare=PrepareConfig(channels=network.in_channels),
        sampling=CropSampling(size=64, per_epoch=2),
        augmentation=NoAugmentation(),
        batch_size=2,
        epochs=2,
        precision="float32",
    )
    keep(config, trained(config, tmp_path / "checkpoint"), tmp_path / "model")
    model = load_model(tmp_path / "model")
    exports = {
        form: export_model(str(tmp_path / "model"), form, tmp_path / file)
        for form, file in (("torch", "x.pt2"), ("onnx", "x.onnx"))
    }
    assert {exported.free_sides for exported in exports.values()} == {kind not in FIXED}
    extra = {"model.json": ""}
    program = torch.export.load(exports["torch"].path, extra_files=extra).module()
    session = onnxruntime.InferenceSession(str(exports["onnx"].path))
    (entry,) = [e.value for e in onnx.load(exports["onnx"].path).metadata_props if e.key == "maskline.record"]
    assert json.loads(entry) == json.loads(extra["model.json"])
    record = ModelRecord.model_validate_json(entry)
    name, *_, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    sides = shape[2:] if kind in FIXED else (80, 100)
    pixels = made(config, 3, side=max(sides)).pixels[:, : sides[0], : sides[1]]
    by_onnx = segmented(record, lambda x: session.run(None, {name: x})[0], pixels)
    by_torch = segmented(record, lambda x: program(torch.from_numpy(x)).detach().numpy(), pixels)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)
    with torch.inference_mode():
        own = Segmenter(model, "cpu", "torch").segment(InMemory(pixels), ImageOptions(diameter="native"))
    assert own.labels.shape == pixels.shape[1:] and own.probabilities is not None
    if record.halo is not None:  # blended windows are not the whole image at once
        np.testing.assert_allclose(by_onnx, own.probabilities, atol=1e-3)


class InMemory:
    """An image in memory that acts as an opened file."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.geometry, self.path = pixels, Geometry.pixels(), Path("memory")

    def read(self, window: object = None) -> Image:
        return Image(self.pixels, self.geometry)
