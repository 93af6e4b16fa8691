"""Every network goes through the same training step."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import unet
from pipeline.config import MaskTarget, PrepareConfig, SingleNetwork, TrainConfig, load_config
from pipeline.errors import TrainingError
from pipeline.model.targets import Thresholds, activate, decode
from pipeline.training.answer_shape import check_answer
from pipeline.training.encode import EncodeTargetd
from pipeline.training.train import start_training, train_step

KINDS = {config.model_fields["kind"].default: config for config in get_args(get_args(SingleNetwork)[0])}
SLIM = {
    "guide_unet": {"filters": (4, 4), "dropout": (0.1, 0.1)},
    "original_unet": {"filters": (4, 4)},
    "half_unet": {"filters": (4, 4)},
    "vgg19_unet": {"filters": (4, 4, 4, 4)},
    "mobilenet_unet": {"filters": (4, 4, 4, 4)},
    "nuclei_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "unet_plus_plus": {"filters": (4, 4, 4, 4, 4, 4), "deep_supervision": True},
    "dynamic_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "swin_unetr": {"filters": 12},
    "v_net": {"dropout": 0.0},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_step_trains_all_of_it(kind: str) -> None:
    """From its config alone: a finite loss, and a gradient for every parameter that is said to learn."""
    network = KINDS[kind](**{"out_channels": 1, **SLIM.get(kind, {})})
    prepare = PrepareConfig(channels=network.in_channels)
    config = TrainConfig(network=network, target=MaskTarget(), prepare=prepare, clip=0.0)
    training = start_training(config, "cpu")
    training.network.train()
    image = torch.rand(2, network.in_channels, 64, 64)
    assert torch.isfinite(torch.tensor(train_step(training, {"image": image, "target": (image[:, :1] > 0.5).float()})))
    without = [name for name, p in training.network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert training.progress.step == 1


@pytest.mark.parametrize("filters", [(4, 4), (4, 4, 4, 4, 4, 4)])
def test_an_answer_of_another_size_is_refused(filters: tuple[int, ...]) -> None:
    """Unpadded convolutions answer for the middle alone (of 256 px with six levels for nothing): said at once."""
    network = KINDS["original_unet"](out_channels=1, filters=filters, borders="valid")
    config = TrainConfig(network=network, target=MaskTarget(), prepare=PrepareConfig(channels=1))
    with pytest.raises(TrainingError, match="image of 256 x 256"):
        start_training(config, "cpu")


def test_an_answer_with_other_channels_is_refused() -> None:
    """Whatever the config says, the network has the last word."""
    network = unet.build("two_convolutions", in_channels=3, out_channels=1, filters=8, head=False)
    with pytest.raises(TrainingError, match=r"got 8 x 256 x 256 .*, wanted 1 x 256 x 256"):
        check_answer(network, KINDS["two_convolutions"]())


CONFIG = Path(__file__).parents[2] / "configs" / "original-unet.yaml"
SOFTMAX = (
    "network.out_channels=2",
    "target={kind: classes, names: [membrane, cell], trimap: 0}",
)


@pytest.mark.parametrize(("told", "parameters"), [((), 31_030_593), (SOFTMAX, 31_030_658)], ids=["sigmoid", "softmax"])
def test_the_original_learns_as_one_channel_or_as_two_classes(told: tuple[str, ...], parameters: int) -> None:
    """The config, and what its head says of two classes: a few steps on one picture, and it knows it."""
    small = ("network.filters=[4, 8]", "network.dropout=0.0", "optimiser.lr=0.02")
    config = load_config(TrainConfig, CONFIG, (*told, *small))
    wide = config.network.model_dump(exclude={"kind"}) | {"filters": (64, 128, 256, 512, 1024)}
    with torch.device("meta"):
        assert sum(p.numel() for p in unet.build("original_unet", **wide).parameters()) == parameters
    labels = np.zeros((32, 32), np.uint32)
    labels[6:26, 4:15], labels[6:26, 17:28] = 1, 2
    sample = EncodeTargetd(config.target, config.loss)({"label": labels})
    target, weight = (torch.from_numpy(sample[key])[None] for key in ("target", "weight"))
    assert weight.max() > 9 and weight[0, 0, 10, 8] == 1  # between the two, and inside of one
    image = torch.from_numpy(np.where(labels > 0, 0.8, 0.2).astype(np.float32))[None, None]
    training = start_training(config, "cpu")
    training.network.train()
    for _ in range(80):
        train_step(training, {"image": image, "target": target, "weight": weight})
    with torch.inference_mode():
        planes = activate(training.network.eval()(image), config.target)[0].numpy()
    assert planes.shape == (config.network.out_channels, 32, 32)
    np.testing.assert_array_equal(decode(planes, config.target, Thresholds()) > 0, labels > 0)
