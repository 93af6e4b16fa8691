"""Images larger than memory: the objects do not know about tiles, bands or blocks."""

import shutil
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_model import make_model
from scipy.ndimage import binary_fill_holes, find_objects
from skimage.measure import label as label_components
from skimage.morphology import remove_small_objects

import unet
from pipeline.config import FixedSize, ImageOptions, MonaiBasicUNet
from pipeline.data.simulate import simulate_image
from pipeline.inference.blocks import Sizes
from pipeline.inference.engines import make_engine
from pipeline.inference.forward import on_grid
from pipeline.inference.planes import PlaneStore
from pipeline.inference.predict import predict
from pipeline.inference.segment import Segmenter
from pipeline.inference.stream import Stream
from pipeline.model.bundle import TrainedModel, find_model, load_model
from pipeline.model.decode import decode, scale_areas, to_bytes
from pipeline.model.prepare import fit
from pipeline.scoring.confidence import ConfidenceSums, confidence
from pipeline.scoring.measure import measure
from pipeline.scoring.metrics import match
from pipeline.types import Geometry, Image, Window

SMALL = Sizes(band=64, side=128, margin=40, widest=96)
REACH = 16


@dataclass
class Memory:
    """An image in memory that acts as an opened file, and counts how often each row is read in the predicting pass."""

    pixels: np.ndarray
    geometry: Geometry = field(default_factory=lambda: Geometry((0.5, 0.5), "um"))
    path: Path = Path("memory")

    @property
    def shape(self):
        return self.pixels.shape

    def again(self):
        return self

    def read(self, window: Window | None = None, level: int = 0) -> Image:
        return Image(self.pixels if window is None else self.pixels[:, *window.slices], self.geometry)


@dataclass
class Blurs:
    """An engine without a network: probabilities are the image, smoothed over 16 px at most."""

    core: int
    outputs: int = 3
    name: str = "blurs"
    halo: int = REACH
    stride: int = 16
    fails_after: int = 10**9
    tiles: int = 0

    def map(self, tiles, preparation):
        for tile in tiles:
            self.tiles += 1
            if self.tiles > self.fails_after:
                raise RuntimeError("killed")
            values = np.clip(preparation.normalise(tile)[0], 0, 1)
            soft = cv2.blur(values, (5, 5), borderType=cv2.BORDER_REPLICATE)
            core = cv2.erode(soft, np.ones((9, 9)), borderType=cv2.BORDER_REPLICATE)
            yield np.stack([soft, np.zeros_like(soft), core])


def field_of_discs(shape, number, radius, seed):
    """Bright discs on black, some of them touching."""
    generator = np.random.default_rng(seed)
    image = np.zeros(shape, np.uint8)
    for _ in range(number):
        centre = (int(generator.integers(shape[1])), int(generator.integers(shape[0])))
        cv2.circle(image, centre, int(generator.integers(3, radius)), 255, -1)
    return image


def streamed(pixels, scratch, core=64, sizes=SMALL, zoom=1.0, engine=None, parts=None, model=None):
    """The label image, the rows and the number of cut objects of `pixels` `(C, Y, X)`."""
    model = model or make_model()
    source = Memory(pixels)
    preparation = fit(pixels, model.record.prepare, stride=16, zoom=zoom)
    stream = Stream(model, engine or Blurs(core), source, preparation, scratch, "test", sizes=sizes)
    labels, rows, cut = np.full(pixels.shape[1:], 2**32 - 1, np.uint32), [], 0
    for part in stream.parts(2):
        rows.append(part.objects)
        parts is None or parts.append(part)
        cut += part.cut
        for window, final in part.labels:
            assert (labels[window.slices] == 2**32 - 1).all(), "a pixel is written once"
            labels[window.slices] = final
    assert (labels < 2**32 - 1).all()
    import pandas as pd

    return labels, pd.concat(rows, ignore_index=True), cut


def whole(pixels, zoom=1.0):
    """The label image of `pixels` `(C, Y, X)`, predicted and decoded at once, and its probabilities."""
    model = make_model()
    preparation = fit(pixels, model.record.prepare, stride=16, zoom=zoom)
    planes = predict(Blurs(64), *on_grid(pixels, preparation))
    answer = preparation.undo(planes)
    thresholds = scale_areas(model.thresholds, 1 / zoom**2)
    return decode(answer, model.record.target, thresholds), answer


