"""Augmentation as MONAI dictionary transforms: draw (`randomize`), then apply.

Samples are dictionaries: `image` `(Y, X, C)`, C 1 for grey images, in the file's dtype with its `preparation`, after
`Normalised` float32 in about [0, 1], after `ChannelsFirst` `(channels, Y, X)`; `label` `(Y, X)` uint16 or float32
instances, after `EncodeTargetd` `target` `(K, Y, X)` float32. OpenCV takes all channels of such an image in one call,
and a grey one costs a third: that is where the time of a sample goes.

Randomness comes from the transforms' state alone, which the data set seeds for every sample, so that a sample depends
on (seed, epoch, index) and on nothing else.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
from monai.transforms.compose import Compose
from monai.transforms.transform import MapTransform, Randomizable

from pipeline.config import LossConfig, NoAugmentation, NucleiAugmentation, Target
from pipeline.training.elastic import RandElasticd
from pipeline.training.encode import EncodeTargetd
from pipeline.training.gaps import RandGapsd
from pipeline.types import Array, Pixels

Sample = dict[Hashable, Any]

LUMINANCE = np.array([[0.299, 0.587, 0.114]])
BRIGHTEST = 1.2  # what gamma is applied to ends here


def _planes(image: Array) -> Array:
    """`(Y, X, C)` again where OpenCV has dropped the last axis of a grey image."""
    return image if image.ndim == 3 else image[:, :, None]


class RandWarpCropd(Randomizable, MapTransform):
    """A square crop, turned, flipped and scaled in one resampling step; the image mirrors beyond its edges.

    Parameters
    ----------
    size : side of the crop in pixels.
    rotate : any angle; otherwise quarter turns only, which do not resample.
    scale : range of the magnification, drawn log-uniformly; (1, 1) leaves pixels as they are.
    """

    def __init__(self, size: int, rotate: bool, scale: tuple[float, float]) -> None:
        MapTransform.__init__(self, ("image", "label"))
        self.size, self.rotate, self.scale = size, rotate, scale
        self.matrix = np.eye(2, 3)

    def randomize(self, data: tuple[int, int]) -> None:
        """Draw the 2x3 matrix that takes crop (x, y) to image (x, y)."""
        height, width = data
        zoom = float(np.exp(self.R.uniform(*np.log(self.scale))))
        angle = self.R.randint(4) * np.pi / 2
        if self.rotate and self.R.rand() < 0.5:
            angle += self.R.uniform(-np.pi / 4, np.pi / 4)
        flip = self.R.choice((-1.0, 1.0))
        cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
        turn = np.array([[cos * flip, -sin], [sin * flip, cos]])
        reach = self.size / zoom / 2
        centre = [self._centre(width, reach), self._centre(height, reach)]
        shift = np.asarray(centre) - turn @ np.full(2, (self.size - 1) / 2)
        if np.allclose(turn, np.round(turn)):  # nothing to resample: stay on the pixel grid
            turn, shift = np.round(turn), np.round(shift)
        self.matrix = np.column_stack([turn, shift])

    def _centre(self, side: int, reach: float) -> float:
        return float(self.R.uniform(reach, side - reach) if side > 2 * reach else side / 2) - 0.5

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize(sample["label"].shape)
        sample["image"] = _planes(self._warp(sample["image"], cv2.INTER_LINEAR))
        sample["label"] = self._warp(sample["label"], cv2.INTER_NEAREST)
        return sample

    def _warp(self, picture: Array, method: int) -> Array:
        if picture.ndim == 3 and picture.shape[2] > 4:  # more than OpenCV warps at once
            return np.dstack([self._warp(picture[:, :, k], method) for k in range(picture.shape[2])])
        warped: Array = cv2.warpAffine(
            picture,
            self.matrix,
            (self.size, self.size),
            flags=method | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        return warped


class RandTouchd(Randomizable, MapTransform):
    """With probability `touch`, up to four objects of the crop, turned or flipped, are set beside others.

    A copy moves away from its neighbour's centre in a drawn direction until it covers next to nothing of any object;
    it then lies on top of the background alone. (Synthetic touching cells: the Data Science Bowl's ablations.)
    """

    def __init__(self, touch: float) -> None:
        MapTransform.__init__(self, ("image", "label"))
        self.touch = touch

    def randomize(self, data: Any = None) -> None:
        self._copies = int(self.R.randint(1, 5)) if self.R.rand() < self.touch else 0

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize()
        areas = np.bincount(sample["label"].ravel().astype(np.int64)) if self._copies else np.zeros(0)
        ids = np.flatnonzero(areas >= 20)
        ids = ids[ids > 0]
        if ids.size:
            sample["image"], sample["label"] = sample["image"].copy(), sample["label"].copy()
            for new in range(len(areas), min(len(areas) + self._copies, 2**16)):
                self._copy(sample["image"], sample["label"], self.R.choice(ids), self.R.choice(ids), new)
        return sample

    def _copy(self, image: Array, label: Array, source: int, beside: int, new: int) -> None:
        left, top, width, height = cv2.boundingRect((label == source).astype(np.uint8))
        box = np.s_[top : top + height, left : left + width]
        turns, flip = self.R.randint(4), self.R.choice((-1, 1))
        shape, pixels = (np.rot90(a[box], turns)[:, ::flip] for a in (label == source, image))
        ys, xs = np.nonzero(label == beside)
        angle = self.R.uniform(0, 2 * np.pi)
        for step in range(0, width + height + 4 * int(np.sqrt(ys.size)), 1):
            y = round(ys.mean() + step * np.sin(angle)) - shape.shape[0] // 2
            x = round(xs.mean() + step * np.cos(angle)) - shape.shape[1] // 2
            if y < 0 or x < 0 or y + shape.shape[0] > label.shape[0] or x + shape.shape[1] > label.shape[1]:
                return
            place = np.s_[y : y + shape.shape[0], x : x + shape.shape[1]]
            free = shape & (label[place] == 0)
            if free.sum() > 0.9 * shape.sum():
                label[place][free] = new
                image[place][free] = pixels[free]
                return


class Normalised(MapTransform):
    """The crop by the whole image's statistics (`preparation`), so that a crop looks as it will when segmenting."""

    def __init__(self) -> None:
        super().__init__(("image",))

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        image, preparation = sample["image"], sample.pop("preparation")
        if image.dtype == np.uint8 and all(preparation.scale):  # every value there can be is looked up
            table = preparation.normalise(np.arange(256)[None, None])[: image.shape[2]]
            sample["image"] = _planes(cv2.LUT(image, np.ascontiguousarray(np.moveaxis(table, 0, 2))))
        else:
            planes = preparation.normalise(np.moveaxis(image, 2, 0))[: image.shape[2]]
            sample["image"] = np.ascontiguousarray(np.moveaxis(planes, 0, 2))
        return sample


class RandColourd(Randomizable, MapTransform):
    """Other stains, cameras and channel orders of the same scene.

    A colour image has its channels mixed by a matrix that differs from the identity by up to `stain` everywhere, or
    becomes grey with probability `grey`; a grey one keeps only one or two of three channels with probability `tint`,
    as fluorescence saved as RGB does.
    """

    def __init__(self, stain: float, grey: float, tint: float) -> None:
        MapTransform.__init__(self, ("image",))
        self.stain, self.grey, self.tint = stain, grey, tint

    def randomize(self, data: Any = None) -> None:
        mix = np.eye(3, 4) + self.R.uniform(-self.stain, self.stain, size=(3, 4)) * (1, 1, 1, 0.5)
        to_grey, to_tint = self.R.rand() < self.grey, self.R.rand() < self.tint
        kept = self.R.randint(1, 7)  # bits: one or two of the three channels
        self.of_colour = LUMINANCE if to_grey else mix
        self.of_grey = np.array([[kept >> bit & 1] for bit in range(3)], np.float64) if to_tint else None

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize()
        image = sample["image"]
        matrix = self.of_grey if image.shape[2] == 1 else self.of_colour
        if matrix is not None:
            sample["image"] = _planes(cv2.transform(image, matrix))
        return sample


class RandIntensityd(Randomizable, MapTransform):
    """Gain, offset and gamma, the same for all channels; dark and bright exchanged with probability `invert`.

    The image becomes `value ** exponent * slope + start`. Colour images are never inverted: what is bright in stained
    tissue is a gap, and a network that has seen bright nuclei among colours finds nuclei there.
    """

    def __init__(self, intensity: float, gamma: tuple[float, float], invert: float) -> None:
        MapTransform.__init__(self, ("image",))
        self.intensity, self.gamma, self.invert = intensity, gamma, invert

    def randomize(self, data: Any = None) -> None:
        gain = 1 + self.R.uniform(-self.intensity, self.intensity)
        offset = self.R.uniform(-self.intensity, self.intensity) / 2
        self.exponent = float(np.exp(self.R.uniform(*np.log(self.gamma))))
        self.inverted = bool(self.R.rand() < self.invert)
        self.gain, self.offset = gain, offset

    def line(self, channels: int) -> tuple[float, float]:
        """Slope and start for an image of so many channels; three are colours."""
        return (-self.gain, self.gain + self.offset) if self.inverted and channels != 3 else (self.gain, self.offset)

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize()
        slope, start = self.line(sample["image"].shape[2])
        image = cv2.pow(np.clip(sample["image"], 0, BRIGHTEST), self.exponent)
        sample["image"] = _planes(image * np.float32(slope) + np.float32(start))
        return sample


class RandBlurd(Randomizable, MapTransform):
    """Gaussian blur of sigma up to `sigma` px, on a fifth of the samples."""

    def __init__(self, sigma: float) -> None:
        MapTransform.__init__(self, ("image",))
        self.largest = sigma

    def randomize(self, data: Any = None) -> None:
        self.sigma = float(self.R.uniform(0.3, self.largest)) if self.R.rand() < 0.2 else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize()
        if self.sigma:
            sample["image"] = _planes(cv2.GaussianBlur(sample["image"], (0, 0), self.sigma))
        return sample


class RandNoised(Randomizable, MapTransform):
    """Gaussian noise of standard deviation up to `std`, on three samples of ten."""

    def __init__(self, std: float) -> None:
        MapTransform.__init__(self, ("image",))
        self.largest = std

    def randomize(self, data: Any = None) -> None:
        self.std = float(self.R.uniform(0, self.largest)) if self.R.rand() < 0.3 else 0.0
        self.seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        self.randomize()
        if self.std:
            drawn = np.random.default_rng(self.seed)  # float32 at once, as R cannot
            noise = drawn.standard_normal(sample["image"].shape, np.float32)
            sample["image"] = sample["image"] + np.float32(self.std) * noise
        return sample


class ChannelsFirst(MapTransform):
    """`(Y, X, C)` to `(channels, Y, X)`, as networks take it; a grey image fills all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(("image",))
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        sample = dict(data)
        image: Pixels = np.empty((self.channels, *sample["image"].shape[:2]), np.float32)
        image[:] = np.moveaxis(sample["image"], 2, 0)
        sample["image"] = image
        return sample


def build_augmentation(
    config: NucleiAugmentation | NoAugmentation,
    size: int,
    channels: int,
    target: Target,
    loss: LossConfig | None = None,
) -> Compose:
    """Crop of `size`, augment as configured, encode the target."""
    if isinstance(config, NoAugmentation):
        changes: list[MapTransform] = [RandWarpCropd(size, rotate=False, scale=(1.0, 1.0)), Normalised()]
    else:
        changes = [
            RandWarpCropd(size, config.rotate, config.scale),
            *([RandElasticd(config.elastic, config.elastic_spacing)] if config.elastic else []),
            *([RandTouchd(config.touch)] if config.touch else []),
            Normalised(),
            *([RandGapsd(config.gaps)] if config.gaps and channels == 3 else []),
            *([RandColourd(config.stain, config.grey, config.tint)] if channels == 3 else []),
            RandIntensityd(config.intensity, config.gamma, config.invert),
            RandBlurd(config.blur),
            RandNoised(config.noise),
        ]
    return Compose([*changes, ChannelsFirst(channels), EncodeTargetd(target, loss)])


def seed_sample(transform: Compose, seed: int) -> None:
    """All of a sample's randomness from one seed; cheaper than a Mersenne twister for each transform."""
    state = np.random.RandomState(np.random.PCG64(seed))
    for each in transform.transforms:
        if isinstance(each, Randomizable):
            each.set_random_state(state=state)
