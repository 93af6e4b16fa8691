"""A volume is prepared for the network's grid and put back on its own; nothing about its size is guessed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unet
from pipeline.config import (
    ClassesTarget,
    Divide,
    NucleiUNet,
    Percentile,
    PrepareConfig,
    SeparatedTarget,
    SpacingSize,
    ZScore,
)
from pipeline.errors import ImageError
from pipeline.model.prepare import fit
from pipeline.model.targets import Thresholds, activate, channel_names, decode, encode
from pipeline.model.volume_objects import own_distance, separate, touching_border
from pipeline.model.volumes import describe_volume_network, fit_volume, nearest, resample, strides_of
from pipeline.types import Geometry

MM = Geometry((2.0, 1.0, 1.0), "mm")
CLASSES = ClassesTarget(names=("none", "a", "b"))


def blobs(shape=(9, 14, 13)):
    """A smooth volume."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (np.exp(-3 * (z**2 + y**2 + x**2)) * 200 + 20).astype(np.float32)[None]


def test_at_its_own_voxel_size_a_volume_is_only_normalised_and_padded():
    """Sides of 9, 14, 13 become 12, 16, 16 by mirroring; undoing takes the padding off again."""
    voxels = blobs()
    preparation = fit_volume(voxels, MM, PrepareConfig(channels=1, normalise=Divide(by=100)), (4, 8, 8))
    ready = preparation.apply(voxels)
    assert ready.shape == (1, 12, 16, 16) and ready.dtype == np.float32
    np.testing.assert_allclose(ready[:, :9, :14, :13], np.clip(voxels / 100, -0.5, 1.5), rtol=1e-5)
    assert (ready[:, 9] == ready[:, 8]).all()
    assert (preparation.undo(ready) == ready[:, :9, :14, :13]).all()


def test_anisotropic_voxels_are_brought_to_the_models_size_and_back():
    """Slices of 2 mm give twice as many of 1 mm; a smooth volume comes back as it was."""
    voxels = blobs()
    config = PrepareConfig(channels=1, normalise=Percentile(low=0, high=100), size=SpacingSize())
    preparation = fit_volume(voxels, MM, config, (1, 1, 1))
    ready = preparation.apply(voxels)
    assert ready.shape == (1, 18, 14, 13)
    assert np.abs(preparation.undo(ready) - preparation.normalise(voxels)).max() < 0.1
    assert preparation.labels_on_grid((voxels[0] > 100).astype(np.uint32)).shape == (18, 14, 13)
    in_um = Geometry((2000.0, 1000.0, 1000.0), "um")
    assert fit_volume(voxels, in_um, config, (1, 1, 1)).shape == (18, 14, 13)


