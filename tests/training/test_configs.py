"""Every config that ships is whole: its head says how it is run and what came of it, and it trains."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unet
from pipeline.config import (
    ClassesTarget,
    CropSampling,
    LastFraction,
    ManifestValidation,
    TrainConfig,
    build_config,
    load_config,
    read_tree,
)
from pipeline.errors import ConfigError, TrainingError
from pipeline.training.dataset import Example, build_dataset
from pipeline.training.train import start_training, train_step
from pipeline.training.volumes import prepared
from pipeline.types import Case, Geometry

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def small(path: Path) -> TrainConfig:
    """The config as it stands but for the size of its images, which are what takes the time, and nothing downloaded."""
    tree: dict[str, Any] = read_tree(path)
    sampling, size = tree["sampling"], tree.get("prepare", {}).get("size", {})
    if sampling["kind"] == "patches":
        sampling["size"] = [16, 16, 16]
    elif sampling["kind"] == "crops":
        sampling["size"] = 64
    if size.get("kind") == "fixed":
        size |= {"height": 64, "width": 64}
    return build_config(TrainConfig, tree | {"pretrained": "none"}, path.name)


def made(config: TrainConfig, stride: int | tuple[int, ...]) -> Example:
    """Noise with two labelled boxes, in as many dimensions and channels as the config takes."""
    side = (80, 80) if config.network.dimensions == 2 else (24, 32, 32)
    labels = np.zeros(side, np.uint32)
    labels[..., 8:30, 8:14], labels[..., 8:30, 15:22] = 1, 2
    classes = isinstance(config.target, ClassesTarget)
    if isinstance(config.target, ClassesTarget):
        labels %= len(config.target.names)
    pixels = np.random.default_rng(0).integers(0, 255, (config.prepare.channels, *side), np.uint8)
    case = Case("made", Path("made.png"), "made.png", mask_kind="classes" if classes else "labels")
    geometry = Geometry.pixels(len(side))
    if config.network.dimensions == 3:
        geometry = replace(geometry, spacing=(1.0, 1.0, 1.0), unit="mm")
    return Example(case, pixels, labels, prepared(case, pixels, geometry, config, stride))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_head_says_how_it_is_run_and_what_came_of_it(path: Path) -> None:
    """Command, hardware, time and score stand above the config, and the command names this very file."""
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    said = dict(
        found.groups() for line in head if (found := re.match(r"# (command|hardware|time|score): +(\S.*)", line))
    )
    assert list(said) == ["command", "hardware", "time", "score"]
    assert re.match(rf"maskline (train {path.stem} --data \S+|train {path.stem} --from|demo\b)", said["command"])


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains(path: Path) -> None:
    """Its network is built, and a step on made data of its own preparation, augmentation, target and loss is finite."""
    config = small(path)
    training = start_training(config, "cpu")
    stride = unet.stride_of(training.network)
    data = build_dataset([made(config, stride)] * 2, config)
    samples = [data[0], data[1]]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    training.network.train()
    assert np.isfinite(train_step(training, batch))


def test_crops_are_not_of_a_fixed_size() -> None:
    """Crops of native size would teach what images brought to 128 x 128 never show."""
    tree = {"prepare": {"size": {"kind": "fixed"}}, "target": {"kind": "mask"}, "network": {"kind": "guide_unet"}}
    with pytest.raises(ConfigError, match="fixed takes sampling: whole"):
        build_config(TrainConfig, tree, "here")
    assert build_config(TrainConfig, tree | {"sampling": {"kind": "whole"}}, "here").prepare.size.kind == "fixed"


CLASSES = {"kind": "classes", "names": ["none", "low", "high"]}
WHOLE = {"sampling": {"kind": "whole"}, "prepare": {"size": {"kind": "fixed"}}, "target": {"kind": "mask"}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({**WHOLE, "network": {"out_channels": 1}, "augmentation": {"kind": "nuclei"}}, "nuclei is for sampling crops"),
        ({"target": CLASSES, "augmentation": {"kind": "nuclei", "touch": 0.5}}, "augmentation.touch"),
        ({"target": CLASSES, "augmentation": {"kind": "nuclei", "gaps": 0.5}}, "augmentation.gaps"),
        ({"network": {"kind": "guide_unet", "filters": [4, 8]}}, "dropout: 5 values for 2 filters"),
        ({"network": {"kind": "guide_unet", "filters": [], "dropout": []}}, "guide_unet.filters.*at least 1"),
        ({"network": {"kind": "nuclei_unet", "filters": []}}, "nuclei_unet.filters.*at least 2"),
        ({"network": {"kind": "residual_unet", "filters": [8]}}, "residual_unet.filters.*at least 2"),
        ({"target": CLASSES, "loss": {"kind": "cross_entropy", "classes": [1, 2]}}, "loss.classes: 2 weights.*takes 3"),
        ({"loss": {"kind": "dice_bce", "channels": [1, 2, 3, 4]}}, "loss.channels: 4 weights.*takes 3"),
        ({"network": {"kind": "two_convolutions", "head": False}, "target": {"kind": "mask"}}, "network.head: false"),
        ({"network": {"kind": "nuclei_unet", "filters": [4, 8], "pooling": [[1, 2]]}}, "alike along both axes"),
    ],
)
def test_what_cannot_be_trained_is_named_before_it_begins(tree: dict[str, Any], message: str) -> None:
    """Settings that ended in a traceback, or were left out without a word, are wrong fields of the config."""
    if "kind" not in tree.get("network", {"kind": ""}):
        tree = tree | {"network": {"kind": "nuclei_unet", **tree["network"]}}
    with pytest.raises(ConfigError, match=message):
        build_config(TrainConfig, tree, "here")


def test_whole_images_have_no_augmentation_unless_it_is_given() -> None:
    """The default is one of crops; without it the config says what is done, and reads as itself again."""
    tree = WHOLE | {"network": {"kind": "guide_unet"}}
    config = build_config(TrainConfig, tree, "here")
    assert config.augmentation.kind == "none" and TrainConfig.model_validate(config.model_dump()) == config
    assert TrainConfig().augmentation.kind == "nuclei"
    assert build_config(TrainConfig, tree | {"augmentation": {"kind": "scene"}}, "x").augmentation.kind == "scene"


def test_a_section_without_its_kind_is_of_the_usual_one(tmp_path: Path) -> None:
    """`--set` of a field in a section that the file leaves out, as the README has it; a kind that is said stays."""
    path = tmp_path / "short.yaml"
    path.write_text("name: short\naugmentation: {stain: 0.5}\nstopping: {patience: 3}\n")
    config = load_config(TrainConfig, path, ("validation.learn_from_test=true", "optimiser.lr=0.01"))
    usual = TrainConfig()
    assert config.validation == ManifestValidation(learn_from_test=True)
    assert (config.optimiser.kind, config.optimiser.lr) == (usual.optimiser.kind, 0.01)
    assert config.augmentation == usual.augmentation.model_copy(update={"stain": 0.5})
    other = load_config(TrainConfig, path, ("validation.kind=last_fraction", "validation.fraction=0.2"))
    assert other.validation == LastFraction(fraction=0.2)
    with pytest.raises(ConfigError, match=r"validation\.manifest\.fraction"):
        load_config(TrainConfig, path, ("validation.fraction=0.2",))


def test_crops_that_the_stride_does_not_divide_are_refused() -> None:
    """60 px do not halve four times."""
    config = TrainConfig(sampling=CropSampling(size=60))
    with pytest.raises(TrainingError, match=r"sampling.size: got 60, wanted a multiple of the network's stride 16"):
        build_dataset([made(config, 16)], config)
