"""Large volumes go through in slabs, and nobody can tell by the answer."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_model import Source
from made_volume_model import ANISOTROPIC, volume, volume_model

from pipeline.config import SeparatedTarget
from pipeline.inference import volume_grid, volumes
from pipeline.inference.direct import DirectSegmenter, chosen_bytes, class_confidence
from pipeline.inference.volume_grid import HeldVolume, VolumeGrid, undo_slabs
from pipeline.inference.volumes import predict_slabs, predict_volume
from pipeline.model.volumes import VolumePreparation, planes_needed, resample, resample_planes
from pipeline.scoring.class_sums import ClassSums
from pipeline.types import Geometry, Window

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


def monai_answer(model, prepared: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """What MONAI makes of the whole volume at once."""
    from monai.inferers.utils import sliding_window_inference

    with torch.inference_mode():
        return sliding_window_inference(
            torch.from_numpy(prepared)[None],
            window,
            1,
            lambda x: model.network(x).float().softmax(1),
            overlap=0.5,
            mode="gaussian",
        )[0].numpy()


@pytest.mark.parametrize("shape", [(44, 24, 20), (16, 16, 16), (12, 40, 8), (20, 12, 36), (8, 8, 8), (17, 31, 16)])
def test_blended_slabs_are_monais_answer_bit_for_bit(shape, monkeypatch):
    """Windows that overlap, that are clipped at the far end, that are larger than the volume: no bit differs."""
    monkeypatch.setattr(volumes, "WHOLE", 0)
    monkeypatch.setattr(volumes, "AT_ONCE", 3 * 24 * 20 * 3)
    model, prepared = volume_model(exact=False), volume(shape)
    slabs = list(predict_slabs(model, HeldVolume(prepared)))
    np.testing.assert_array_equal(np.concatenate(slabs, axis=1), monai_answer(model, prepared, (16, 16, 16)))
    if shape[0] > 16:
        assert max(slab.shape[1] for slab in slabs) <= 8


@pytest.mark.parametrize("core", [(8, 16, 24), (16, 40, 48)])
def test_exact_slabs_are_the_boxes_of_the_whole(core):
    """A layer of cores is a slab; together they are the answer, whole layers of planes in order."""
    model, prepared = volume_model(pooling=ANISOTROPIC), volume()
    slabs = list(predict_slabs(model, HeldVolume(prepared), core=core))
    assert [slab.shape[1:] for slab in slabs] == [(core[0], 40, 48)] * (32 // core[0])
    np.testing.assert_allclose(np.concatenate(slabs, axis=1), predict_volume(model, prepared), atol=1e-5)


def preparation(original, shape, strides=(1, 1, 1)) -> VolumePreparation:
    return VolumePreparation((20.0,), (0.01,), (-0.5, 1.5), shape, original, strides)


@given(SIDES, SIDES, st.integers(0, 11), st.integers(1, 12))
def test_resampled_planes_are_those_of_the_resampled_volume(given_, wanted, first, count):
    """From the planes that are needed alone come the whole's, to float32's rounding; bit for bit where sides stay."""
    first, last = min(first, wanted[0] - 1), min(first + count, wanted[0])
    last = max(last, first + 1)
    values = np.random.default_rng(0).random((2, *given_), np.float32)
    top, bottom = planes_needed(given_, wanted, first, last)
    found = resample_planes(values[:, top:bottom], top, given_, wanted, first, last)
    whole = resample(values, wanted)[:, first:last]
    np.testing.assert_allclose(found, whole, atol=0 if given_ == wanted else 1e-5)


@pytest.mark.parametrize("shape", [(9, 10, 11), (18, 10, 11), (5, 17, 6)])
def test_boxes_of_a_grid_are_those_of_the_prepared_volume(shape):
    """Normalised, resampled and mirrored at the far ends, box by box as at once."""
    voxels = np.random.default_rng(1).integers(0, 200, (1, 9, 10, 11), np.uint8)
    how = preparation((9, 10, 11), shape, (8, 8, 8))
    grid, whole = VolumeGrid(voxels, how), how.apply(voxels)
    assert grid.shape == whole.shape[1:]
    atol = 0 if shape == (9, 10, 11) else 1e-5
    for z in range(0, grid.shape[0] - 3, 2):
        box = Window((z, 2, grid.shape[2] - 8), (z + 4, 10, grid.shape[2]))
        np.testing.assert_allclose(grid.box(box), whole[:, *box.slices], atol=atol)
        assert grid.box(box).flags.c_contiguous


@pytest.mark.parametrize("shape", [(9, 10, 11), (18, 10, 11), (5, 17, 6)])
@pytest.mark.parametrize("planes", [1, 3, 16])
def test_slabs_go_back_to_the_files_grid(shape, planes, monkeypatch):
    """However the network's planes come, the file's are those of the whole answer, few at a time."""
    monkeypatch.setattr(volume_grid, "AT_ONCE", 500)
    how = preparation((9, 10, 11), shape, (4, 4, 4))
    answer = np.random.default_rng(2).random((2, *(side + -side % 4 for side in shape)), np.float32)
    slabs = (answer[:, first : first + planes] for first in range(0, answer.shape[1], planes))
    found = list(undo_slabs(slabs, how))
    assert max(slab.shape[1] for slab in found) <= 2
    np.testing.assert_allclose(np.concatenate(found, axis=1), how.undo(answer), atol=1e-5 * (shape != (9, 10, 11)))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("target", [None, SeparatedTarget()])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (4.0, 3.0, 2.0)])
def test_a_large_volume_is_segmented_as_a_small_one(exact, target, spacing, monkeypatch):
    """Classes and objects, exact and blended, at the file's voxel size and resampled: the same labels, and as sure."""
    torch.manual_seed(0)
    arguments = {"exact": exact, "spacing": spacing} | ({"target": target} if target else {})
    segmenter = DirectSegmenter(volume_model(**arguments), "cpu")
    source = Source(volume((20, 24, 18)), Geometry((2.0, 2.0, 2.0), "mm"))
    monkeypatch.setattr(volumes, "WHOLE", 0)
    monkeypatch.setattr(volume_grid, "AT_ONCE", 4000)
    large = segmenter.segment(source)
    how, record = segmenter._prepare(source.read().pixels, source.geometry), segmenter.model.record
    planes = predict_volume(segmenter.model, how.apply(source.read().pixels))
    labels, _, sure = segmenter._decode(planes, how)
    changed = np.count_nonzero(large.labels != labels)
    assert changed == 0 if spacing is None else changed <= 1e-3 * prod(labels.shape)
    assert large.confidence.sums == sure.sums or spacing is not None
    np.testing.assert_allclose(large.confidence.objects, sure.objects, atol=0 if spacing is None else 1e-5)
    assert large.labels.dtype == (np.uint8 if target is None else np.uint32) and record.volume is not None


