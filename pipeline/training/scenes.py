"""Augmentation of whole images that keep their size and their horizon: draw, then apply."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import SceneAugmentation
from pipeline.types import Array, Pixels

_LOWEST, _HIGHEST = -0.5, 1.5  # what preparing cuts values to


@dataclass(frozen=True)
class SceneChange:
    """What happens to one sample: axes (Y, X) that are mirrored, and value -> value * gain + offset."""

    mirrored: tuple[bool, bool]
    gain: float = 1.0
    offset: float = 0.0

    def place(self, planes: Array) -> Array:
        """`(..., y, x)` of any dtype mirrored alike."""
        rows, columns = (slice(None, None, -1 if flipped else 1) for flipped in self.mirrored)
        return np.ascontiguousarray(planes[..., rows, columns])

    def light(self, image: Pixels) -> Pixels:
        """A prepared image `(C, y, x)`, float32, in another light."""
        lit: Pixels = np.clip(image * np.float32(self.gain) + np.float32(self.offset), _LOWEST, _HIGHEST)
        return lit


def draw_scene(config: SceneAugmentation, generator: np.random.Generator) -> SceneChange:
    """What happens to the next sample."""
    down, across = (bool(generator.random() < chance) for chance in config.flip)
    gain = 1 + generator.uniform(-config.contrast, config.contrast)
    return SceneChange((down, across), gain, generator.uniform(-config.brightness, config.brightness))
