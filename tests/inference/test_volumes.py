"""Volumes are cut into boxes without a trace where the network allows it, and blended where it does not."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from made_model import Source, make_model
from made_volume_model import ANISOTROPIC, CLASSES, volume, volume_model

from pipeline.config import ImageOptions, SeparatedTarget
from pipeline.data.images import open_image
from pipeline.errors import ImageError, ModelError, UsageError
from pipeline.inference.boxes import choose_core, plan_boxes
from pipeline.inference.direct import DirectSegmenter, build_segmenter, class_confidence
from pipeline.inference.segment import Segmenter
from pipeline.inference.volumes import predict_volume
from pipeline.model.bundle import TrainedModel, load_model, save_model
from pipeline.types import Geometry


def test_every_voxel_lies_in_exactly_one_core():
    """Cores are disjoint, cover the volume, start on the strides, and lie inside what is read."""
    seen = np.zeros((12, 20, 9), int)
    for tile in plan_boxes(seen.shape, (4, 8, 3), (4, 4, 3), (4, 4, 3)):
        seen[tile.core.slices] += 1
        assert all(a % s == 0 for a, s in zip(tile.core.start, (4, 4, 3), strict=True))
        inner = tuple(
            slice(r.start + i.start, r.start + i.stop) for r, i in zip(tile.read.slices, tile.inner, strict=True)
        )
        assert inner == tile.core.slices
    assert (seen == 1).all()


@pytest.mark.parametrize("pooling", [(), ANISOTROPIC])
@pytest.mark.parametrize("core", [(16, 16, 24), (32, 8, 40)])
def test_boxes_give_the_answer_of_the_whole_volume(core, pooling):
    """Exact for cores of any sides, at the edges too, also where the axes' strides differ."""
    model, prepared = volume_model(pooling=pooling), volume()
    whole = predict_volume(model, prepared)
    tiled = predict_volume(model, prepared, core=core)
    assert np.ptp(whole) > 1e-3
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_mirrored_answers_are_exact_too():
    """Test-time augmentation is the mean over the eight mirrorings, whole or in boxes, and changes the answer."""
    model, prepared = volume_model(), volume((16, 16, 16))
    whole = predict_volume(model, prepared, tta=True)
    np.testing.assert_allclose(predict_volume(model, prepared, core=(8, 8, 8), tta=True), whole, atol=1e-5)
    by_hand = 0
    for flips in product((1, -1), repeat=3):
        step = tuple(slice(None, None, f) for f in flips)
        by_hand = (
            by_hand + predict_volume(model, np.ascontiguousarray(prepared[(slice(None), *step)]))[(slice(None), *step)]
        )
    np.testing.assert_allclose(whole, by_hand / 8, atol=1e-5)


def test_a_network_that_sees_everything_is_blended_as_monai_does():
    """Without halos on record, boxes become MONAI's gaussian windows of the size it was trained on."""
    from monai.inferers.utils import sliding_window_inference

    model, prepared = volume_model(exact=False), volume((24, 20, 28))
    assert model.record.halo is None
    wanted = sliding_window_inference(
        torch.from_numpy(prepared)[None],
        (16,) * 3,
        1,
        lambda x: model.network(x).softmax(1),
        overlap=0.5,
        mode="gaussian",
    )
    with torch.inference_mode():
        np.testing.assert_allclose(predict_volume(model, prepared, core=(8, 8, 8)), wanted[0].detach(), atol=1e-5)


def test_cores_are_as_large_as_memory_allows():
    """The box with its halos stays under the limit while the core can still shrink; no core is under the stride."""
    core = choose_core((300, 512, 512), (16, 48, 48), (4, 8, 8))
    box = np.add(core, (32, 96, 96))
    assert box.prod() <= 4_000_000 and all(a % s == 0 for a, s in zip(core, (4, 8, 8), strict=True))
    assert choose_core((64, 64, 64), (48,) * 3, (8,) * 3) == (64, 64, 64)
    assert choose_core((64, 64, 64), (48,) * 3, (8,) * 3, most=10) == (8, 8, 8)


def test_a_model_of_images_does_not_predict_volumes():
    """It has no grid in three dimensions."""
    with pytest.raises(ModelError, match="a model of images"):
        predict_volume(make_model(), volume())


def test_a_volume_is_segmented_on_its_own_grid():
    """Voxels of 3 x 1 x 1 mm, a model of 1 mm: the class map lies on the file's grid; the run says how it was tiled."""
    source = Source(volume((9, 21, 18)), Geometry((3.0, 1.0, 1.0), "mm"))
    answer = DirectSegmenter(volume_model(spacing=(1.0, 1.0, 1.0)), "cpu").segment(source)
    assert answer.labels.shape == (9, 21, 18) and answer.labels.max() <= 2
    assert answer.probabilities.shape == (3, 9, 21, 18)
    assert answer.classes == CLASSES.names and answer.statistics["windows"] == "exact"
    assert answer.statistics["zoom"] == pytest.approx(3 ** (1 / 3), rel=1e-3)
    assert len(answer.confidence.objects) == len(np.unique(answer.labels[answer.labels > 0]))


