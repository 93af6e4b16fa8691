"""Background is told from the tile alone, answered with zeros in its place, and counted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made_model import Source, make_model
from test_stream import SMALL, Memory

from pipeline.inference.background import SkippingEngine, count_apart, foreground_of_flat, is_background
from pipeline.inference.cores import Framed, map_cores
from pipeline.inference.engines import make_engine
from pipeline.inference.forward import identity
from pipeline.inference.segment import Segmenter
from pipeline.inference.stream import Stream
from pipeline.inference.streamed import Streamed
from pipeline.inference.torch_engine import TorchEngine
from pipeline.model.bundle import FlatBackground, TrainedModel
from pipeline.model.prepare import Preparation

RULE = FlatBackground(low=-0.1, high=0.2, tolerance=0.1)
HOW = Preparation((10.0, 10.0), (0.01, 0.01), (8, 8), (8, 8), 1)  # 10 -> 0, 20 -> 0.1, 30 -> 0.2, 110 -> 1


def tile(*values: int) -> np.ndarray:
    """Two channels; the first pixel of the first is of the first value, and so on; the rest is 12."""
    made = np.full((2, 8, 8), 12, np.uint8)
    made[0].flat[: len(values)] = values
    return made


@pytest.mark.parametrize(
    ("values", "flat"),
    [((12,), True), ((20, 12), True), ((31, 12), False), ((3, 12), True), ((0, 12), False), ((11, 22), False)],
)
def test_the_rule_is_about_the_range_and_the_spread(values: tuple[int, ...], flat: bool) -> None:
    """12 everywhere; 8 grey values of spread are .08; 31 is above .2; 3 is -.07 and within .1 of .02; 0 is not."""
    assert is_background(tile(*values), HOW, RULE) is flat


def test_a_channel_alone_can_be_what_there_is_to_see() -> None:
    """Signal in one channel of two is no background."""
    made = tile(12)
    made[1, 3, 3] = 90
    assert not is_background(made, HOW, RULE)


class Echo:
    """Answers each tile with its own first value; looks two tiles ahead, as engines do."""

    name, outputs, core, halo, stride = "echo", 1, 8, 0, 1

    def map(self, tiles: Iterator[np.ndarray], preparation: object) -> Iterator[np.ndarray]:
        held: list[np.ndarray] = []
        for each in tiles:
            held.append(each)
            if len(held) > 2:
                yield held.pop(0)[:1].astype(np.float32)
        yield from (each[:1].astype(np.float32) for each in held)


@pytest.mark.parametrize("seed", range(8))
def test_answers_keep_their_places(seed: int) -> None:
    """Any mixture of background and signal: zeros for the one, the engine's answer for the other, in order."""
    chosen = np.random.default_rng(seed).random(20) < [0.0, 0.1, 0.5, 0.9, 1.0, 0.5, 0.3, 0.7][seed]
    tiles = [tile(100 + number) if bright else tile(12) for number, bright in enumerate(chosen)]
    engine = SkippingEngine(Echo(), RULE)
    found = list(engine.map(iter(tiles), HOW))
    assert [answer.flat[0] for answer in found] == [100 + n if bright else 0 for n, bright in enumerate(chosen)]
    assert {answer.shape for answer in found} == {(1, 8, 8)}
    assert engine.skipped == 64 * int((~chosen).sum())
    assert engine.apart().skipped == 0


def test_of_framed_tiles_the_core_is_answered() -> None:
    """Halo included in what counts as skipped, and in what is looked at, but not in the answer."""
    bright = tile(12)
    bright[0, 0, 0] = 90
    tiles = [Framed(tile(12), (1, 2, 0, 3)), Framed(bright, (1, 2, 0, 3))]
    engine = SkippingEngine(Echo(), RULE)
    found = list(map_cores(engine, iter(tiles), HOW))
    assert [answer.shape for answer in found] == [(1, 7, 3)] * 2
    assert not found[0].any() and found[1].all() and engine.skipped == 64