def same_objects(a, b):
    """Whether two label images hold the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return (
        len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) and ((pairs == 0).sum(axis=0) != 1).all()
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    height=st.integers(150, 420),
    width=st.integers(150, 420),
    core=st.sampled_from([16, 32, 48, 64]),
)
def test_objects_are_those_of_the_whole_image(tmp_path_factory, seed, height, width, core):
    """Whatever the tiles, the objects are those that the whole image gives at once, pixel by pixel."""
    discs = height * width // 2000  # so few that no heap of them is larger than the widest margin
    pixels = np.repeat(field_of_discs((height, width), discs, 14, seed)[None], 3, axis=0)
    labels, rows, cut = streamed(pixels, tmp_path_factory.mktemp("scratch"), core)
    expected, _ = whole(pixels)
    assert expected.max() > 5
    assert cut == 0
    assert same_objects(labels, expected)
    assert len(rows) == expected.max()


def test_tiles_leave_no_trace(tmp_path):
    """Label images of other tiles are equal in every number."""
    pixels = np.repeat(field_of_discs((390, 500), 120, 14, 3)[None], 3, axis=0)
    first, rows, _ = streamed(pixels, tmp_path / "a", core=64)
    for core in (16, 48):
        labels, others, _ = streamed(pixels, tmp_path / str(core), core=core)
        assert np.array_equal(labels, first)
        assert others.equals(rows)


def test_rows_are_those_of_the_whole_label_image(tmp_path):
    """Measured block by block or at once, an object's numbers are the same."""
    pixels = np.repeat(field_of_discs((390, 500), 120, 14, 4)[None], 3, axis=0)
    labels, rows, _ = streamed(pixels, tmp_path)
    expected = measure(labels, Image(pixels, Geometry((0.5, 0.5), "um")))
    assert len(rows) == len(expected) > 20
    names = [name for name in expected.columns if name != "confidence"]
    for name in names:
        np.testing.assert_allclose(
            rows[name].to_numpy(float), expected[name].to_numpy(float), rtol=1e-9, atol=1e-9, err_msg=name
        )


def test_confidence_is_that_of_the_whole_image(tmp_path):
    """Sums over blocks are those of the image, each pixel counted once."""
    pixels = np.repeat(field_of_discs((390, 500), 120, 14, 4)[None], 3, axis=0)
    labels, planes = whole(pixels)
    expected = confidence(labels, planes, make_model().record.target)
    parts = []
    _, rows, _ = streamed(pixels, tmp_path, parts=parts)
    assert sum((part.sums for part in parts), ConfidenceSums()) == expected.sums
    assert sorted(rows["confidence"]) == sorted(expected.objects)


def test_an_object_larger_than_the_margin_is_seen_whole_with_a_wider_one(tmp_path):
    """A disc of 90 px across four cores of 128 with a margin of 40 px is one object."""
    image = np.zeros((300, 300), np.uint8)
    cv2.circle(image, (128, 128), 45, 255, -1)
    labels, rows, cut = streamed(np.repeat(image[None], 3, axis=0), tmp_path)
    assert cut == 0
    assert len(rows) == labels.max() == 1


def test_an_object_larger_than_the_widest_margin_is_cut_and_counted_but_no_pixel_is_lost(tmp_path):
    """A bar of 560 px is cut at the cores' edges; its parts are objects, counted as cut."""
    image = np.zeros((200, 600), np.uint8)
    image[80:100, 20:580] = 255
    pixels = np.repeat(image[None], 3, axis=0)
    labels, rows, cut = streamed(pixels, tmp_path)
    assert cut == len(rows) == labels.max() == 5
    assert np.array_equal(labels > 0, whole(pixels)[0] > 0)
    assert (np.diff(np.unique(np.flatnonzero((labels[90, :-1] != labels[90, 1:]) & (labels[90, 1:] > 0)))) > 0).all()


@dataclass
class Shows(Blurs):
    """An engine that gives the image itself: what is bright is one object a component."""

    def map(self, tiles, preparation):
        for tile in tiles:
            seen = (tile[0] > 0).astype(np.float32)
            yield np.stack([seen, np.zeros_like(seen), seen])


def streamed_and_whole(mask, scratch, sizes=SMALL):
    """The labels, rows and cuts of the components of a mask, and the components of the whole image."""
    pixels = np.repeat((mask * np.uint8(255))[None], 3, axis=0)
    labels, rows, cut = streamed(pixels, scratch, sizes=sizes, engine=Shows(64))
    return labels, rows, cut, label_components(mask, connectivity=1)


