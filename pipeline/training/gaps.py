"""What tissue has between its nuclei, drawn where it has none: gaps and fibres that are not to be taken for nuclei."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from monai.transforms.transform import MapTransform, Randomizable

from pipeline.types import Array

MARGIN = 2  # px around nuclei that stay as they are
BRIGHT = 0.3  # mean of a normalised crop above which it is a bright field
WAVES = 16


@dataclass(frozen=True)
class Gaps:
    """What covers a crop where a sum of plane waves, a Gaussian random field of deviation 1, passes `level`.

    `waves` `(WAVES, 3)`: radians a px along y and along x, phase. `steep` is how much of the cover is gained by a step
    of 1 of the field, `tone` `(3,)` the colour in the values of a normalised image, `cover` its opacity.
    """

    waves: Array
    level: float
    steep: float
    tone: Array
    cover: float

    def share(self, shape: tuple[int, ...]) -> Array:
        """How much of each pixel is covered, `(Y, X)` float32 in [0, cover]; cos(a + b) by products of cos and sin."""
        y = self.waves[:, :1] * np.arange(shape[0]) + self.waves[:, 2:]
        x = self.waves[:, 1:2] * np.arange(shape[1])
        field = (np.cos(y).T @ np.cos(x) - np.sin(y).T @ np.sin(x)) * np.sqrt(2 / len(self.waves))
        return np.asarray(self.cover * np.clip((field - self.level) * self.steep, 0, 1), np.float32)


class RandGapsd(Randomizable, MapTransform):
    """With probability `gaps`, empty gaps (white) or fibres (pink) of any direction, width and share of the crop are
    drawn into a bright colour image, `(Y, X, 3)` after `Normalised`, but for nuclei and `MARGIN` px around them.

    Labelled tissue of a few sources has few of either; tissue of others is full of them, and a network that has never
    seen them takes what is bright among darker things for a nucleus. Grey and dark crops stay as they are.
    """

    def __init__(self, gaps: float) -> None:
        MapTransform.__init__(self, ("image",))
        self.gaps = gaps

    def randomize(self, data: Any = None) -> None:
        """Draw `drawn`, a `Gaps` or None."""
        self.drawn: Gaps | None = None
        if self.R.rand() >= self.gaps:
            return
        along = self.R.uniform(0, np.pi) + self.R.uniform(0.1, 1.2) * self.R.standard_normal(WAVES)
        length = np.exp(self.R.uniform(np.log(8), np.log(96)) + 0.3 * self.R.standard_normal(WAVES))
        turn = 2 * np.pi / length
        waves = np.column_stack([turn * np.sin(along), turn * np.cos(along), self.R.uniform(0, 2 * np.pi, WAVES)])
        level, steep = float(self.R.uniform(0.2, 1.6)), float(self.R.uniform(2, 12))
        if self.R.rand() < 0.6:
            tone, cover = self.R.uniform(0.92, 1.06, 3), 1.0
        else:
            tone, cover = self.R.uniform((0.75, 0.3, 0.45), (1.05, 0.85, 0.95)), float(self.R.uniform(0.5, 1.0))
        self.drawn = Gaps(waves, level, steep, tone.astype(np.float32), cover)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        self.randomize()
        image = sample["image"]
        if self.drawn is not None and image.shape[2] == 3 and image.mean() > BRIGHT:
            side = 2 * MARGIN + 1
            taken = cv2.dilate((sample["label"] > 0).astype(np.uint8), np.ones((side, side), np.uint8))
            share = (self.drawn.share(image.shape[:2]) * (taken == 0))[:, :, None]
            sample["image"] = image + share * (self.drawn.tone - image)
        return sample
