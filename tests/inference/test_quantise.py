"""int8 is kept where Dice does not suffer, refused where it does."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import make_model
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.data.simulate import simulate_image
from pipeline.errors import ModelError
from pipeline.inference import quantise as quantising
from pipeline.inference.engines import make_engine
from pipeline.inference.predict import predict
from pipeline.inference.quantise import crops, mean_dice, quantise
from pipeline.model.bundle import TrainedModel, find_model, load_model
from pipeline.model.prepare import Preparation, fit


@dataclass
class Example:
    pixels: np.ndarray
    labels: np.ndarray
    preparation: Preparation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Bright is foreground: the heads' weights are drawn, so a few steps teach the first of them."""
    made = make_model()
    network = made.network.train()
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for step in range(30):
        image, labels = squares(step)
        logits = network(torch.from_numpy(image[None].astype(np.float32) / 200))
        loss = binary_cross_entropy_with_logits(logits[0, 0], torch.from_numpy((labels > 0) * 1.0).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    return dataclasses.replace(made, folder=tmp_path_factory.mktemp("model"))


def squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.kron(random.random((8, 8)) > 0.7, np.ones((8, 8))).astype(np.uint32)
    image = (labels * 180 + random.integers(0, 20, labels.shape)).astype(np.uint8)
    return np.repeat(image[None], 3, axis=0), labels


def example(model: TrainedModel, seed: int) -> Example:
    image, labels = squares(seed)
    return Example(image, labels, fit(image, model.record.prepare, stride=model.record.stride))


@pytest.mark.slow
def test_int8_is_kept_beside_the_model_and_used(model) -> None:
    """Same foreground to 0.1 % of Dice; other bits than float32; the same bits in tiles and with other threads."""
    examples = [example(model, seed) for seed in range(100, 108)]
    done = quantise(model, examples[:4], examples[4:])
    assert done.file == model.folder / f"int8-{model.digest[:16]}.xml" and done.file.with_suffix(".bin").is_file()
    assert done.before > 0.9 and done.before - done.after <= 0.001
    engine = make_engine(model, "cpu", "openvino-int8", 1)
    whole = predict(engine, examples[5].pixels, examples[5].preparation)
    assert (
        np.abs(
            whole - predict(make_engine(model, "cpu", "openvino"), examples[5].pixels, examples[5].preparation)
        ).max()
        > 0
    )
    again = make_engine(model, "cpu", "openvino-int8", 3)
    np.testing.assert_array_equal(predict(again, examples[5].pixels, examples[5].preparation, core=16), whole)


@pytest.mark.slow
def test_what_costs_accuracy_is_refused_and_not_kept(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that answers with another network's graph fails the gate, and leaves no file."""
    own = dataclasses.replace(model, folder=tmp_path)
    monkeypatch.setattr(quantising, "calibrate", lambda *_: quantising.convert(make_model()))
    with pytest.raises(ModelError, match="wanted at least"):
        quantise(own, [example(model, 1)], [example(model, 2)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="no labelled images"):
        quantise(own, [], [example(model, 2)])


def test_without_the_extra_it_is_said(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(ModelError, match=r"maskline\[openvino\]"):
        quantise(model, [example(model, 1)], [example(model, 2)])


def test_dice_is_the_mean_over_images(model) -> None:
    """An empty image that stays empty counts 1."""
    blank = example(model, 1)
    blank.labels[:] = 0
    engine = make_engine(model, "cpu", "torch", 1)
    assert mean_dice(engine, [blank], threshold=1.0) == 1.0
    one = mean_dice(engine, [example(model, 3)], 0.5)
    assert mean_dice(engine, [example(model, 3), blank], 2.0) == 0.5 and one > 0.9


def test_calibration_crops_are_the_richest_part(model) -> None:
    """256 px at most, of the corner that holds something; offset 0 and scale 1, as they are prepared."""
    image = np.zeros((3, 400, 600), np.uint8)
    image[:, 320:, 500:] = np.random.default_rng(0).integers(0, 255, (80, 100))
    labelled = Example(image, image[0].astype(np.uint32), fit(image, model.record.prepare, stride=4))
    ((crop, offset, scale),) = crops([labelled], 4)
    assert crop.shape == (1, 3, 256, 256) and crop.std() > 0.2
    assert offset.tolist() == [[[[0.0]]] * 3] and scale.tolist() == [[[[1.0]]] * 3]


@pytest.mark.slow
def test_the_shipped_int8_file_belongs_to_the_shipped_model() -> None:
    """It is found by the digest of the record that ships, and finds the nuclei of a made image as float32 does."""
    shipped = load_model(find_model("shipped:nuclei"))
    made, truth = simulate_image(np.random.default_rng(5), "fluorescence", (320, 384))
    pixels = np.repeat(made[None], 3, axis=0)
    image = Example(pixels, truth, fit(pixels, shipped.record.prepare, stride=shipped.record.stride))
    scores = [
        mean_dice(make_engine(shipped, "cpu", name), [image], shipped.thresholds.foreground)
        for name in ("openvino", "openvino-int8")
    ]
    assert scores[0] > 0.8 and abs(scores[0] - scores[1]) < 0.01
