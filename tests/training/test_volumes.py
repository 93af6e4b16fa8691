"""Volumes and class maps are learned from: samples repeat, ignored voxels do not count, the loss falls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config import TrainConfig, build_config
from pipeline.errors import ConfigError, MaskError, TrainingError
from pipeline.model.volumes import fit_volume
from pipeline.training.dataset import CropDataset, Example, build_dataset, grid_target
from pipeline.training.train import run_training, start_training, train_step
from pipeline.training.validate import answers, score_name, validate
from pipeline.training.volumes import PatchDataset, prepared, understood
from pipeline.types import Case, Geometry

NETWORK = {"kind": "nuclei_unet", "dimensions": 3, "in_channels": 1, "out_channels": 3, "filters": [4, 6]}
VOLUMES = {
    "network": NETWORK,
    "prepare": {"channels": 1, "normalise": {"kind": "zscore"}},
    "target": {"kind": "classes", "names": ["none", "low", "high"]},
    "sampling": {"kind": "patches", "size": [8, 8, 8], "per_epoch": 4},
    "augmentation": {"kind": "volume"},
    "schedule": {"kind": "cosine", "warmup_steps": 1},
    "batch_size": 2,
    "epochs": 2,
}
IMAGES = {
    "network": NETWORK | {"dimensions": 2, "in_channels": 3},
    "target": VOLUMES["target"],
    "sampling": {"kind": "crops", "size": 16, "per_epoch": 4},
    "epochs": 2,
}


def config(tree=VOLUMES, **changes):
    return build_config(TrainConfig, {**tree, **changes}, "test")


def example(seed=0, shape=(12, 14, 10), target="classes"):
    """Two bright boxes of different brightness in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    labels[..., 2:5, 2:6], labels[..., 8:11, 5:9] = 1, 2
    pixels = (labels * 60 + rng.normal(50, 5, shape)).astype(np.float32)[None]
    case = Case(str(seed), None, str(seed), mask_kind="classes" if target == "classes" else "labels")
    if len(shape) == 2:
        from pipeline.model.prepare import fit

        pixels = np.repeat(pixels, 3, axis=0)
        return Example(case, pixels, labels, fit(pixels, config(IMAGES).prepare, stride=2))
    return Example(case, pixels, labels, fit_volume(pixels, Geometry((1, 1, 1), "mm"), config().prepare, (2, 2, 2)))


def test_two_steps_lower_the_loss():
    """On one made volume, the loss of the same batch after two steps is lower than before."""
    training = start_training(config(optimiser={"kind": "adam", "lr": 0.01}), "cpu")
    dataset = build_dataset([example()], training.config)
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
    training.network.train()
    losses = [train_step(training, batch) for _ in range(3)]
    assert losses[2] < losses[0]


def test_an_epoch_of_volumes_validates_whole_ones(tmp_path):
    """The loop as it is: val_dice decides, each class has its own, answers lie on the volume's grid."""
    training = start_training(config(), "cpu")
    results = list(run_training(training, [example(0), example(1)], [example(2)], tmp_path, "id"))
    assert len(results) == 2 and score_name(training.config.target) == "val_dice"
    assert {"val_dice", "val_dice_low", "val_dice_high", "val_iou", "val_accuracy", "val_loss"} <= results[
        0
    ].metrics.keys()
    assert training.progress.best == max(result.metrics["val_dice"] for result in results)
    answer = next(iter(answers(training.network, [example(2)], training.config, training.loss, "cpu")))
    assert answer.probabilities.shape == (3, 12, 14, 10)


def test_large_volumes_are_validated_by_windows(monkeypatch):
    """Above the limit MONAI's windows stand in for the whole volume; shapes stay."""
    training = start_training(config(), "cpu")
    monkeypatch.setattr("pipeline.training.volumes._WHOLE", 100)
    answer = next(iter(answers(training.network, [example(2)], training.config, training.loss, "cpu")))
    assert answer.probabilities.shape == (3, 12, 14, 10)
    assert answer.probabilities.sum(axis=0) == pytest.approx(1, abs=1e-4)


