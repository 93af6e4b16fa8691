"""A grey image through a model of three channels is held once, and answered as if it had three equal ones."""

from pathlib import Path

import numpy as np
import pytest
from made_model import make_model
from test_stream import Memory, a_model_that_sees_the_whole_field

from pipeline.config import ImageOptions
from pipeline.data.simulate import simulate_image
from pipeline.inference.engines import make_engine
from pipeline.inference.grid import ModelGrid
from pipeline.inference.planes import PlaneStore
from pipeline.inference.predict import predict
from pipeline.inference.segment import Segmenter
from pipeline.inference.stream import Stream
from pipeline.inference.survey import survey
from pipeline.model.prepare import distinct, fit, is_shared, share_channels, take_channels
from pipeline.types import Window

WINDOW = Window((0, 0), (16, 32))


def grey(shape=(150, 133), dtype=np.uint8) -> np.ndarray:
    image, _ = simulate_image(np.random.default_rng(1), "fluorescence", shape)
    plane = image[0] if image.ndim == 3 else image
    return plane[None].astype(dtype)


def three(pixels: np.ndarray) -> np.ndarray:
    """The same image with three equal channels in the file."""
    return np.repeat(pixels, 3, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("options", [{"diameter": "native"}, {"diameter": 20.0}, {"diameter": 9.0}, {"tta": True}, {}])
def test_an_image_is_segmented_as_one_of_three_equal_channels(engine, options):
    """Whole images, at their size and zoomed, by every engine: no bit of the probabilities differs."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    segmenter = Segmenter(make_model(diameter=14.0), "cpu", engine)
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        pixels = grey(dtype=dtype)
        one, other = (segmenter.segment(Memory(p), ImageOptions(**options)) for p in (pixels, three(pixels)))
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert str(one.statistics) == str(other.statistics)


def test_tiles_windows_and_constant_images_too():
    """Cut into tiles, blended by MONAI, without any contrast: the same answer."""
    shared, whole = share_channels(grey((288, 272)), 3), three(grey((288, 272)))
    exact = make_engine(make_model(), "cpu", "torch", 1)
    how = fit(whole, make_model().record.prepare, stride=16)
    assert how == fit(shared, make_model().record.prepare, stride=16)
    np.testing.assert_array_equal(predict(exact, shared, how, core=64), predict(exact, whole, how, core=64))
    blends = make_engine(a_model_that_sees_the_whole_field(), "cpu", "torch", 1)
    np.testing.assert_array_equal(predict(blends, shared, how, core=64), predict(blends, whole, how, core=64))
    flat = np.full((1, 64, 64), 7, np.uint8)
    how = fit(share_channels(flat, 3), make_model().record.prepare, stride=16)
    np.testing.assert_array_equal(
        predict(exact, share_channels(flat, 3), how, core=32), predict(exact, three(flat), how, core=32)
    )


@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_a_streamed_image_too(tmp_path: Path, zoom: float):
    """Statistics and probabilities are those of three equal channels, resampled or not."""
    model = make_model()
    engine, record = make_engine(model, "cpu", "torch", 1), model.record
    found = []
    for name, pixels in (("one", grey((300, 290))), ("three", three(grey((300, 290))))):
        source = Memory(pixels)
        source.levels = (pixels.shape[1:],)
        seen = survey(source, record.prepare, stride=record.stride)
        shape = tuple(round(side * zoom) for side in seen.preparation.original)
        how = type(seen.preparation)(seen.preparation.offset, seen.preparation.scale, shape, pixels.shape[1:], 16)
        stream = Stream(model, engine, source, how, tmp_path / name, "same")
        parts = len(list(stream.parts(1)))
        store = PlaneStore(tmp_path / name, 3, stream.grid_shape, "same", stream.sizes.band)
        found.append((store.read(Window((0, 0), stream.grid_shape)), seen, parts))
    (planes, seen, parts), (others, same, as_many) = found
    assert seen.preparation == same.preparation and parts == as_many == 1 and np.ptp(planes) > 2
    np.testing.assert_array_equal(seen.busiest, same.busiest)
    np.testing.assert_array_equal(planes, others)


def test_one_plane_is_held():
    """From reading to the network's door there is one plane; a picture of three channels keeps its own."""
    pixels = grey()
    held = share_channels(pixels, 3)
    how = fit(held, make_model().record.prepare, stride=16)
    assert is_shared(held) and held.shape == (3, 150, 133) and distinct(held).shape == (1, 150, 133)
    assert is_shared(how.normalise(held)) and is_shared(how.apply(held))
    np.testing.assert_array_equal(how.apply(held), how.apply(three(pixels)))
    grid = ModelGrid(Memory(pixels), 3, None, how)
    grid.hold(0, 160)
    assert grid._rows.part(0, 150, 0, 133).shape == (1, 150, 133) and grid.window(WINDOW).shape == (3, 16, 32)
    np.testing.assert_array_equal(share_channels(three(pixels), 3), three(pixels))
    assert not is_shared(share_channels(three(pixels), 3)) and not is_shared(take_channels(pixels, 3))
    five = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    assert is_shared(share_channels(five, 3, 4)) and (share_channels(five, 3, 4) == 4).all()
