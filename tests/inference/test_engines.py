"""Every engine gives the network's own answer; within one, the bits do not depend on tiles, threads or neighbours."""

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from made_model import BFLOAT16, make_model

import unet
from flows.options import ENGINE
from pipeline.config import EngineName, MonaiBasicUNet, SegResNet
from pipeline.data.simulate import simulate_image
from pipeline.errors import ModelError, UsageError
from pipeline.inference import engines
from pipeline.inference.background import SkippingEngine
from pipeline.inference.cores import rest, streamed_core
from pipeline.inference.device_engine import DeviceEngine
from pipeline.inference.engines import Engine, make_engine
from pipeline.inference.forward import identity, on_grid, precision_of
from pipeline.inference.openvino_engine import OpenVinoEngine, import_openvino
from pipeline.inference.predict import predict
from pipeline.inference.torch_engine import TorchEngine
from pipeline.model.bundle import FlatBackground, TrainedModel, find_model, load_model
from pipeline.model.halo import check_grid
from pipeline.model.prepare import fit
from pipeline.model.targets import activate, decode
from pipeline.scoring.metrics import match

NAMES = ["torch", "openvino"]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """With BatchNorm statistics that are not those of a fresh network."""
    made = make_model()
    made.network.train()
    with torch.no_grad():
        made.network(torch.rand(2, 3, 64, 64) * 2 - 0.5)
    made.network.eval()
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Smooth enough that the network's answer varies; 88 x 120 px, uint8."""
    noise = np.random.default_rng(0).random((3, 22, 30))
    return (np.kron(noise, np.ones((4, 4))) * 200 + 20).astype(np.uint8)


def alone(model: TrainedModel, image: np.ndarray) -> np.ndarray:
    """The network's own answer to the whole prepared image, on the plain path of torch."""
    prepared = fit(image, model.record.prepare, stride=model.record.stride).apply(image)
    with torch.inference_mode():
        return activate(model.network(torch.from_numpy(prepared)[None]), model.record.target)[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32, np.float64])
def test_raw_values_of_any_type_give_the_network_s_answer(model, image, name: str, dtype: type) -> None:
    """Normalised inside the engine; the same bits as for the image prepared beforehand, and torch's answer to 1e-5."""
    engine, pixels = make_engine(model, "cpu", name, 1), image.astype(dtype)
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    found = predict(engine, *on_grid(pixels, preparation))
    assert found.dtype == np.float32 and found.flags.c_contiguous and found.std() > 1e-3
    np.testing.assert_array_equal(found, predict(engine, preparation.apply(pixels)))
    np.testing.assert_allclose(found, alone(model, image), atol=1e-5)


@pytest.mark.parametrize("name", [BFLOAT16])
def test_bfloat16_is_the_network_s_answer_in_few_digits(model, image, name: str) -> None:
    """Near the float32 answer, but not it; asked for by name alone."""
    engine = make_engine(model, "cpu", name, 1)
    preparation = fit(image, model.record.prepare, stride=model.record.stride)
    found, wanted = predict(engine, *on_grid(image, preparation)), alone(model, image)
    assert engine.name == name and precision_of(engine) == "bfloat16" and found.dtype == np.float32
    assert 1e-5 < np.abs(found - wanted).max() < 0.05 * wanted.std() + 0.01
    assert make_engine(model, "cpu", "auto", 1).name != name


