"""A segmenter without a network: bright things on a dark ground are the objects. Not a test; the tests' stand-in."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from pipeline.types import Image, ImageSource, Labels


@dataclass
class ThresholdAnswer:
    labels: Labels
    image: Image
    confidence: Any = None
    statistics: dict[str, float | str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class ThresholdSegmenter:
    """`pause` seconds an image, so that a run can be killed in the middle; `seen` are the images it was given."""

    pause: float = 0.0
    seen: list[str] = field(default_factory=list)

    def segment(self, source: ImageSource, options: object = None) -> ThresholdAnswer:
        image = source.read()
        time.sleep(self.pause)
        self.seen.append(source.path.name)
        bright = image.pixels.mean(axis=0) > 100
        labels = ndimage.label(bright)[0].astype(np.uint32)
        return ThresholdAnswer(labels, image, statistics={"zoom": 1.0})