def test_resampling_keeps_a_ramp_and_does_not_alias():
    """A linear ramp stays one at half the step; stripes of one voxel average out when the axis shrinks to a quarter."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], (8, 2, 2))[None]
    finer = resample(np.ascontiguousarray(ramp), (16, 2, 2))[0, :, 0, 0]
    np.testing.assert_allclose(np.diff(finer)[1:-1], 0.5, atol=1e-6)
    stripes = np.zeros((1, 64, 2, 2), np.float32)
    stripes[:, ::2] = 1
    assert np.abs(resample(stripes, (16, 2, 2))[0, 2:-2] - 0.5).max() < 0.1


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9))
def test_nearest_labels_come_back_when_the_grid_was_finer(side, more):
    """Any labels, on a grid at least as fine and back again, are the same labels."""
    labels = np.arange(side * 2, dtype=np.uint32).reshape(side, 2)
    assert (nearest(nearest(labels, (side * more, 2)), labels.shape) == labels).all()


def test_zscore_has_mean_0_and_deviation_1():
    """Outliers are cut at 5; a constant channel becomes 0."""
    ramp = np.arange(9 * 14 * 13, dtype=np.float32).reshape(1, 9, 14, 13)
    voxels = np.concatenate([ramp, np.full_like(ramp, 7)])
    preparation = fit_volume(voxels, MM, PrepareConfig(channels=2, normalise=ZScore()), (1, 1, 1))
    values = preparation.normalise(voxels)
    assert abs(values[0].mean()) < 1e-4 and abs(values[0].std() - 1) < 1e-4 and not values[1].any()
    assert preparation.normalise(voxels * 1000)[0].max() == 5


def test_what_cannot_be_prepared_is_refused():
    """No voxel size where the model has one, NaN, nothing at all, z-scores of an image."""
    sized = PrepareConfig(channels=1, size=SpacingSize())
    with pytest.raises(ImageError, match="no voxel size"):
        fit_volume(blobs(), Geometry.pixels(3), sized, (1, 1, 1))
    with pytest.raises(ImageError, match="NaN"):
        fit_volume(blobs() * np.nan, MM, PrepareConfig(channels=1), (1, 1, 1))
    with pytest.raises(ImageError, match="at least one voxel"):
        fit_volume(blobs()[:, :0], MM, PrepareConfig(channels=1), (1, 1, 1))
    with pytest.raises(ImageError, match="2-D"):
        fit(blobs()[:, 0], PrepareConfig(channels=1, normalise=ZScore()), stride=1)
    with pytest.raises(ImageError, match="spacing"):
        Geometry((0.0, 1.0, 1.0), "mm")


@pytest.mark.parametrize(("pooling", "strides"), [((), (4, 4, 4)), (((1, 2, 2), (2, 2, 2)), (2, 4, 4))])
def test_strides_and_halos_are_those_of_each_axis(pooling, strides):
    """Where slices are not pooled at first, Z has a smaller stride, and the network sees less far along it."""
    config = NucleiUNet(dimensions=3, in_channels=1, out_channels=2, filters=(2, 2, 2), pooling=pooling)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    found, halos = describe_volume_network(network, 1)
    assert found == strides == strides_of(network)
    assert halos is not None and (halos[0] < halos[1]) == bool(pooling) and halos[1] == halos[2]


def test_a_network_of_global_statistics_has_no_halo():
    """InstanceNorm sees the whole volume: its windows are blended."""
    network = unet.build(
        "residual_unet",
        in_channels=1,
        out_channels=2,
        filters=(2, 4),
        units=1,
        norm="instance",
        dropout=0.0,
        dimensions=3,
        pooling=(),
    )
    assert describe_volume_network(network, 1)[1] is None


@pytest.mark.parametrize("shape", [(6, 7), (4, 6, 7)])
def test_class_maps_come_back_from_their_target(shape):
    """Numbers to learn, one channel a class as the answer; the most probable one is decoded."""
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint32)
    numbers = encode(labels, CLASSES)
    assert numbers.dtype == np.uint8 and (numbers == labels).all()
    logits = torch.nn.functional.one_hot(torch.tensor(numbers).long(), 3).movedim(-1, 0).float()[None]
    planes = activate(logits, CLASSES)
    assert torch.allclose(planes.sum(1), torch.ones(1, *shape))
    assert (decode(planes[0].numpy(), CLASSES, Thresholds()) == labels).all()
    assert channel_names(CLASSES) == ("none", "a", "b")


def balls(centres, radius=4, shape=(16, 20, 20)):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    labels, nearest_yet = np.zeros(shape, np.uint32), np.full(shape, np.inf)
    for number, centre in enumerate(centres, start=1):
        away = np.sqrt(((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0))
        mine = (away <= radius) & (away < nearest_yet)
        labels[mine], nearest_yet[mine] = number, away[mine]
    return labels


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(4, 11), st.integers(4, 15), st.integers(4, 15)), max_size=3))
def test_separated_volumes_come_back_from_their_target(centres):
    """Balls whose centres lie more than a radius apart, touching or not, are the same balls after encode and decode."""
    apart = [c for i, c in enumerate(centres) if all(np.linalg.norm(np.subtract(c, d)) >= 7 for d in centres[:i])]
    labels = balls(apart)
    found = decode(encode(labels, SeparatedTarget()), SeparatedTarget(), Thresholds(minimum_area=1, minimum_seed=1))
    assert found.max() == len(apart)
    pairs = {(a, b) for a, b in zip(labels[labels > 0], found[labels > 0], strict=True)}
    assert len({a for a, _ in pairs}) == len(apart)
    agree = sum(
        max((labels[found == n] == k).sum() for k in range(1, len(apart) + 1)) for n in range(1, found.max() + 1)
    )
    assert not apart or agree >= 0.97 * (labels > 0).sum()


def test_two_touching_balls_have_a_border_and_one_core_each():
    """The border lies between them alone; each reaches distance 1 at its centre."""
    labels = balls([(8, 8, 6), (8, 8, 13)])
    assert touching_border(balls([(8, 8, 6)])).sum() == 0
    border = touching_border(labels)
    assert border.sum() > 0 and set(np.nonzero(border)[2]) <= {8, 9, 10, 11}
    distance = own_distance(labels)
    assert distance[8, 8, 6] == distance[8, 8, 13] == 1 and not distance[labels == 0].any()


def test_an_object_without_a_seed_stays_whole():
    """Where no voxel is deep enough, the component itself is the object."""
    planes = np.zeros((3, 4, 5, 6), np.float32)
    planes[0, 1:3, 1:3, 1:4] = 1
    labels = separate(planes, planes[0] > 0.5, 0.5, 1.0, 3)
    assert len(np.unique(labels[labels > 0])) == 1 and (labels > 0).sum() == 12


def test_an_object_that_fills_the_volume_is_all_core():
    """There is no edge to measure from: the distance is 1 everywhere."""
    assert (own_distance(np.ones((2, 3, 4), np.uint32)) == 1).all()
