"""The accelerator's path, run on the CPU: batches, memory that runs out, devices that share; `-m gpu` on a real one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import make_model
from test_stream import SMALL, Memory, field_of_discs
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.inference.device_engine import DeviceEngine, batches
from pipeline.inference.engines import make_engine
from pipeline.inference.forward import Raw, identity, raw_tile
from pipeline.inference.planes import PlaneStore
from pipeline.inference.predict import predict
from pipeline.inference.shared_engine import HELD, SharedEngine
from pipeline.inference.stream import Stream
from pipeline.model.prepare import fit
from pipeline.types import Window

HOW = identity(3, (0, 0))
RANDOM = np.random.default_rng(0)
TILES = [RANDOM.random((3, side, 64)).astype(np.float32) for side in (64, 64, 64, 32, 32, 64, 128, 64, 64)]


def only(pixels: int, forward: Callable[..., Tensor], seen: list[tuple[int, ...]]) -> Callable[..., Tensor]:
    """A device that has room for so many pixels at once."""

    def limited(tiles: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
        seen.append(tuple(tiles.shape))
        if tiles.shape[0] * tiles.shape[2] * tiles.shape[3] > pixels:
            raise torch.OutOfMemoryError("the device is full")
        return forward(tiles, offset, scale)

    return limited


def answers(engine: object, tiles: list[np.ndarray] = TILES) -> list[np.ndarray]:
    return list(engine.map(iter(tiles), HOW))  # type: ignore[attr-defined]


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_neighbours_of_one_shape_go_together() -> None:
    """Shapes a a a b b a with at most two: aa, a, bb, a; another dtype is another batch."""
    raws = [
        Raw(np.zeros((1, n, n), t), np.zeros(1), np.ones(1), np.zeros(4, np.int64))
        for n, t in zip("333223", "ffffff", strict=True)
        for n in [int(n)]
    ]
    assert [len(batch) for batch in batches(iter(raws), lambda: 2)] == [2, 1, 2, 1]
    raws[1] = raws[1]._replace(tile=np.zeros((1, 3, 3), np.uint8))
    assert [len(batch) for batch in batches(iter(raws), lambda: 8)] == [1, 1, 1, 2, 1]


def test_batches_answer_as_the_cpu_engine_does() -> None:
    """Each tile's answer, in order, whatever was in its batch."""
    model = make_model()
    wanted = answers(make_engine(model, "cpu", "torch", 1))
    for batch in (1, 2, 8):
        same(answers(DeviceEngine(model, "cpu", batch=batch)), wanted)


def test_when_memory_runs_out_batches_shrink_and_the_run_goes_on() -> None:
    """Room for two tiles: all answers come and are right, and batches of more than two are not tried for ever."""
    model = make_model()
    engine, seen = DeviceEngine(model, "cpu", batch=8), []
    wanted = answers(DeviceEngine(model, "cpu"), TILES[:1] * 40)
    engine.forward = only(2 * 64 * 64, engine.forward, seen)
    same(answers(engine, TILES[:1] * 40), wanted)
    assert engine.batch == 2
    assert sum(shape[0] > 2 for shape in seen) <= 4


def test_when_one_tile_is_too_large_it_is_cut_and_the_answer_stays() -> None:
    """Room for 72 x 72 px, a tile of 128 x 128: cut with its halo, same answer; later images get smaller cores."""
    model = make_model()
    engine, seen = DeviceEngine(model, "cpu", batch=4), []
    image = RANDOM.random((3, 128, 128)).astype(np.float32)
    wanted = predict(DeviceEngine(model, "cpu"), image)
    engine.forward = only(72 * 72, engine.forward, seen)
    np.testing.assert_array_equal(predict(engine, image), wanted)
    assert 4 <= engine.core < 64 and engine.core % 4 == 0
    tried = len(seen)
    np.testing.assert_array_equal(predict(engine, image, core=engine.core), wanted)
    assert all(shape[2] * shape[3] <= 72 * 72 for shape in seen[tried:] if shape[0] == 1)