def test_class_sums_do_not_depend_on_the_parts():
    """To the last bit, classes that are not there included."""
    planes = np.random.default_rng(0).random((4, 30, 7, 5), np.float32)
    planes[2] = 0
    labels = planes.argmax(axis=0).astype(np.uint32)
    sums = ClassSums(4, 3, channels=0)
    for first in range(0, 30, 7):
        sums.count(labels[first : first + 7], chosen_bytes(planes[:, first : first + 7]))
    whole = class_confidence(labels, planes)
    assert sums.confidence.sums == whole.sums
    np.testing.assert_array_equal(sums.confidence.objects, whole.objects)


def test_a_large_file_of_a_coarse_model_is_never_resampled_whole(monkeypatch):
    """What is small on the network's grid goes through in one piece, but its file's planes are read few at a time."""
    seen = []
    normalise = VolumePreparation.normalise
    monkeypatch.setattr(VolumePreparation, "normalise", lambda self, v: seen.append(v.shape[1]) or normalise(self, v))
    monkeypatch.setattr(volume_grid, "AT_ONCE", 24 * 24 * 8)
    monkeypatch.setattr(volumes, "WHOLE", 24**3 - 1)
    segmenter = DirectSegmenter(volume_model(spacing=(4.0, 4.0, 4.0)), "cpu")
    large = segmenter.segment(Source(volume((24, 24, 24)), Geometry((2.0, 2.0, 2.0), "mm")))
    assert large.probabilities is None and len(seen) > 2 and max(seen) < 16
