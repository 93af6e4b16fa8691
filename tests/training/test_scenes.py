"""Whole scenes in another light and mirrored: image and target alike, the same sample from the same seed."""

import numpy as np
import pytest
import torch
from made_examples import example

from pipeline.config import SceneAugmentation, TrainConfig, build_config
from pipeline.errors import ConfigError
from pipeline.training.dataset import WholeDataset
from pipeline.training.scenes import SceneChange, draw_scene

TREE = {
    "network": {"kind": "guide_unet"},
    "target": {"kind": "mask"},
    "prepare": {"normalise": {"kind": "divide"}, "size": {"kind": "fixed", "height": 32, "width": 48}},
    "sampling": {"kind": "whole"},
}


def config(augmentation):
    return build_config(TrainConfig, TREE | {"augmentation": augmentation}, "test")


def test_image_and_target_are_mirrored_alike():
    """Left and right change places in both, rows stay; light changes the image alone, within its limits."""
    image = np.array([[[0.0, 0.25, 0.5], [1.0, 1.0, 1.0]]], np.float32)
    change = SceneChange((False, True), gain=2.0, offset=-0.5)
    assert change.place(image)[0].tolist() == [[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]]
    assert change.place(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert change.light(image)[0].tolist() == [[-0.5, 0.0, 0.5], [1.5, 1.5, 1.5]]
    assert SceneChange((True, False)).place(image)[0].tolist() == [[1.0, 1.0, 1.0], [0.0, 0.25, 0.5]]


def test_what_is_drawn_lies_in_its_ranges():
    """A probability of 0 never mirrors, of 1 always; gain and offset reach both sides of nothing."""
    generator = np.random.default_rng(0)
    setting = SceneAugmentation(flip=(0.0, 1.0), brightness=0.4, contrast=0.2)
    drawn = [draw_scene(setting, generator) for _ in range(200)]
    assert {one.mirrored for one in drawn} == {(False, True)}
    gains, offsets = (np.array([getattr(one, name) for one in drawn]) for name in ("gain", "offset"))
    assert 0.8 <= gains.min() < 0.85 and 1.15 < gains.max() <= 1.2
    assert -0.4 <= offsets.min() < -0.3 and 0.3 < offsets.max() <= 0.4


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    """Asked for twice it is the same; another epoch mirrors others; the target goes along with the image."""
    examples = [example(seed, config({"kind": "none"})) for seed in (1, 2, 3)]
    plain = WholeDataset(examples, config({"kind": "none"}))
    data = WholeDataset(examples, config({"kind": "scene", "flip": [0.5, 0.5], "brightness": 0, "contrast": 0}))
    seen = set()
    for epoch in range(4):
        plain.start_epoch(epoch)
        data.start_epoch(epoch)
        for index in range(3):
            once, again, source = data[index], data[index], plain[index]
            assert all(torch.equal(once[name], again[name]) for name in once)
            axes = [dims for dims in ((), (1,), (2,), (1, 2)) if torch.equal(once["image"], source["image"].flip(dims))]
            assert len(axes) == 1 and torch.equal(once["target"], source["target"].flip(axes[0]))
            seen.add(axes[0])
    assert len(seen) > 1


def test_scenes_are_whole():
    """Crops have an augmentation of their own."""
    with pytest.raises(ConfigError, match="scene is for sampling whole, not crops"):
        build_config(TrainConfig, {"augmentation": {"kind": "scene"}}, "test")
