"""What a target makes of label images: classes merged, objects turned into trimaps, and what cannot be asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.config import ClassesTarget, TrainConfig, build_config, load_config, masks_of
from pipeline.data.audit import content_digest
from pipeline.data.classes import class_map, read_class_map, trimap
from pipeline.data.manifest import data_folder, read_manifest
from pipeline.errors import ConfigError, MaskError
from pipeline.model.targets import activate
from unet.losses import build_loss

ROAD = ClassesTarget(names=("other", "road"), merge={"road": (3,)}, ignore=11, head="sigmoid")
TRIMAP = ClassesTarget(names=("background", "nucleus", "border"), trimap=1)


def test_one_class_of_many_against_the_rest():
    """3 is road, 11 does not count, every other number is the first class, whatever it is."""
    labels = np.array([[0, 3, 7, 11, 200]], np.uint32)
    assert class_map(labels, "classes", ROAD, "a.png").tolist() == [[0, 1, 0, 255, 0]]
    both = ROAD.model_copy(update={"names": ("other", "street", "tree"), "merge": {"tree": (5,), "street": (3, 4)}})
    assert class_map(np.array([[3, 4, 5, 6]], np.uint32), "classes", both, "a.png").tolist() == [[1, 1, 2, 0]]


def test_a_trimap_can_be_checked_by_eye():
    """Two touching objects: each has a border of 1 px all around but at the image's edge."""
    labels = np.zeros((5, 9), np.uint32)
    labels[0:4, 1:5], labels[0:4, 5:8] = 1, 2
    assert class_map(labels, "instances", TRIMAP, "a").tolist() == [
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
        [0, 2, 2, 2, 2, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_a_trimap_is_the_mask_and_its_inside_lies_deep_enough(seed, width):
    """Inside and border together are the mask; inside is what is more than `width` px from any other pixel."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((5, 5))).astype(np.uint32)
    made = trimap(labels, width)
    assert ((made > 0) == (labels > 0)).all()
    for number in (1, 2):
        mine = np.pad(labels == number, width + 1, mode="edge")
        depth = ndimage.distance_transform_edt(mine)[width + 1 : -width - 1, width + 1 : -width - 1]
        assert ((made == 1) & (labels == number) == (depth > width) & (labels == number)).all()


def test_volumes_have_trimaps_too():
    """A cube of 5 with a border of 1 has a core of 3."""
    labels = np.zeros((7, 7, 7), np.uint32)
    labels[1:6, 1:6, 1:6] = 9
    assert np.bincount(trimap(labels, 1).ravel()).tolist() == [7**3 - 5**3, 3**3, 5**3 - 3**3]


def test_objects_and_classes_are_not_taken_for_each_other():
    """Trimaps are made of objects, merged classes of classes; a case without masks is all background."""
    labels = np.zeros((2, 2), np.uint32)
    with pytest.raises(MaskError, match="--masks instances"):
        class_map(labels, "classes", TRIMAP, "case a")
    with pytest.raises(MaskError, match="--masks classes"):
        class_map(labels, "labels", ROAD, "case a")
    assert not class_map(labels, "none", TRIMAP, "case a").any()
    assert (masks_of(TRIMAP), masks_of(ROAD)) == ("instances", "classes")


def test_without_a_border_objects_are_one_class():
    """`trimap: 0`: in any object or in none; no palette is looked for in masks of objects."""
    target = ClassesTarget(names=("background", "cell"), trimap=0)
    assert masks_of(target) == "instances"
    assert class_map(np.array([[0, 7, 7, 300]], np.uint32), "labels", target, "a").tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"names": ["a", "b"], "trimap": 2}, "takes three names"),
        ({"names": ["a", "b", "c"], "trimap": 0}, r"\(background, inside, border; with 0 two\)"),
        ({"names": ["a", "b", "c"], "trimap": 2}, "border_weighted is not for classes but those of objects without"),
        ({"names": ["a", "b"]}, "border_weighted is not for classes but those of objects without"),
        ({"names": ["a", "b", "c"], "merge": {"b": [1]}}, "every class but the first is made of numbers: b, c"),
        ({"names": ["a", "b"], "merge": {"z": [1]}}, "made of numbers: b, not z"),
        ({"names": ["a", "b"], "merge": {"b": [1, 1]}}, "each number is of one class"),
        ({"names": ["a", "b"], "merge": {"b": [1, 7]}, "ignore": 7}, "7 is ignored"),
        ({"names": ["a", "b", "c"], "head": "sigmoid"}, "for two classes, not 3"),
        ({"names": ["a", "b"], "head": "sigmoid"}, "dice_ce is not for target classes"),
    ],
)
def test_targets_that_cannot_be_are_refused(target, said):
    """The message names what is wrong."""
    network = {"kind": "nuclei_unet", "out_channels": 1 if "sigmoid" in target.values() else len(target["names"])}
    tree = {"network": network, "target": {"kind": "classes", **target}, "loss": {"kind": "dice_ce"}}
    tree["loss"] = {"kind": "border_weighted" if "border_weighted" in said else "dice_ce"}
    with pytest.raises(ConfigError, match=said):
        build_config(TrainConfig, tree, "config")


def test_two_classes_of_one_channel():
    """A sigmoid is a softmax over two logits, the first of them 0; BCE of its one plane leaves out what is ignored."""
    logits = torch.randn(1, 1, 4, 5)
    pair = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(activate(logits, ROAD), activate(pair, ClassesTarget(names=("other", "road"))))
    loss = build_loss("bce", softmax=False, channels=())
    target = torch.randint(0, 2, (1, 4, 5), dtype=torch.uint8)
    target[0, 0, :3] = 255
    counted = target[0] != 255
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits[0, 0][counted], target[0][counted].float())
    torch.testing.assert_close(loss(logits, target), wanted)
    changed = logits.clone()
    changed[0, 0, 0, :3] += 9
    torch.testing.assert_close(loss(changed, target), wanted)


@pytest.mark.data
def test_the_manifest_of_camvid_is_of_its_files():
    """55 frames of three drives, none of which is in two splits; every number is a class or void; road is there."""
    path = Path(__file__).parents[2] / "data_manifests" / "camvid.csv"
    if not (data_folder() / "camvid").is_dir():
        pytest.skip(f"no {data_folder() / 'camvid'}")
    cases = read_manifest(path).cases
    assert Counter((case.group, case.split) for case in cases) == {
        ("0016E5", "train"): 37,
        ("0001TP", "test"): 7,
        ("0006R0", "test"): 11,
    }
    config = load_config(TrainConfig, path.parents[1] / "configs" / "half-unet.yaml")
    for case in cases[::9]:
        assert content_digest(case) == case.sha256
        numbers = np.unique(class_map(read_class_map(case.masks[0], case.shape), "classes", config.target, case.id))
        assert set(numbers) <= {*range(11), 255} and 3 in numbers