def test_of_many_tiles_that_are_too_large_one_is_tried() -> None:
    """Twelve tiles of 128 x 128 in one map, room for 72 x 72: four, two and one together are tried, and never again."""
    model = make_model()
    engine, seen = DeviceEngine(model, "cpu", batch=4), []
    tiles = [RANDOM.random((3, 128, 128)).astype(np.float32) for _ in range(12)]
    wanted = answers(DeviceEngine(model, "cpu"), tiles)
    engine.forward = only(72 * 72, engine.forward, seen)
    same(answers(engine, tiles), wanted)
    assert [shape[0] for shape in seen if shape[2:] == (128, 128)] == [4, 2, 1]


def test_a_full_device_gives_later_bands_smaller_tiles(tmp_path: Path) -> None:
    """A streamed image whose first tile is too large: the bands behind are planned with the smaller core."""
    pixels = np.repeat(field_of_discs((640, 128), 40, 12, seed=1)[None], 3, axis=0)
    model, seen = make_model(), []
    how = fit(pixels, model.record.prepare, stride=model.record.stride)
    planes = []
    for full in (False, True):
        engine = DeviceEngine(model, "cpu", batch=1)
        engine.core = 64
        if full:
            engine.forward = only(90 * 90, engine.forward, seen)
        stream = Stream(model, engine, Memory(pixels), how, tmp_path / str(full), "test", sizes=SMALL)
        assert list(stream.parts(1))
        planes.append(
            PlaneStore(tmp_path / str(full), 3, (640, 128), "test", SMALL.band).read(Window((0, 0), (640, 128)))
        )
    np.testing.assert_array_equal(planes[0], planes[1])
    assert engine.core < 64 and seen[-1][2] < 64 + 2 * (engine.halo or 0)
    largest = max(shape[2] * shape[3] for shape in seen)
    assert largest > 90 * 90 and sum(shape[2] * shape[3] == largest for shape in seen) == 1


def test_a_device_without_any_room_is_an_error_with_a_name() -> None:
    """Not even the smallest tile fits; and a network that sees everything cannot be cut."""
    model = make_model()
    engine = DeviceEngine(model, "cpu")
    engine.forward = only(10, engine.forward, [])
    with pytest.raises(ModelError, match="device cpu: got out of memory"):
        answers(engine)
    engine.halo = None
    with pytest.raises(ModelError, match="--device cpu"):
        answers(engine)


def test_two_devices_share_the_tiles_and_keep_their_order() -> None:
    """Two slots on the CPU, as `--device cpu,cpu` makes them: the answers of one, half of the work each."""
    model = make_model()
    engine = make_engine(model, "cpu,cpu")
    assert isinstance(engine, SharedEngine) and engine.core == 1024
    seen: list[list[tuple[int, ...]]] = [[], []]
    for each, shapes in zip(engine._engines, seen, strict=True):
        each.forward = only(2 * 64 * 64, each.forward, shapes)  # and one of them may run out of memory
    same(answers(engine, TILES * 5), answers(DeviceEngine(model, "cpu"), TILES * 5))
    assert all(len(shapes) >= 5 for shapes in seen)
    assert list(engine.map(iter([]), HOW)) == []


class Counts:
    """Answers each tile with itself, and says how many pixels it was given."""

    name, outputs, core, halo, stride = "counts", 1, 64, 0, 1

    def __init__(self) -> None:
        self.pixels, self.tiles = 0, 0

    def map(self, tiles: Iterator[np.ndarray], preparation: object) -> Iterator[np.ndarray]:
        for tile in tiles:
            self.tiles, self.pixels = self.tiles + 1, self.pixels + tile.size
            yield tile


def numbered(*numbers: int, side: int = 1) -> Iterator[np.ndarray]:
    return (np.full((1, side, side), number) for number in numbers)


def test_images_of_one_tile_are_shared_too() -> None:
    """Twenty calls of one tile: ten each; calls of three tiles, and of a small and a large one, end level as well."""
    devices = [Counts(), Counts()]
    engine = SharedEngine(devices)
    assert [int(answer.flat[0]) for n in range(20) for answer in engine.map(numbered(n), HOW)] == list(range(20))
    assert [device.tiles for device in devices] == [10, 10]
    for _ in range(10):
        assert [int(answer.flat[0]) for answer in engine.map(numbered(1, 2, 3), HOW)] == [1, 2, 3]
    assert [device.tiles for device in devices] == [25, 25]
    for _ in range(10):  # as an image that is looked at before it is predicted
        assert len(list(engine.map(numbered(1), HOW)) + list(engine.map(numbered(2, side=4), HOW))) == 2
    assert abs(devices[0].pixels - devices[1].pixels) <= 16