def check_rows_and_pixels(labels, rows, cut, components):
    """Nothing is lost, rows are the labels, what is no larger than the widest margin is the whole image's object."""
    assert np.array_equal(labels > 0, components > 0)
    numbers, areas = np.unique(labels[labels > 0], return_counts=True)
    assert numbers.tolist() == sorted(rows["label"]) == list(range(1, len(rows) + 1))
    assert areas.tolist() == rows.sort_values("label")["area_px2"].tolist()
    parts = 0
    for number, (y, x) in enumerate(find_objects(components), start=1):
        found = np.unique(labels[components == number])
        if max(y.stop - y.start, x.stop - x.start) <= SMALL.widest:
            assert len(found) == 1
        assert len(found) == 1 or len(np.unique(components[np.isin(labels, found)])) == 1
        parts += len(found) if len(found) > 1 else 0
    assert parts <= cut <= len(rows)


@pytest.mark.parametrize("across", [False, True])
def test_bars_of_every_place_and_length_lose_no_pixel(tmp_path, across):
    """Whether they end or begin just beyond a core's edge, as long as a margin or longer, in one core or in four."""
    near = [edge + offset for edge in (128, 256) for offset in (-97, -96, -41, -40, -10, -1, 0, 1)]
    for start in [0, 1, 10, *near]:
        lengths = (10, 40, 41, 95, 96, 97, 128, 129, 137, 222, 224, 225, 256, 300, 352, 353)
        mask = np.zeros((4 * len(lengths), 480), bool)
        for row, length in enumerate(lengths):
            mask[4 * row + 1 : 4 * row + 3, start : start + length] = True
        mask = mask.T if across else mask
        check_rows_and_pixels(*streamed_and_whole(np.ascontiguousarray(mask), tmp_path / str(start)))


def test_what_a_block_sees_whole_is_cut_where_its_neighbour_does_not(tmp_path):
    """A bar that begins 10 px before a core and one that ends 10 px behind one: as many parts as rows."""
    mask = np.zeros((120, 500), bool)
    mask[10:30, 118:340] = True
    mask[60:80, 10:138] = True
    labels, rows, cut, _ = streamed_and_whole(mask, tmp_path)
    assert np.array_equal(labels > 0, mask)
    assert (cut, len(rows), len(np.unique(labels)) - 1) == (5, 5, 5)
    assert sorted(rows["area_px2"]) == [20 * n for n in (10, 10, 84, 118, 128)]


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 395), st.integers(0, 395), st.integers(4, 330), st.integers(4, 30), st.integers(0, 3)),
        min_size=1,
        max_size=7,
    ),
    height=st.integers(60, 420),
    width=st.integers(60, 420),
)
def test_whatever_is_drawn_no_pixel_is_lost_and_rows_are_labels(tmp_path_factory, boxes, height, width):
    """Bars and L-shapes of any length, alone or one on top of another."""
    mask = np.zeros((height, width), bool)
    for y, x, long, thick, kind in boxes:
        if kind != 1:
            mask[y : y + thick, x : x + long] = True
        if kind != 0:
            left = x if kind < 3 else max(0, x + long - thick)
            mask[y : y + long, left : left + thick] = True
    mask = remove_small_objects(binary_fill_holes(mask), max_size=60)
    check_rows_and_pixels(*streamed_and_whole(mask, tmp_path_factory.mktemp("scratch")))


@pytest.mark.parametrize("zoom", [0.5, 2.0, 0.37, 1.7])
def test_a_rescaled_image_gives_labels_on_the_files_grid(tmp_path, zoom):
    """At another zoom the objects lie where they are in the file, once each, for any tiles."""
    pixels = np.repeat(field_of_discs((330, 420), 25, 24, 5)[None], 3, axis=0)
    labels, rows, _ = streamed(pixels, tmp_path / "a", zoom=zoom)
    again, _, _ = streamed(pixels, tmp_path / "b", core=16, zoom=zoom)
    assert np.array_equal(labels, again)
    assert len(rows) == labels.max() > 5
    truth = cv2.erode(pixels[0], np.ones((5, 5))) > 0
    assert np.count_nonzero((labels > 0) & truth) > 0.95 * np.count_nonzero(truth)