def volume_file(folder, voxels):
    """A TIFF of slices that says nothing of their size."""
    tifffile.imwrite(folder / "a.tif", voxels[0], photometric="minisblack")
    return folder / "a.tif"


def test_a_voxel_size_can_be_told(tmp_path):
    """Where the file says none, --pixel-size stands for all three sides; without it the volume is refused."""
    source = open_image(volume_file(tmp_path, volume((8, 8, 8))), pages="stack")
    segmenter = DirectSegmenter(volume_model(spacing=(1.0, 1.0, 1.0)), "cpu")
    with pytest.raises(ImageError, match="no voxel size"):
        segmenter.segment(source)
    assert segmenter.segment(source.told(2000)).statistics["zoom"] == pytest.approx(2.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 4.0, 4.0)])
def test_objects_of_volumes_are_numbered_on_the_files_grid(spacing):
    """Whether the model's voxels are larger or smaller than the file's, labels are 1..n with a confidence each."""
    source = Source(volume((16, 16, 16)), Geometry((2.0, 2.0, 2.0), "mm"))
    answer = DirectSegmenter(volume_model(SeparatedTarget(), spacing=spacing), "cpu").segment(source)
    numbers = np.unique(answer.labels[answer.labels > 0])
    assert answer.labels.shape == (16, 16, 16) and answer.classes == ()
    assert len(answer.confidence.objects) == len(numbers) and (numbers == np.arange(1, len(numbers) + 1)).all()


def test_classes_of_images_are_segmented_too():
    """A model of classes in two dimensions gives a class map, without looking for a zoom."""
    model = make_model(channels=1)
    record = model.record.model_copy(update={"target": CLASSES, "outputs": CLASSES.names})
    segmenter = build_segmenter(TrainedModel(model.network, record, "d"), "cpu")
    answer = segmenter.segment(Source(volume((20, 24))))
    assert isinstance(segmenter, DirectSegmenter) and answer.labels.shape == (20, 24)
    assert isinstance(build_segmenter(model, "cpu"), Segmenter)
    sure = class_confidence(
        np.array([[0, 2]], np.uint32), np.array([[[0.9, 0.1]], [[0, 0.2]], [[0.1, 0.7]]], np.float32)
    )
    assert sure.image == pytest.approx(0.7, abs=0.5 / 255) and sure.objects.tolist() == [
        pytest.approx(0.7, abs=0.5 / 255)
    ]
    assert class_confidence(np.zeros((1, 2), np.uint32), np.ones((3, 1, 2), np.float32)).image == 0


def test_what_the_model_cannot_take_is_refused():
    """A flat image, a diameter."""
    segmenter, source = DirectSegmenter(volume_model(), "cpu"), Source(volume((8, 8, 8)))
    with pytest.raises(ImageError, match="2-D"):
        segmenter.segment(Source(volume((8, 8))))
    with pytest.raises(UsageError, match="--diameter"):
        segmenter.segment(source, ImageOptions(diameter=9.0))


def test_what_only_objects_in_images_have_is_refused():
    """Volumes have torch alone; an image, however large, is none of them."""
    with pytest.raises(UsageError, match="a model of volumes"):
        build_segmenter(volume_model(), "cpu", "openvino")
    with pytest.raises(ImageError, match="got 2-D, wanted 3-D"):
        DirectSegmenter(volume_model(), "cpu").stream(SimpleNamespace(shape=(1, 20, 24)), ImageOptions(), None, "")


def test_channels_of_volumes_are_taken_as_those_of_images():
    """One of two channels is chosen; two for a model of one are refused."""
    segmenter, two = DirectSegmenter(volume_model(), "cpu"), np.concatenate([volume((8, 8, 8)), volume((8, 8, 8), 1)])
    chosen = segmenter.segment(Source(two), ImageOptions(channel=1)).probabilities
    assert (chosen == segmenter.segment(Source(two[1:])).probabilities).all()
    with pytest.raises(ImageError, match="channels"):
        segmenter.segment(Source(two))


def test_a_model_of_volumes_is_kept_with_its_record(tmp_path):
    """Strides, halos, window and class names survive saving and loading."""
    model = volume_model(pooling=ANISOTROPIC)
    save_model(tmp_path, model.network, model.record)
    loaded = load_model(tmp_path)
    assert loaded.record.volume == model.record.volume and loaded.record.target == CLASSES
    np.testing.assert_array_equal(predict_volume(loaded, volume()), predict_volume(model, volume()))


def test_a_volume_of_one_cell_is_mirrored_for_a_network_with_statistics():
    """InstanceNorm has none of a single value: the answer is that of the volume mirrored once along each axis."""
    model = volume_model(exact=False)
    sides = model.record.volume.strides
    cell = volume(sides)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model.network(torch.zeros(1, 1, *sides))
    mirrored = np.pad(cell, ((0, 0), *((0, side) for side in sides)), mode="symmetric")
    z, y, x = sides
    np.testing.assert_array_equal(predict_volume(model, cell), predict_volume(model, mirrored)[:, :z, :y, :x])
    assert np.isfinite(predict_volume(model, cell, tta=True)).all()
