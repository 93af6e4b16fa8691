"""The view: the image as it is unless that leaves doubt and another is clearly better; nothing is predicted twice."""

import cv2
import numpy as np
import pytest
from made_model import Source, make_model

from pipeline.config import ImageOptions
from pipeline.inference import segment as segmenting
from pipeline.inference.segment import Segmenter
from pipeline.inference.sizing import Glance, choose_view, median_diameter
from pipeline.model.bundle import TrainedModel
from pipeline.model.targets import encode


def discs(radius: int, side: int, step: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    cell = (y // step) * (side // step + 1) + x // step + 1
    inside = (y % step - step // 2) ** 2 + (x % step - step // 2) ** 2 <= radius**2
    return np.where(inside, cell, 0).astype(np.uint32)


class Knows:
    """Stands for a network that knows discs of one radius: a perfect answer there, a soft one elsewhere."""

    def __init__(self, model: TrainedModel, known: float) -> None:
        self.model, self.known, self.calls = model, known, 0

    def __call__(self, prepared: np.ndarray) -> np.ndarray:
        self.calls += 1
        bright = cv2.connectedComponents((prepared[0] > 0.5).astype(np.uint8))[1].astype(np.uint32)
        planes = encode(bright, self.model.record.target)
        away = abs(np.log2(median_diameter(bright) / 2 / self.known)) if bright.any() else 9.0
        return (planes * max(0.05, 1 - 0.2 * away)).astype(np.float32)


@pytest.fixture
def model() -> TrainedModel:
    made = make_model(diameter=20.0)
    thresholds = made.record.thresholds.model_copy(update={"seed": 0.1, "foreground": 0.3})
    learned = {"config": {"augmentation": {"kind": "nuclei", "invert": 0.1}}}
    record = made.record.model_copy(update={"thresholds": thresholds, "provenance": learned})
    return TrainedModel(made.network, record, "digest")


def other_training(model: TrainedModel, **provenance: object) -> TrainedModel:
    return TrainedModel(model.network, model.record.model_copy(update={"provenance": provenance}), "digest")


@pytest.mark.parametrize(
    ("radius", "side", "step", "zoom"),
    [(40, 512, 100, 0.25), (20, 256, 60, 0.5), (10, 256, 32, 1.0), (5, 256, 16, 2.0)],
)
def test_the_zoom_brings_objects_to_the_size_that_is_known(
    model, radius: int, side: int, step: int, zoom: float
) -> None:
    """A network that knows discs of radius 10: those of 40 are reduced by four, those of 5 magnified by two."""
    pixels = np.repeat(((discs(radius, side, step) > 0) * 200).astype(np.uint8)[None], 3, axis=0)
    found = choose_view(model, pixels, Knows(model, known=10))
    assert found.zoom == zoom
    assert found.diameter == pytest.approx(2 * radius, rel=0.15)


@pytest.mark.parametrize(("radius", "side", "step", "zoom"), [(20, 256, 60, 0.5), (10, 256, 32, 1.0)])
def test_dark_objects_are_seen_as_bright_ones(model, radius: int, side: int, step: int, zoom: float) -> None:
    """A network that knows bright discs of radius 10: dark ones are shown inverted, large ones reduced as well."""
    pixels = np.repeat(((discs(radius, side, step) == 0) * 200).astype(np.uint8)[None], 3, axis=0)
    found = choose_view(model, pixels, Knows(model, known=10))
    assert found.inverted and found.zoom == zoom
    assert found.diameter == pytest.approx(2 * radius, rel=0.15)
    bright = choose_view(model, 200 - pixels, Knows(model, known=10))
    assert not bright.inverted and bright.zoom == zoom


@pytest.mark.parametrize("augmentation", [{"kind": "none"}, {"kind": "nuclei", "invert": 0.0}])
def test_a_network_that_never_saw_inverted_images_is_not_asked(model, augmentation) -> None:
    """It may take the background for an object and be sure of it; an ensemble is asked as its members are."""
    pixels = np.repeat(((discs(10, 256, 32) == 0) * 200).astype(np.uint8)[None], 3, axis=0)
    one = other_training(model, config={"augmentation": augmentation})
    assert not choose_view(one, pixels, Knows(one, known=10)).inverted
    assert not choose_view(other_training(model), pixels, Knows(model, known=10)).inverted
    folds = other_training(model, folds=[model.record.provenance] * 2)
    assert choose_view(folds, pixels, Knows(folds, known=10)).inverted


def test_a_told_zoom_is_taken_and_dark_objects_still_seen(model) -> None:
    """Dark discs of radius 20 with a zoom of .5 or 1 told: inverted and at that zoom, whatever would be surer."""
    pixels = np.repeat(((discs(20, 256, 60) == 0) * 200).astype(np.uint8)[None], 3, axis=0)
    for zoom in (0.5, 1.0):
        found = choose_view(model, pixels, Knows(model, known=10), zoom=zoom)
        assert found.zoom == zoom and found.inverted


def test_a_view_that_is_sure_of_little_is_not_believed(model) -> None:
    """Nothing at native size, and faint discs at every other: it stays as it is; surer ones are taken."""
    pixels = np.repeat(((discs(10, 256, 32) > 0) * 200).astype(np.uint8)[None], 3, axis=0)

    def appears(strength: float) -> Glance:
        def network(prepared: np.ndarray) -> np.ndarray:
            there = discs(10, 1024, 32)[: prepared.shape[1], : prepared.shape[2]] * (prepared.shape[1] != 256)
            return (encode(there, model.record.target) * strength).astype(np.float32)

        return choose_view(model, pixels, network)

    assert appears(0.6).zoom == 1.0 and not appears(0.6).inverted
    assert appears(1.0).zoom != 1.0


@pytest.mark.parametrize(
    ("strengths", "zoom"),
    [
        ({1.0: 0.9, 4.0: 1.0}, 1.0),  # discs of 80 px, where 20 px were learned
        ({1.0: 0.9, 2.0: 1.0}, 2.0),  # of 40 px
        ({1.0: 0.9, 2.0: 0.91}, 1.0),  # hardly surer
        ({1.0: 0.9, 0.5: 0.91}, 0.5),  # hardly surer too, of all that the image as it is shows
    ],
)
def test_a_rescaled_view_has_to_be_surer_and_of_a_size_that_is_known(model, strengths, zoom: float) -> None:
    """Discs of radius 10, as the network learned them, in which it believes as much as each case says."""
    pixels = np.repeat(((discs(10, 512, 32) > 0) * 200).astype(np.uint8)[None], 3, axis=0)

    def network(prepared: np.ndarray) -> np.ndarray:
        bright = cv2.connectedComponents((prepared[0] > 0.5).astype(np.uint8))[1].astype(np.uint32)
        shown = 2.0 ** round(np.log2(median_diameter(bright) / 20))
        return (encode(bright, model.record.target) * strengths.get(shown, 0.0)).astype(np.float32)

    assert choose_view(model, pixels, network).zoom == zoom


def test_without_doubt_nothing_else_is_looked_at(model) -> None:
    """One prediction, and it is kept for the answer; an empty image stays as it is too."""
    pixels = np.repeat(((discs(10, 256, 32) > 0) * 200).astype(np.uint8)[None], 3, axis=0)
    network = Knows(model, known=10)
    found = choose_view(model, pixels, network)
    assert network.calls == 1 and found.planes is not None and found.planes.shape == (3, 256, 256)
    assert choose_view(model, np.zeros((3, 64, 64), np.uint8), network).zoom == 1.0


def test_larger_images_are_looked_at_through_a_window(model) -> None:
    """600 x 700 px: the middle alone, so the answer is still to be predicted."""
    pixels = np.repeat(((discs(10, 700, 32) > 0) * 200).astype(np.uint8)[None], 3, axis=0)
    assert choose_view(model, pixels, Knows(model, known=10)).planes is None


def test_what_was_predicted_is_not_predicted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The found zoom's planes and a new prediction give the same labels; `native` never looks."""
    pixels = np.random.default_rng(0).integers(0, 255, (1, 45, 70)).astype(np.uint8)
    segmenter = Segmenter(make_model(diameter=15.0), "cpu")
    native = segmenter.segment(Source(pixels), ImageOptions(diameter="native"))
    planes = segmenting.choose_view(
        segmenter.model, np.repeat(pixels, 3, axis=0), lambda p: segmenting.predict(segmenter.engine, p)
    )
    assert planes.zoom == 1.0
    found = segmenter.segment(Source(pixels), ImageOptions())
    np.testing.assert_array_equal(found.labels, native.labels)
    monkeypatch.setattr(segmenting, "choose_view", None)
    np.testing.assert_array_equal(
        segmenter.segment(Source(pixels), ImageOptions(diameter="native")).labels, native.labels
    )


def test_magnified_images_are_decoded_where_there_is_more_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects one file pixel apart come back as two, on the file's grid, each with its confidence."""
    truth = np.zeros((16, 24), np.uint32)
    truth[4:10, 3:9], truth[4:10, 10:16] = 1, 2
    model = make_model(diameter=20.0)
    fine = cv2.resize(truth.astype(np.float32), (96, 64), interpolation=cv2.INTER_NEAREST).astype(np.uint32)
    planes = np.pad(encode(fine, model.record.target), ((0, 0), (0, 0), (0, 0)))
    monkeypatch.setattr(segmenting, "choose_view", lambda *_: Glance(4.0, 1.0, 6.0, planes))
    found = Segmenter(model, "cpu").segment(Source((truth > 0).astype(np.uint8)[None] * 200))
    np.testing.assert_array_equal(found.labels, truth)
    assert found.confidence.objects.size == 2 and found.statistics["zoom"] == 4.0 and not found.statistics["inverted"]
    assert found.statistics["diameter"] == pytest.approx(2 * np.sqrt(36 / np.pi), rel=0.01)


def test_the_median_diameter_is_weighted_by_area() -> None:
    """Ten specks and one disc: the disc; nothing: 0."""
    labels = np.zeros((40, 40), np.uint32)
    y, x = np.mgrid[:40, :40]
    labels[(y - 20) ** 2 + (x - 20) ** 2 <= 100] = 1
    labels[0, ::4] = np.arange(2, 12)
    assert median_diameter(labels) == pytest.approx(20, rel=0.03) and median_diameter(labels * 0) == 0