def test_small_holes_are_filled_where_the_image_was_shrunk(tmp_path):
    """Rings whose hole is at most 64 px are discs at half the size too, as at once; larger ones stay rings."""
    image = np.zeros((300, 420), np.uint8)
    centres = [(y, x) for y in range(30, 300, 60) for x in range(34, 420, 60)]
    for number, (y, x) in enumerate(centres):
        cv2.circle(image, (x, y), 20, 255, -1)
        cv2.circle(image, (x, y), 9 if number % 3 == 0 else 5, 0, -1)
    pixels = np.repeat(image[None], 3, axis=0)
    labels, rows, _ = streamed(pixels, tmp_path, zoom=0.5)
    expected, _ = whole(pixels, zoom=0.5)
    assert same_objects(labels, expected)
    assert len(rows) == len(centres)
    filled = [labels[y, x] > 0 for y, x in centres]
    assert filled == [number % 3 != 0 for number in range(len(centres))]


def test_a_model_of_a_fixed_size_gets_it_of_a_large_image_too(tmp_path):
    """What is streamed goes to the network's 160 x 208, as an image in memory does: the same objects."""
    model = make_model()
    prepare = model.record.prepare.model_copy(update={"size": FixedSize(height=160, width=208)})
    segmenter = Segmenter(replace(model, record=model.record.model_copy(update={"prepare": prepare})), "cpu", "torch")
    segmenter.engine = Blurs(64)
    pixels = np.repeat(field_of_discs((330, 420), 25, 24, 5)[None], 3, axis=0)
    source = Memory(pixels)
    source.levels = (pixels.shape[1:],)
    whole = segmenter.segment(source)
    streamed = segmenter.stream(source, ImageOptions(), tmp_path, "test")
    assert streamed.stream.preparation.shape == (160, 208) and streamed.zoom == pytest.approx(0.49, abs=0.01)
    labels = np.zeros((330, 420), np.uint32)
    for part in streamed.parts():
        for window, final in part.labels:
            labels[window.slices] = final
    assert labels.max() == whole.labels.max() > 5
    assert np.mean((labels > 0) == (whole.labels > 0)) > 0.999


def test_a_run_that_was_killed_goes_on_behind_its_last_band(tmp_path):
    """What was predicted is not predicted again, and the answer is that of an undisturbed run."""
    pixels = np.repeat(field_of_discs((400, 300), 60, 14, 6)[None], 3, axis=0)
    expected, _, _ = streamed(pixels, tmp_path / "undisturbed")
    with pytest.raises(RuntimeError, match="killed"):
        streamed(pixels, tmp_path / "a", engine=Blurs(64, fails_after=18))
    engine = Blurs(64)
    labels, _, _ = streamed(pixels, tmp_path / "a", engine=engine)
    assert np.array_equal(labels, expected)
    assert engine.tiles == 35 - 15  # five tiles a band of seven; three bands had been sealed


def test_a_damaged_band_is_predicted_again(tmp_path):
    """A band whose bytes are not those that were sealed is not believed."""
    pixels = np.repeat(field_of_discs((400, 300), 60, 14, 6)[None], 3, axis=0)
    expected, _, _ = streamed(pixels, tmp_path)
    band = tmp_path / "band-00002.planes"
    data = bytearray(band.read_bytes())
    data[-5] ^= 255
    band.write_bytes(data)
    engine = Blurs(64)
    labels, _, _ = streamed(pixels, tmp_path, engine=engine)
    assert engine.tiles == 5
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    "other",
    [
        {"preparation": lambda seen: seen.inverted()},
        {"preparation": lambda seen: replace(seen, scale=tuple(2 * s for s in seen.scale))},
        {"preparation": lambda seen: replace(seen, offset=tuple(o + 1 for o in seen.offset))},
        {"preparation": lambda seen: replace(seen, shape=(392, 292))},  # on the same padded grid
        {"name": "openvino"},
        {"precision": "bfloat16"},
    ],
)
def test_bands_of_other_work_are_not_used(tmp_path, other):
    """Another view of the image, another engine or precision: all is predicted anew, else nothing."""
    model, pixels = make_model(), np.repeat(field_of_discs((400, 300), 60, 14, 6)[None], 3, axis=0)
    preparation = fit(pixels, model.record.prepare, stride=16)
    change = other.pop("preparation", lambda seen: seen)

    def tiles(engine, seen):
        stream = Stream(model, engine, Memory(pixels), seen, tmp_path, "test", sizes=SMALL)
        list(stream.parts(1))
        return engine.tiles

    assert tiles(Blurs(64), preparation) == 35
    assert tiles(Blurs(64), preparation) == 0
    changed = Blurs(64)
    for name, value in other.items():
        setattr(changed, name, value)
    assert tiles(changed, change(preparation)) == 35