def test_samples_of_volumes_repeat_and_hold_foreground():
    """Sample i of epoch e is always the same, another epoch gives others; with foreground 1 each box has some."""
    sampling = VOLUMES["sampling"] | {"foreground": 1.0}
    one, two = (build_dataset([example(0), example(1)], config(sampling=sampling)) for _ in range(2))
    assert isinstance(one, PatchDataset) and len(one) == 4
    first = [one[i] for i in range(4)]
    for i in reversed(range(4)):
        again = two[i]
        assert all(torch.equal(first[i][key], again[key]) for key in ("image", "target"))
        assert again["image"].shape == (1, 8, 8, 8) and again["target"].shape == (8, 8, 8)
        assert again["target"].any()
    one.start_epoch(1)
    assert not torch.equal(one[0]["image"], first[0]["image"])


def test_boxes_are_not_centred_on_what_is_ignored():
    """One voxel of a class in a corner, a large ignored block far off: with foreground 1 each box holds the voxel."""
    made = example(0, (24, 24, 24))
    labels = np.zeros_like(made.labels)
    labels[2, 2, 2], labels[12:, 12:, 12:] = 1, 255
    made = replace(made, labels=labels)
    sampling = VOLUMES["sampling"] | {"foreground": 1.0, "per_epoch": 16}
    data = build_dataset([made], config(sampling=sampling, augmentation={"kind": "none"}))
    assert all((data[index]["target"] == 1).any() for index in range(16))


def test_an_object_may_be_the_255th():
    """Where numbers are objects, none of them is ignored."""
    made = example(0, (24, 24, 24), target="objects")
    labels = np.zeros_like(made.labels)
    labels[2:4, 2:4, 2:4] = 255
    sampling = VOLUMES["sampling"] | {"foreground": 1.0}
    told = config(sampling=sampling, target={"kind": "separated"}, augmentation={"kind": "none"})
    data = build_dataset([replace(made, labels=labels)], told)
    assert all(data[index]["target"][0].any() for index in range(4))


def test_every_volume_is_drawn_once_a_round():
    """Four samples of two volumes are two of each."""
    dataset = build_dataset([example(0), example(1)], config())
    assert sorted(dataset.chosen.tolist()) == [0, 0, 1, 1]


def test_objects_of_volumes_are_learned_too(tmp_path):
    """The separated target in three dimensions, with its own validation by matched objects."""
    changes = {"target": {"kind": "separated"}, "augmentation": {"kind": "none"}}
    training = start_training(config(**changes), "cpu")
    data = [example(0, target="objects")]
    assert grid_target(data[0], training.config).shape == (3, 12, 14, 10)
    assert "val_map" in next(iter(run_training(training, data, data, tmp_path, "id"))).metrics


def test_class_maps_of_images_train_by_crops(tmp_path):
    """The data sets of images serve classes as well; the target is their numbers."""
    training = start_training(config(IMAGES), "cpu")
    data = [example(0, (24, 20)), example(1, (24, 20))]
    dataset = build_dataset(data, training.config)
    assert isinstance(dataset, CropDataset) and set(dataset[0]["target"].unique().tolist()) <= {0, 1, 2}
    results = list(run_training(training, data, data, tmp_path, "id"))
    assert "val_dice_high" in results[0].metrics


def test_fixed_sizes_take_the_nearest_class():
    """Classes are never averaged: at half the size there are still only whole classes."""
    tree = IMAGES | {"prepare": {"size": {"kind": "fixed", "height": 12, "width": 10}}, "sampling": {"kind": "whole"}}
    made = example(0, (24, 20))
    whole = Example(made.case, made.pixels, made.labels, prepared(made.case, made.pixels, None, config(tree), 2))
    numbers = grid_target(whole, config(tree))
    assert numbers.shape == (12, 10) and set(np.unique(numbers)) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["dice_bce", "dice_ce", "cross_entropy", "dice", "focal", "tversky"])
def test_ignored_voxels_change_nothing(kind):
    """Whatever the network says where the label image has 255, the loss of a training of classes is the same."""
    torch.manual_seed(0)
    loss = start_training(config(loss={"kind": kind}), "cpu").loss
    logits, target = torch.randn(1, 3, 4, 6, 6), torch.randint(0, 3, (1, 4, 6, 6), dtype=torch.uint8)
    target[:, 0] = 255
    moved = logits.clone()
    moved[:, :, 0] += 100 * torch.randn(1, 3, 6, 6)
    assert loss(moved, target).item() == pytest.approx(loss(logits, target).item(), abs=1e-5)
    assert loss(logits + torch.randn(1, 3, 4, 6, 6), target).item() != pytest.approx(loss(logits, target).item())


