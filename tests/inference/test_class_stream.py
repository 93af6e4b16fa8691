"""Class maps larger than memory: the map does not know about tiles, bands or parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stream import Memory as WithoutLevels

import unet
from pipeline.config import ClassesTarget, Divide, FixedSize, ImageOptions, NativeSize, NucleiUNet, PrepareConfig
from pipeline.errors import ImageError, UsageError
from pipeline.inference.blocks import Sizes
from pipeline.inference.class_stream import ClassMapping, MapPart
from pipeline.inference.direct import DirectSegmenter
from pipeline.model.bundle import ModelRecord, TrainedModel, describe_network
from pipeline.scoring.class_sums import measure_classes

NAMES = ("sky", "road", "car", "tree")
SMALL = Sizes(band=64, side=96)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours that change from pixel to pixel and slowly."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 200, (3, height // 16 + 1, width // 16 + 1)), np.ones((16, 16), int))
    return (coarse[:, :height, :width] + rng.integers(0, 55, (3, height, width))).astype(np.uint8)


def class_model(head: str = "softmax", size: FixedSize | NativeSize = NativeSize()) -> TrainedModel:  # noqa: B008 - frozen
    """Drawn weights, scaled until all classes are found in noise; the last class never is."""
    target = ClassesTarget(names=NAMES if head == "softmax" else NAMES[:2], head=head)
    config = NucleiUNet(filters=(4, 6, 8), out_channels=4 if head == "softmax" else 1)
    torch.manual_seed(3)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    final = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        answer = network(torch.from_numpy(noise(64, 64) / np.float32(255))[None])[0]
        scale = 2 / answer.std((1, 2))
        final.weight *= scale[:, None, None, None]
        final.bias.copy_((final.bias - answer.mean((1, 2))) * scale)
        final.bias[-1] -= 1000 if head == "softmax" else 0
    stride, halo = describe_network(network, 3)
    prepare = PrepareConfig(channels=3, normalise=Divide(), size=size)
    record = ModelRecord(
        name="t", network=config, prepare=prepare, target=target, outputs=target.names, stride=stride, halo=halo
    )
    return TrainedModel(network, record, "digest")


MODEL = class_model()


class Memory(WithoutLevels):
    """An image in memory without a pyramid."""

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape[1:],)


def mapping(segmenter: DirectSegmenter, pixels: np.ndarray, scratch: Path, sizes: Sizes = SMALL, **options: object):
    found = segmenter.map(Memory(pixels), ImageOptions(**options), scratch, "test")
    return ClassMapping(replace(found.stream, sizes=sizes), found.classes, found.colours)


def taken(streamed: ClassMapping, shape: tuple[int, int]) -> np.ndarray:
    """The whole map of the parts; each pixel lies in one of them."""
    labels, seen = np.zeros(shape, np.uint32), np.zeros(shape, int)
    for part in streamed.parts():
        assert isinstance(part, MapPart) and part.labels.shape == part.pixels.shape[1:]
        labels[part.core.slices] = part.labels
        seen[part.core.slices] += 1
    assert (seen == 1).all()
    return labels


@settings(max_examples=10)
@given(
    height=st.integers(70, 260),
    width=st.integers(70, 260),
    core=st.sampled_from([16, 32, 48, 64]),
    band=st.sampled_from([16, 48, 64, 512]),
    side=st.integers(33, 200),
    head=st.sampled_from(["softmax", "sigmoid"]),
    seed=st.integers(0, 99),
)
def test_the_map_is_that_of_the_whole_image(tmp_path_factory, height, width, core, band, side, head, seed):
    """Bit for bit, whatever the tiles, bands and parts: labels, confidence, and every number of the table."""
    pixels = noise(height, width, seed)
    segmenter = DirectSegmenter(MODEL if head == "softmax" else class_model(head), "cpu", "torch", threads=2)
    whole = segmenter.segment(Memory(pixels))
    segmenter.engine.core = core
    streamed = mapping(segmenter, pixels, tmp_path_factory.mktemp("scratch"), Sizes(band=band, side=side))
    np.testing.assert_array_equal(taken(streamed, (height, width)), whole.labels)
    assert len(np.unique(whole.labels)) == (3 if head == "softmax" else 2)
    assert streamed.confidence == whole.confidence.image
    expected = measure_classes(whole.labels, whole.image, whole.classes, whole.confidence.objects)
    pd.testing.assert_frame_equal(streamed.table(), expected, check_exact=True)
    assert streamed.statistics == whole.statistics
    np.testing.assert_array_equal(streamed.sums.pixels, np.bincount(whole.labels.ravel(), minlength=len(whole.classes)))


@pytest.mark.parametrize("tta", [False, True])
def test_eight_views_of_it_too(tmp_path, tta):
    """Test-time augmentation of tiles is that of the whole image; a grey image is taken as colour."""
    pixels = noise(90, 130)[:1]
    segmenter = DirectSegmenter(MODEL, "cpu", "torch", threads=1)
    whole = segmenter.segment(Memory(pixels), ImageOptions(tta=tta))
    segmenter.engine.core = 32
    streamed = mapping(segmenter, pixels, tmp_path, tta=tta)
    np.testing.assert_array_equal(taken(streamed, (90, 130)), whole.labels)


class Killed:
    """An engine that is stopped after some tiles; `tiles` says how many it was given."""

    def __init__(self, engine: object, after: int) -> None:
        self.engine, self.after, self.tiles = engine, after, 0
        self.core = 32

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def map_cores(self, tiles, preparation):
        def counted():
            for tile in tiles:
                self.tiles += 1
                if self.tiles > self.after:
                    raise RuntimeError("killed")
                yield tile

        return self.engine.map_cores(counted(), preparation)


def test_a_killed_run_goes_on_behind_its_last_band(tmp_path):
    """Two of four bands of 64 rows are there, so 2 x 10 of 40 tiles are predicted; the map is the same."""
    pixels = noise(256, 160)
    segmenter = DirectSegmenter(MODEL, "cpu", "torch", threads=1)
    expected = segmenter.segment(Memory(pixels)).labels
    engine = segmenter.engine
    segmenter.engine = Killed(engine, 2 * 10 + 5)
    with pytest.raises(RuntimeError, match="killed"):
        taken(mapping(segmenter, pixels, tmp_path), (256, 160))
    assert len(list(tmp_path.glob("band-*.planes"))) == 2
    segmenter.engine = Killed(engine, 10**9)
    np.testing.assert_array_equal(taken(mapping(segmenter, pixels, tmp_path), (256, 160)), expected)
    assert segmenter.engine.tiles == 2 * 10


@pytest.mark.parametrize("shape", [(300, 420), (40, 60)])
def test_a_model_of_a_fixed_size_sees_the_whole_image_reduced(tmp_path, shape):
    """The map is that of the whole image up to rounding where two classes are level; the parts leave no trace in it."""
    pixels = noise(*shape)
    segmenter = DirectSegmenter(class_model(size=FixedSize(height=64, width=96)), "cpu", "torch", threads=1)
    whole = segmenter.segment(Memory(pixels))
    maps = []
    for number, side in enumerate((37, 200, 999)):
        streamed = mapping(segmenter, pixels, tmp_path / str(number), Sizes(band=64, side=side))
        maps.append(taken(streamed, shape))
    assert (maps[0] == maps[1]).all() and (maps[0] == maps[2]).all()
    assert (maps[0] == whole.labels).mean() > 0.999 and len(np.unique(whole.labels)) == 3
    assert streamed.confidence == pytest.approx(whole.confidence.image, abs=1e-3)
    assert streamed.statistics["zoom"] == pytest.approx(whole.statistics["zoom"])


def test_what_a_model_of_classes_cannot_take_is_refused(tmp_path):
    """As of an image that is held in memory: a diameter, a volume."""
    segmenter = DirectSegmenter(MODEL, "cpu", "torch", threads=1)
    with pytest.raises(UsageError, match="leave --"):
        mapping(segmenter, noise(70, 70), tmp_path, diameter=9.0)
    with pytest.raises(ImageError, match="3-D"):
        mapping(segmenter, noise(70, 70)[None], tmp_path)