def a_model_that_sees_the_whole_field():
    """InstanceNorm: its windows are blended."""
    config = MonaiBasicUNet(filters=(4, 4, 8, 8, 8, 4), out_channels=3)
    torch.manual_seed(1)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    record = make_model().record.model_copy(update={"network": config, "halo": None, "stride": 16})
    return TrainedModel(network, record, "blended")


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_model, a_model_that_sees_the_whole_field])
@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_are_those_of_the_whole_image(tmp_path, make, tta):
    """Exact tiles or blended windows, what lies on disk is what the whole image gives, to a 255th."""
    model, sizes = make(), Sizes(band=256, side=256, margin=40, widest=96)
    generator = np.random.default_rng(3)
    pixels = cv2.GaussianBlur(generator.integers(0, 255, (592, 528, 3)).astype(np.uint8), (0, 0), 3)
    pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    engine = make_engine(model, "cpu", "torch", threads=2)
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    stream = Stream(model, engine, Memory(pixels), preparation, tmp_path, "test", tta=tta, sizes=sizes)
    assert len(list(stream.parts(1))) == 9
    store = PlaneStore(tmp_path, 3, (592, 528), "test", sizes.band)
    found = store.read(Window((0, 0), (592, 528)))
    expected = predict(engine, pixels, preparation, core=None if engine.halo is not None else 64, tta=tta)
    assert np.abs(found.astype(int) - to_bytes(expected).astype(int)).max() <= 1
    assert found.std() > 3


def in_raster_order(labels):
    """The same objects, numbered by their first pixel."""
    numbers, first = np.unique(labels[labels > 0], return_index=True)
    table = np.zeros(labels.max() + 1, np.uint32)
    table[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    return table[labels]


TILINGS = 100
LARGEST = 96  # px: what touches each other in the made image is smaller; the widest margin is never less


@pytest.mark.slow
def test_a_hundred_tilings_give_the_objects_of_the_whole_image(tmp_path):
    """The shipped network on a made image: whatever tiles, bands, blocks and margins, label images are equal."""
    model = load_model(find_model("shipped:nuclei"))
    made, _ = simulate_image(np.random.default_rng(11), "fluorescence", (352, 416), density=0.16, radius=8.0)
    pixels = np.repeat(made[None], 3, axis=0)
    segmenter = Segmenter(model, "cpu", threads=1, skip=False)
    expected = segmenter.segment(Memory(pixels), ImageOptions(diameter="native")).labels
    assert expected.max() > 80
    generator, tilings, crossed = np.random.default_rng(12), set(), 0
    for number in range(TILINGS):
        engine = copy(segmenter.engine)
        engine.core = 16 * int(generator.integers(5, 22))
        side = int(generator.integers(2 * LARGEST, 352))
        margin = int(generator.integers(LARGEST // 3, LARGEST))
        sizes = Sizes(16 * int(generator.integers(7, 24)), side, margin, int(generator.integers(LARGEST, side)))
        tilings.add((engine.core, sizes))
        scratch = tmp_path / str(number)
        labels, rows, cut = streamed(pixels, scratch, sizes=sizes, engine=engine, model=model)
        found = match(expected, labels)
        assert (cut, len(rows), found.predicted, found.ap(0.9)) == (0, expected.max(), found.true, 1.0), sizes
        assert np.array_equal(in_raster_order(labels), in_raster_order(expected)), (engine.core, sizes)
        crossed += np.count_nonzero((labels[side - 1] > 0) & (labels[side - 1] == labels[side])) if side < 352 else 0
        shutil.rmtree(scratch)
    assert len(tilings) == TILINGS
    assert crossed > TILINGS  # objects did lie on the borders of blocks


@pytest.mark.parametrize("tta", [False, True])
def test_an_image_of_one_cell_is_mirrored_for_a_network_with_statistics(tta: bool) -> None:
    """InstanceNorm has none of a single value: the answer is that of the image mirrored once along both axes."""
    model = a_model_that_sees_the_whole_field()
    engine = make_engine(model, "cpu", "torch", 1)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 16, 16), np.uint8)
    mirrored = np.pad(pixels, ((0, 0), (0, 16), (0, 16)), mode="symmetric")
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model.network(torch.zeros(1, 3, 16, 16))
    found = predict(engine, pixels, tta=tta)
    assert found.shape == (3, 16, 16)
    np.testing.assert_array_equal(found, predict(engine, mirrored, tta=tta)[:, :16, :16])