def test_images_of_two_threads_are_shared() -> None:
    """Two images that are in the works together begin on different devices, however often they come."""
    from concurrent.futures import ThreadPoolExecutor

    devices = [Counts(), Counts(), Counts()]
    engine = SharedEngine(devices)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda n: [int(a.flat[0]) for a in engine.map(numbered(n), HOW)], range(60)))
    assert answers == [[n] for n in range(60)]
    assert [device.tiles for device in devices] == [20, 20, 20]


class Slow:
    """Says how many tiles were taken, and fails at one of them."""

    name, outputs, core, halo, stride = "slow", 1, 64, 0, 1

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at

    def map(self, tiles: Iterator[np.ndarray], preparation: object) -> Iterator[np.ndarray]:
        for number, tile in enumerate(tiles):
            if number == self.fails_at:
                raise ValueError("device 1 is gone")
            yield tile


def test_shared_devices_take_no_more_than_they_hold() -> None:
    """A consumer that stops after one answer leaves most of a long image unread, and no thread behind."""
    import threading

    taken, before = [], threading.active_count()

    def tiles() -> Iterator[np.ndarray]:
        for number in range(10_000):
            taken.append(number)
            yield np.full((1, 1, 1), number)

    found = SharedEngine([Slow(), Slow(), Slow()]).map(tiles(), HOW)
    assert [int(next(found)[0, 0, 0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    found.close()
    assert len(taken) < 3 * (2 * HELD + 3) + 5
    assert threading.active_count() == before


def test_what_a_shared_device_or_the_tiles_raise_is_raised() -> None:
    """Neither hangs, and answers before it have come."""

    def unreadable() -> Iterator[np.ndarray]:
        yield from [np.zeros((1, 1, 1))] * 5
        raise OSError("band 5")

    with pytest.raises(ValueError, match="device 1 is gone"):
        list(SharedEngine([Slow(), Slow(fails_at=3)]).map(iter([np.zeros((1, 1, 1))] * 500), HOW))
    with pytest.raises(OSError, match="band 5"):
        list(SharedEngine([Slow(), Slow()]).map(unreadable(), HOW))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_answers_as_the_cpu_does(precision: torch.dtype) -> None:
    """In float32 to 1e-3 (its convolutions may be TF32), in half precision to 0.05; batches, pinned memory."""
    model = make_model()
    wanted = answers(make_engine(model, "cpu", "torch"), TILES * 5)
    engine = DeviceEngine(model, "cuda", precision=precision)
    for found, other in zip(answers(engine, TILES * 5), wanted, strict=True):
        assert np.abs(found - other).max() < (1e-3 if precision == torch.float32 else 0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_copy_to_a_gpu_waits_for_what_it_computes() -> None:
    """torch itself raises where the host would wait for the device: nowhere before an answer is collected."""
    engine = DeviceEngine(make_model(), "cuda")
    raws = [raw_tile(tile, HOW) for tile in TILES[:2]]
    wanted = list(engine._collect(engine._launch(raws)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        under_way = [engine._launch(raws) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch in under_way:
        same(list(engine._collect(batch)), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_full_gpu_goes_on_with_less() -> None:
    """Memory really runs out: the process may have 1 % of the device, and the answers are those of the CPU."""
    model = make_model()
    image = RANDOM.random((3, 4096, 4096)).astype(np.float32)
    engine = DeviceEngine(model, "cuda", precision=torch.float32)
    try:
        torch.cuda.set_per_process_memory_fraction(0.01)
        found = predict(engine, image, core=4096)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.abs(found - predict(make_engine(model, "cpu", "torch"), image)).max() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_slots_on_a_gpu_share_the_tiles() -> None:
    """Two engines on one device, each with its streams: the answers of one."""
    model = make_model()
    same(answers(make_engine(model, "cuda:0,cuda:0"), TILES * 5), answers(DeviceEngine(model, "cuda:0"), TILES * 5))
