"""A small model of volumes, with random weights."""

import numpy as np
import torch

import unet
from pipeline.config import ClassesTarget, NucleiUNet, PrepareConfig, ResidualUNet, SpacingSize
from pipeline.model.bundle import ModelRecord, TrainedModel, VolumeRecord
from pipeline.model.targets import channel_names
from pipeline.model.volumes import describe_volume_network

CLASSES = ClassesTarget(names=("none", "a", "b"))
ANISOTROPIC = ((1, 2, 2), (2, 2, 2))


def volume_model(target=CLASSES, exact=True, pooling=(), spacing=None):
    kind, norm = (NucleiUNet, {}) if exact else (ResidualUNet, {"units": 1, "norm": "instance"})
    filters = (3, 4, 5)
    config = kind(dimensions=3, in_channels=1, out_channels=3, filters=filters, pooling=pooling, **norm)
    torch.manual_seed(5)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    strides, halos = describe_volume_network(network, 1)
    size = {"size": SpacingSize(spacing=spacing)} if spacing else {}
    record = ModelRecord(
        name="v",
        network=config,
        prepare=PrepareConfig(channels=1, **size),
        target=target,
        outputs=channel_names(target),
        stride=max(strides),
        halo=max(halos) if halos else None,
        volume=VolumeRecord(strides=strides, halos=halos, window=(16, 16, 16)),
    )
    return TrainedModel(network, record, "digest")


def volume(shape=(32, 40, 48), seed=0):
    return np.random.default_rng(seed).random((1, *shape), np.float32)
