"""Every network goes through the same training step."""

from typing import get_args

import pytest
import torch

from pipeline.config import MaskTarget, PrepareConfig, SingleNetwork, TrainConfig
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
