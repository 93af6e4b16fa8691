"""Tiles give the whole-image answer; every pixel lies in exactly one core."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_model import BFLOAT16, Source, make_model

from pipeline.config import ImageOptions
from pipeline.errors import ImageError, UsageError
from pipeline.inference.engines import make_engine
from pipeline.inference.predict import predict
from pipeline.inference.segment import Segmenter
from pipeline.inference.torch_engine import TorchEngine
from pipeline.inference.windows import plan_tiles


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.sampled_from([1, 4]))
@settings(max_examples=60)
def test_every_pixel_lies_in_exactly_one_core(h: int, w: int, core: int, halo: int, stride: int) -> None:
    """Counted by painting; cores start on the stride and read windows stay inside the image."""
    shape = (h * stride, w * stride)
    painted = np.zeros(shape, int)
    for tile in plan_tiles(shape, core * stride, halo * stride, stride):
        painted[tile.core.slices] += 1
        assert all(start % stride == 0 for start in (*tile.core.start, *tile.read.start))
        assert all(a >= 0 and b <= side for a, b, side in zip(tile.read.start, tile.read.stop, shape, strict=True))
        assert np.zeros(tile.read.shape)[tile.inner].shape == tile.core.shape
    assert (painted == 1).all()


@pytest.mark.parametrize("name", ["torch", BFLOAT16, "openvino"])
@pytest.mark.parametrize("core", [16, 32, 48, 80])
def test_tiles_give_the_whole_image_answer(core: int, name: str) -> None:
    """Also at the image's edges, and bit for bit."""
    engine = make_engine(make_model(), "cpu", name)
    image = np.random.default_rng(0).uniform(-0.5, 1.5, size=(3, 112, 144)).astype(np.float32)
    whole = predict(engine, image)
    assert whole.std() > 0.01
    np.testing.assert_array_equal(predict(engine, image, core=core), whole)


def test_a_halo_one_step_short_is_not_enough() -> None:
    """The derived halo is no larger than it must be: with one stride less the answer differs."""
    engine = TorchEngine(make_model(), 1)
    image = np.random.default_rng(0).uniform(-0.5, 1.5, size=(3, 112, 144)).astype(np.float32)
    whole = predict(engine, image)
    assert engine.halo is not None
    engine.halo -= 4
    assert np.abs(predict(engine, image, core=32) - whole).max() > 1e-5


def test_test_time_augmentation_is_the_mean_of_eight_views() -> None:
    """Written out with numpy; it turns with the image, and tiles give it too."""
    engine = make_engine(make_model(), "cpu", "torch")
    image = np.random.default_rng(0).uniform(-0.5, 1.5, size=(3, 48, 64)).astype(np.float32)
    views = []
    for turns in range(4):
        for flip in (1, -1):
            turned = np.ascontiguousarray(np.rot90(image, turns, (1, 2))[:, :, ::flip])
            views.append(np.rot90(predict(engine, turned)[:, :, ::flip], -turns, (1, 2)))
    whole = predict(engine, image, tta=True)
    np.testing.assert_allclose(whole, np.mean(views, axis=0), atol=1e-6)
    assert np.abs(whole - views[0]).max() > 1e-3
    np.testing.assert_allclose(predict(engine, image, core=16, tta=True), whole, atol=1e-6)
    turned = np.ascontiguousarray(np.rot90(image, 1, (1, 2)))
    np.testing.assert_allclose(predict(engine, turned, tta=True), np.rot90(whole, 1, (1, 2)), atol=1e-6)


def test_segmenting_keeps_the_file_s_grid() -> None:
    """Any size, also with a diameter that rescales: labels and probabilities have the file's height and width."""
    pixels = np.random.default_rng(0).integers(0, 255, (1, 45, 70)).astype(np.uint8)
    for diameter in ("native", 30.0, 7.5):
        found = Segmenter(make_model(diameter=15.0), "cpu").segment(Source(pixels), ImageOptions(diameter=diameter))
        assert found.labels.shape == (45, 70) and found.labels.dtype == np.uint32
        assert found.probabilities.shape == (3, 45, 70)
        assert found.statistics["zoom"] == (15.0 / diameter if diameter != "native" else 1.0)
        assert set(found.seconds) == {"read", "prepare", "predict", "decode"}


def test_what_the_model_does_not_know_stops_with_a_message() -> None:
    """A diameter that the model has no measure for is refused, not ignored; so are volumes."""
    pixels = np.zeros((1, 20, 20), np.uint8)
    segmenter = Segmenter(make_model(), "cpu")
    with pytest.raises(UsageError, match="--diameter"):
        segmenter.segment(Source(pixels), ImageOptions(diameter=10.0))
    with pytest.raises(ImageError, match="3-D"):
        segmenter.segment(Source(np.zeros((1, 4, 20, 20), np.uint8)))