def test_bfloat16_is_refused_where_it_would_be_emulated(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without it."""
    monkeypatch.setattr("pipeline.inference.engines.processor_has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="choose --engine torch"):
        make_engine(model, "cpu", "torch-bfloat16")


def test_the_command_line_offers_every_engine() -> None:
    """In the order of the config's."""
    assert tuple(ENGINE(lambda: None).__click_params__[0].type.choices) == get_args(EngineName)


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_without_values_is_the_mean_of_the_others(model, image, name: str) -> None:
    """Fluorescence saved as one colour of RGB: as `Preparation.normalise` has it; an image without any is all 0."""
    engine = make_engine(model, "cpu", name, 1)
    for empty in ((2,), (0, 2), (0, 1, 2)):
        pixels = image.copy()
        pixels[list(empty)] = 7
        preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
        np.testing.assert_array_equal(
            predict(engine, *on_grid(pixels, preparation)), predict(engine, preparation.apply(pixels))
        )


def test_resized_and_padded_images_come_prepared(image) -> None:
    """Sides that are no multiple of the stride are mirrored; a zoom makes floats that are not normalised again."""
    config = make_model().record.prepare
    padded, how = on_grid(image[:, :50, :47], fit(image[:, :50, :47], config, stride=4))
    assert padded.shape == (3, 52, 48) and padded.dtype == np.uint8 and how.scale[0] != 1
    np.testing.assert_array_equal(padded[:, 50], padded[:, 49])
    resized, how = on_grid(image, fit(image, config, stride=4, zoom=0.5))
    assert resized.shape == (3, 44, 60) and resized.dtype == np.float32 and how.scale == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", [*NAMES, BFLOAT16])
def test_threads_and_neighbours_do_not_show(model, image, name: str) -> None:
    """The same tile alone and among others of several sizes, with 1, 2 and 3 threads: the same bits, in order."""
    how = identity(3, (0, 0))
    tiles = [image[:, y : y + 40, x : x + 48] for y in (0, 8, 48) for x in (0, 4, 72)] + [image]
    one = make_engine(model, "cpu", name, 1)
    wanted = [next(iter(one.map([tile], how))) for tile in tiles]
    for threads in (1, 2, 3):
        engine = make_engine(model, "cpu", name, threads)
        for found, answer in zip(engine.map(iter(tiles), how), wanted, strict=True):
            np.testing.assert_array_equal(found, answer)
        np.testing.assert_array_equal(next(iter(engine.map([image], how))), wanted[-1])


def test_torch_s_own_threads_stay_as_they_were(model, image) -> None:
    """Training in the same process keeps what it was given."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        engine = TorchEngine(model, 3)
        list(engine.map([image] * 4, identity(3, (0, 0))))
        list(engine.map([image], identity(3, (0, 0))))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_tile_that_cannot_be_read_is_raised(model, image, name: str) -> None:
    """After the answers that were asked for before it."""

    def tiles() -> Iterator[np.ndarray]:
        yield from [image] * 4
        raise OSError("band 4")

    answers = make_engine(model, "cpu", name, 2).map(tiles(), identity(3, (0, 0)))
    with pytest.raises(OSError, match="band 4"):
        list(answers)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_windows_side_by_side_are_the_same_bits(norm: str) -> None:
    """On one thread, where they follow each other, and on two; the last batch of windows is not full."""
    config = {
        "instance": MonaiBasicUNet(filters=(4, 4, 8, 8, 8, 4), out_channels=3),
        "group": SegResNet(out_channels=3),
    }
    torch.manual_seed(0)
    network = unet.build(config[norm].kind, **config[norm].model_dump(exclude={"kind"})).eval()
    record = make_model().record.model_copy(update={"network": config[norm], "halo": None, "stride": 16})
    pixels = np.random.default_rng(0).integers(0, 255, (3, 320, 640), np.uint8)
    found = [
        predict(make_engine(TrainedModel(network, record, norm), "cpu", "torch", threads), pixels, core=256)
        for threads in (1, 2)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_network_that_sees_everything_is_blended(name: str) -> None:
    """Without a halo: as MONAI's inferer has it for the network itself, with TTA too, and the same for raw values."""
    from monai.inferers.utils import sliding_window_inference

    model = make_model()
    blended = TrainedModel(model.network, model.record.model_copy(update={"halo": None}), "d")
    engine = make_engine(blended, "cpu", name, 1)
    image = np.random.default_rng(0).uniform(-0.5, 1.5, (3, 300, 280)).astype(np.float32)
    with torch.inference_mode():
        wanted = sliding_window_inference(
            torch.from_numpy(image)[None],
            (256, 256),
            1,
            lambda window: activate(blended.network(window), blended.record.target),
            overlap=0.5,
            mode="gaussian",
        )
    np.testing.assert_allclose(predict(engine, image, core=128), wanted[0].numpy(), atol=1e-5)
    assert predict(engine, image, core=128, tta=True).shape == (3, 300, 280)


@pytest.mark.slow
def test_engines_find_the_same_objects() -> None:
    """The shipped model on a made image: AP@.9 of OpenVINO's labels against torch's is at least 0.999."""
    model = load_model(find_model("shipped:nuclei"))
    made, _ = simulate_image(np.random.default_rng(3), "fluorescence", (384, 512))
    pixels = np.repeat(made[None], 3, axis=0)
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    labels = [
        decode(
            preparation.undo(predict(make_engine(model, "cpu", name), *on_grid(pixels, preparation))),
            model.record.target,
            model.thresholds,
        )
        for name in NAMES
    ]
    assert labels[0].max() > 20
    assert match(labels[0], labels[1]).ap(0.9) >= 0.999


def test_the_record_s_grid_is_checked(model) -> None:
    """One stride too little of halo, or a finer grid than the network's, is refused; the derived ones pass."""
    record = model.record
    check_grid(model.network, 3, record.stride, record.halo)
    check_grid(model.network, 3, record.stride * 2, record.halo + 8)
    check_grid(model.network, 3, record.stride, None)
    with pytest.raises(ModelError, match=f"halo {record.halo - 4} px"):
        check_grid(model.network, 3, record.stride, record.halo - 4)
    with pytest.raises(ModelError, match="stride 2"):
        make_engine(dataclasses.replace(model, record=record.model_copy(update={"stride": 2})), "cpu")


def test_auto_is_openvino_where_it_is_installed(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch; torch too for a network that OpenVINO does not take."""
    assert isinstance(make_engine(model, "cpu"), OpenVinoEngine)

    def refuse(*_: object) -> Engine:
        raise ModelError("model t", "an operation", "one that is known", "use --engine torch")

    monkeypatch.setattr(engines, "OpenVinoEngine", refuse)
    assert isinstance(make_engine(model, "cpu"), TorchEngine)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_engine(model, "cpu"), TorchEngine)


def test_openvino_reports_nothing() -> None:
    """Its module of reports is not there when it is imported."""
    import subprocess
    import sys

    code = (
        "import sys; from pipeline.inference.openvino_engine import import_openvino; import_openvino();"
        "import openvino.tools.ovc.convert_impl as c; sys.exit('stub' not in c.tm.__name__)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_int8_takes_tiles_of_any_size() -> None:
    """The model that ships, at sizes that end the process where OpenVINO has AMX; torch is not told to leave that."""
    import subprocess
    import sys

    code = (
        "import os, numpy as np; from pipeline.inference.engines import make_engine;"
        "from pipeline.inference.tuning import identity; from pipeline.model.bundle import find_model, load_model;"
        "engine = make_engine(load_model(find_model('shipped:nuclei')), 'cpu', 'openvino-int8', 1);"
        "tiles = [np.zeros((3, side, side), np.uint8) for side in (608, 736, 992)];"
        "found = list(engine.map(iter(tiles), identity(3, (992, 992))));"
        "assert [x.shape for x in found] == [(3, side, side) for side in (608, 736, 992)];"
        "assert 'ONEDNN_MAX_CPU_ISA' not in os.environ"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_what_is_missing_or_does_not_go_together_is_said(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra, no int8 file, no such device, an engine of another device."""
    with pytest.raises(ModelError, match="maskline models quantise"):
        make_engine(model, "cpu", "openvino-int8")
    with pytest.raises(UsageError, match="--device: got telephone"):
        make_engine(model, "telephone")
    with pytest.raises(UsageError, match="--engine: got abacus"):
        make_engine(model, "cpu", "abacus")
    with pytest.raises(UsageError, match="choose --engine torch"):
        make_engine(model, "cpu,cpu", "openvino")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cuda"):
            make_engine(model, "cuda:0")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ModelError, match=r"maskline\[openvino\]"):
        import_openvino()


def test_a_damaged_int8_file_is_refused(model, tmp_path: Path) -> None:
    """Text in place of the graph."""
    there = dataclasses.replace(model, folder=tmp_path)
    (tmp_path / f"int8-{model.digest[:16]}.xml").write_text("no graph")
    with pytest.raises(ModelError, match="quantise again"):
        make_engine(there, "cpu", "openvino-int8")


def test_small_images_go_side_by_side(model, image) -> None:
    """Two that are one tile each share the threads, with the bits of one that has them all."""
    engine, met = TorchEngine(model, 2), threading.Barrier(2)
    preparation = fit(image, model.record.prepare, stride=model.record.stride)
    (whole,) = engine.map([image], preparation)
    run, inside = engine._run, []

    def together(raw):
        inside.append(torch.get_num_threads())
        met.wait(timeout=60)  # where one waited for the other, it would wait for ever
        return run(raw)

    engine._run = together
    engine._started.clear()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: next(iter(engine.map([image], preparation))), range(2)))
    assert all(np.array_equal(one, whole) for one in both)
    assert sorted(inside) == [1, 2]
    assert engine._single == 0


