"""The last step of a training sample: from instances to what the network and its loss are given."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms.transform import MapTransform

from pipeline.config import LossConfig, Target
from pipeline.model.targets import encode
from pipeline.training.pixel_weights import pixel_weights


class EncodeTargetd(MapTransform):
    """Instances to target channels (and weights), after all geometry, so that borders keep their width in pixels."""

    def __init__(self, target: Target, loss: LossConfig | None = None) -> None:
        super().__init__(("label",))
        self.target, self.loss = target, loss

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        labels = sample.pop("label").astype(np.uint32)
        weights = pixel_weights(labels, self.loss)
        if weights is not None:
            sample["weight"] = weights[None]
        sample["target"] = encode(labels, self.target)
        return sample