def test_objects_are_not_taken_for_classes():
    """The manifest says what numbers mean; the target has to agree, and every number has to be a class."""
    labels = np.array([[0, 1, 255]], np.uint32)
    objects = Case("a", None, "a", mask_kind="labels")
    with pytest.raises(MaskError, match="--masks classes"):
        understood(objects, labels, config())
    with pytest.raises(TrainingError, match="--masks instances"):
        understood(Case("a", None, "a", mask_kind="classes"), labels, config(target={"kind": "separated"}))
    assert understood(Case("a", None, "a", mask_kind="classes"), labels, config()).tolist() == [[0, 1, 255]]


def test_what_does_not_suit_the_network_is_refused():
    """Images for a network of volumes; boxes that the strides do not divide."""
    with pytest.raises(TrainingError, match="3-D images"):
        prepared(Case("a", None, "a"), np.zeros((1, 4, 4)), Geometry.pixels(), config(), 2)
    with pytest.raises(TrainingError, match="multiples"):
        build_dataset([example()], config(sampling=VOLUMES["sampling"] | {"size": [7, 8, 8]}))


@pytest.mark.parametrize(
    ("tree", "changes", "message"),
    [
        (VOLUMES, {"sampling": {"kind": "crops"}}, "sampling: crops is not for volumes"),
        (IMAGES, {"sampling": {"kind": "patches"}}, "sampling: patches is not for images"),
        (VOLUMES, {"augmentation": {"kind": "nuclei"}}, "augmentation: nuclei is not for volumes"),
        (VOLUMES, {"prepare": {"channels": 1, "size": {"kind": "fixed"}}}, "prepare.size: fixed is not for volumes"),
        (IMAGES, {"prepare": {"normalise": {"kind": "zscore"}}}, "zscore is for volumes"),
        (VOLUMES, {"target": {"kind": "three_class"}}, "three_class is not for volumes"),
        (VOLUMES, {"target": {"kind": "classes", "names": ["none", "one"]}}, "target classes takes 2"),
        (VOLUMES, {"loss": {"kind": "border_weighted"}}, "border_weighted is not for classes"),
        (VOLUMES, {"target": {"kind": "separated"}, "loss": {"kind": "border_weighted"}}, "is not for volumes"),
        (
            VOLUMES,
            {"target": {"kind": "separated"}, "loss": {"kind": "size_weighted"}},
            "size_weighted is not for volumes",
        ),
        (VOLUMES, {"loss": {"kind": "dice_ce", "ignore": 2}}, "leave loss.ignore out"),
        (VOLUMES, {"loss": {"kind": "bce"}}, "bce is not for target classes"),
        (VOLUMES, {"target": {"kind": "classes", "names": ["a", "b", "b"]}}, "a name of its own"),
        (VOLUMES, {"target": {"kind": "classes", "names": ["a", "b", "c"], "ignore": 2}}, "ignore: 2 is the class c"),
        (VOLUMES, {"target": {"kind": "classes", "names": ["a", "b", "c"], "palette": [[0, 0, 0]]}}, "1 colours for 3"),
        (VOLUMES, {"augmentation": {"kind": "volume", "scale": [1.2, 0.8]}}, "the smaller number comes first"),
    ],
)
def test_configs_that_do_not_fit_are_refused(tree, changes, message):
    """Dimensions, sampling, augmentation, target and classes have to agree; the message names the field."""
    with pytest.raises(ConfigError, match=message):
        config(tree, **changes)


def test_validation_of_an_unknown_class_is_0_not_missing():
    """A class that neither truth nor prediction holds has no Dice; the history has a number for every epoch."""
    training = start_training(config(), "cpu")
    empty = example()
    empty = Example(empty.case, empty.pixels, empty.labels * 0, empty.preparation)
    numbers = validate(training.network, [empty], training.config, None, training.loss, "cpu")
    assert all(np.isfinite(value) for value in numbers.values())