@pytest.mark.parametrize("name", [*NAMES, BFLOAT16])
def test_an_engine_that_rested_goes_on_where_it_was(model, image, name: str) -> None:
    """Nothing is kept of what ran the tiles, an image in the works has its own, and the next gets the same bits."""
    engine = make_engine(model, "cpu", name, 2)
    wanted = predict(engine, image, core=32)
    answers = engine.map(iter([image, image, image]), identity(3, (0, 0)))
    first = next(iter(answers))
    assert engine._started
    rest(engine)
    assert not engine._started
    assert all(np.array_equal(first, answer) for answer in answers)
    np.testing.assert_array_equal(predict(engine, image, core=32), wanted)


def test_streamed_tiles_are_smaller_where_they_take_much() -> None:
    """In float32 on a CPU 768 px at most, else as large as is quickest."""
    model = make_model()
    for name, side in (("torch", 768), ("openvino", 768)):
        engine = make_engine(model, "cpu", name, 1)
        engine.core = 1024
        assert (
            streamed_core(engine)
            == streamed_core(SkippingEngine(engine, FlatBackground(low=0.0, high=0.1, tolerance=0.1)))
            == side
        )
        engine.core = 512
        assert streamed_core(engine) == 512
    assert streamed_core(DeviceEngine(model, "cpu")) == 1024
