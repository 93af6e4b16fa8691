"""A device that is full gets smaller boxes of a volume, and nobody can tell by the answer."""

import numpy as np
import pytest
import torch
from made_model import Source
from made_volume_model import ANISOTROPIC, volume, volume_model
from torch import Tensor, nn

from pipeline.errors import ModelError, UsageError
from pipeline.inference import volumes
from pipeline.inference.direct import DirectSegmenter
from pipeline.inference.volumes import Room, predict_volume
from pipeline.model.bundle import TrainedModel
from pipeline.types import Geometry


class Limited(nn.Module):
    """A network on a device that has room for so many voxels at once, or is full at certain calls."""

    def __init__(self, network: nn.Module, most: int = 10**9, full_at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.network, self.most, self.full_at, self.seen = network, most, full_at, []

    def forward(self, box: Tensor) -> Tensor:
        self.seen.append(box[0, 0].numel())
        if self.seen[-1] > self.most or len(self.seen) in self.full_at:
            raise torch.OutOfMemoryError("the device is full")
        return self.network(box)


def limited(model: TrainedModel, **limits) -> TrainedModel:
    return TrainedModel(Limited(model.network, **limits), model.record, "digest")


SHAPE = (16, 24, 96)


@pytest.mark.parametrize("pooling", [(), ANISOTROPIC])
@pytest.mark.parametrize("core", [None, (16, 16, 48)])
def test_exact_boxes_shrink_and_the_answer_stays(core, pooling):
    """Whole volumes and boxes are cut again, with all that the network sees around them: not a bit differs. One box is
    tried in each size that is too large, and none of them when the next volume comes.
    """
    model, prepared, room = limited(volume_model(pooling=pooling)), volume(SHAPE), Room()
    wanted = predict_volume(model, prepared, core=core)
    most = max(model.network.seen) - 1
    full = limited(volume_model(pooling=pooling), most=most)
    np.testing.assert_array_equal(predict_volume(full, prepared, core=core, room=room), wanted)
    too_large = [voxels for voxels in full.network.seen if voxels > most]
    assert 1 <= len(too_large) == len(set(too_large))
    full.network.seen.clear()
    np.testing.assert_array_equal(predict_volume(full, prepared, room=room), wanted)
    assert max(full.network.seen) <= most


def test_mirrored_boxes_shrink_too():
    """Test-time augmentation asks eight times for each box; it may run out at any of them."""
    model, prepared = volume_model(), volume(SHAPE)
    full = limited(model, full_at=(6,))
    np.testing.assert_array_equal(predict_volume(full, prepared, tta=True), predict_volume(model, prepared, tta=True))


def test_blended_windows_lose_their_sums_to_the_host(monkeypatch):
    """Full at the fifth window: it is asked again with the sums in the host's memory, where they stay."""
    monkeypatch.setattr(volumes, "WHOLE", 0)
    model, prepared, room = volume_model(exact=False), volume((24, 20, 28)), Room()
    full = limited(model, full_at=(5,))
    np.testing.assert_array_equal(predict_volume(full, prepared, room=room), predict_volume(model, prepared))
    assert not room.sums
    np.testing.assert_array_equal(predict_volume(model, prepared, room=room), predict_volume(model, prepared))


@pytest.mark.parametrize(("exact", "whole"), [(True, 4_000_000), (False, 0), (False, 4_000_000)])
def test_a_device_without_any_room_is_an_error_with_a_name(exact, whole, monkeypatch):
    """Not even the smallest box fits, nor a window; what goes through whole without halos cannot be cut."""
    monkeypatch.setattr(volumes, "WHOLE", whole)
    model = limited(volume_model(exact=exact), most=10)
    with pytest.raises(ModelError, match=r"device cpu: got out of memory, wanted room for .* use --device cpu"):
        predict_volume(model, volume((24, 20, 28)))


def test_a_segmenter_remembers_the_room():
    """From volume to volume, whatever the number of them."""
    segmenter = DirectSegmenter(limited(volume_model(), most=30_000), "cpu")
    source = Source(volume(SHAPE), Geometry((1.0, 1.0, 1.0), "mm"))
    first = segmenter.segment(source).labels
    segmenter.model.network.seen.clear()
    np.testing.assert_array_equal(segmenter.segment(source).labels, first)
    assert max(segmenter.model.network.seen) <= 30_000


def test_a_model_of_volumes_takes_one_device():
    """It is said so, and what to do."""
    with pytest.raises(UsageError, match=r"--device cpu,cpu: .*a model of volumes takes one device; name one of them"):
        DirectSegmenter(volume_model(), "cpu,cpu")