def test_several_devices_and_images_side_by_side_count_their_own() -> None:
    """Tiles are taken on a thread of the devices, two images at once: each counts what was skipped of it alone."""
    record = make_model().record.model_copy(update={"background": RULE})
    segmenter = Segmenter(TrainedModel(make_model().network, record, "d"), "cpu,cpu")
    assert isinstance(segmenter.engine, SkippingEngine)
    flat = np.full((1, 40, 60), 3, np.uint8)
    bright = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (1, 40, 1))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda p: segmenter.segment(Source(p)).statistics["skipped"], [flat, bright] * 4))
    alone = Segmenter(segmenter.model, "cpu", "torch", threads=1).segment(Source(flat)).statistics["skipped"]
    assert found == [alone, 0.0] * 4 and alone > 0


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_streamed_images_count_too_and_go_on_counting(tmp_path: Path, device: str) -> None:
    """Two bands of three are flat: their tiles are skipped and counted, also where an earlier run had done them."""
    made = make_model()
    model = TrainedModel(made.network, made.record.model_copy(update={"background": RULE}), "d")
    pixels = np.full((3, 192, 128), 3, np.uint8)
    pixels[:, 8:40, 8:120] = np.random.default_rng(0).integers(0, 255, (32, 112))
    how = Preparation((0.0,) * 3, (1 / 255,) * 3, (192, 128), (192, 128), made.record.stride)
    segmenter = Segmenter(model, device, "torch", threads=1)

    def skipped() -> float:
        stream = Stream(model, count_apart(segmenter.engine), Memory(pixels), how, tmp_path, "test", sizes=SMALL)
        streamed = Streamed(stream, 1.0, workers=1)
        assert list(streamed.parts())
        return float(streamed.statistics["skipped"])

    first = skipped()
    assert (192 - 64) * 128 / 1e6 <= first < 2 * 192 * 128 / 1e6
    (tmp_path / "band-00002.planes").unlink()
    assert skipped() == first
    (tmp_path / "band-00000.planes").unlink()
    assert skipped() == first


def test_it_is_on_where_the_record_has_it_and_can_be_switched_off() -> None:
    """A record without the field predicts everything."""
    made = make_model()
    record = made.record.model_copy(update={"background": RULE})
    knows = TrainedModel(made.network, record, "d")
    assert isinstance(Segmenter(knows, "cpu").engine, SkippingEngine)
    assert isinstance(Segmenter(knows, "cpu", "torch", skip=False).engine, TorchEngine)
    assert isinstance(Segmenter(made, "cpu", "torch").engine, TorchEngine)
    pixels = np.zeros((1, 40, 60), np.uint8)
    pixels[0, 30:, 50:] = 200
    found = Segmenter(knows, "cpu").segment(Source(pixels))
    assert found.labels.shape == (40, 60) and found.statistics["skipped"] == 0.0
    pixels[:] = 3
    assert Segmenter(knows, "cpu").segment(Source(pixels)).statistics["skipped"] > 0


def test_a_rule_is_measured_with_the_wildest_tiles_it_allows() -> None:
    """A network that answers its own input: the largest answer is `high`; a lower rule gives less."""

    class Value(Echo):
        def map(self, tiles: Iterator[np.ndarray], preparation: object) -> Iterator[np.ndarray]:
            yield from (each[:1] for each in tiles)

    assert foreground_of_flat(Value(), 2, RULE, 64) == pytest.approx(0.2)
    assert foreground_of_flat(Value(), 1, FlatBackground(low=0.0, high=0.05, tolerance=0.01), 64) == pytest.approx(0.05)
    engine = make_engine(make_model(), "cpu", "torch", 1)
    assert 0 < foreground_of_flat(engine, 3, RULE, 48, steps=2) < 1
    assert identity(2, (3, 4)).scale == (1.0, 1.0)
