"""A segmenter whose network is left out: probabilities are the image, smoothed. Not a test; the tests' stand-in."""

import time

import cv2
import numpy as np
import torch

import unet
from pipeline.config import NucleiUNet, PrepareConfig, SeparatedTarget
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import ModelRecord, TrainedModel, describe_network


class SmoothedEngine:
    """What `pipeline.inference.engines.Engine` asks for; reaches 6 px. `killed_after` tiles it is interrupted."""

    name, outputs, core, halo, stride = "smoothed", 3, 256, 16, 4

    def __init__(self, killed_after: int = 10**9):
        self.tiles, self.killed_after, self.pause = 0, killed_after, 0.0

    def map(self, tiles, preparation):
        for tile in tiles:
            self.tiles += 1
            time.sleep(self.pause)
            if self.tiles > self.killed_after:
                raise KeyboardInterrupt
            values = np.clip(preparation.normalise(tile)[0], 0, 1)
            soft = cv2.blur(values, (5, 5), borderType=cv2.BORDER_REPLICATE)
            core = cv2.erode(soft, np.ones((9, 9)), borderType=cv2.BORDER_REPLICATE)
            yield np.stack([soft, np.zeros_like(soft), core])


def make_segmenter(killed_after: int = 10**9, diameter: float | None = None) -> Segmenter:
    config = NucleiUNet(filters=(4, 6, 8), in_channels=1)
    torch.manual_seed(0)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(network, 1)
    record = ModelRecord(
        name="smoothed",
        network=config,
        prepare=PrepareConfig(channels=1),
        target=SeparatedTarget(),
        outputs=("foreground", "border", "distance"),
        stride=stride,
        halo=halo,
        diameter=diameter,
    )
    segmenter = Segmenter(TrainedModel(network, record, "digest"), "cpu")
    segmenter.engine = SmoothedEngine(killed_after)
    return segmenter
