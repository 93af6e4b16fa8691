"""Augmentation of whole batches where the images lie: what a training on an accelerator feeds itself with.

The images stay in the accelerator's memory for the whole training; what crosses to it is the numbers that
`pipeline.training.augment` draws, with the same seeds, so that a batch holds the same crops as on the CPU. They differ
by rounding (a resampled uint8 crop is not rounded to whole grey levels here, and distances are exact here) and by the
values of the noise.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms.transform import MapTransform, Randomizable
from torch import Tensor
from torch.nn import functional

from pipeline.config import BorderWeighted, LossConfig, SizeWeighted, Target
from pipeline.training.augment import (
    BRIGHTEST,
    ChannelsFirst,
    Normalised,
    RandBlurd,
    RandColourd,
    RandIntensityd,
    RandNoised,
    RandWarpCropd,
    seed_sample,
)
from pipeline.training.batch_targets import batch_size_weights, encode_batch
from pipeline.training.dataset import CropDataset
from pipeline.training.encode import EncodeTargetd
from pipeline.training.gaps import BRIGHT, MARGIN, Gaps, RandGapsd

_KNOWN = (RandWarpCropd, Normalised, RandGapsd, RandColourd, RandIntensityd, RandBlurd, RandNoised, ChannelsFirst)


@dataclass(frozen=True)
class _Drawn:
    """What one sample was drawn to be: the image it comes from and the numbers that change it."""

    image: int
    matrix: np.ndarray  # (2, 3): crop (x, y) to image (x, y)
    gaps: Gaps | None
    colour: np.ndarray  # (C, C + 1): channels to channels
    tone: tuple[float, float, float]  # exponent, slope, start
    sigma: float
    noise: tuple[float, int]  # standard deviation, seed


class BatchAugmentd(Randomizable, MapTransform):
    """`{"index": (N,) numbers of images, "seed": (N,) of samples}` to a batch: `image` `(N, C, Y, X)` float32 and
    `target` `(N, K, Y, X)`, both on `device`. `data` is the data set whose images these are, and whose transforms draw.
    """

    def __init__(self, data: CropDataset, device: str | torch.device) -> None:
        MapTransform.__init__(self, ("index", "seed"))
        self.data, self.device = data, torch.device(device)
        self.by = {type(change): change for change in data.transform.transforms}
        self.size: int = self.by[RandWarpCropd].size
        self.channels: int = self.by[ChannelsFirst].channels
        self.target: Target = self.by[EncodeTargetd].target
        self.loss: LossConfig | None = self.by[EncodeTargetd].loss
        shapes = np.array([label.shape for label in data.labels])
        self.shapes = torch.from_numpy(shapes).to(self.device)
        areas = shapes.prod(axis=1)
        self.starts = torch.from_numpy(np.cumsum(areas) - areas).to(self.device)
        flat = [np.broadcast_to(i, (*i.shape[:2], self.channels)).reshape(-1, self.channels) for i in data.images]
        self.pixels = torch.from_numpy(np.concatenate(flat).T.astype(_kept_as(data), order="C")).to(self.device)
        labels = np.concatenate([label.ravel() for label in data.labels])
        self.labels = torch.from_numpy(labels.astype(np.int32)).to(self.device)
        preparations = [example.preparation for example in data.examples]
        self.offset = self._column([p.offset for p in preparations])
        self.scale = self._column([p.scale for p in preparations])
        self.fill = torch.from_numpy(np.stack([filling(p.scale) for p in preparations])).to(self.device)

    def _column(self, values: Sequence[Sequence[float]]) -> Tensor:
        """One value an image and channel, `(n, C, 1, 1)`."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, :, None, None]

    @staticmethod
    def can(data: CropDataset) -> bool:
        """Whether batches do all that the transforms do: no bending, no copied objects, no weights of borders."""
        *changes, encode = data.transform.transforms
        return all(isinstance(change, _KNOWN) for change in changes) and not isinstance(encode.loss, BorderWeighted)

    @staticmethod
    def bytes_needed(data: CropDataset) -> int:
        """Of the accelerator's memory, for all images."""
        channels = next(change.channels for change in data.transform.transforms if isinstance(change, ChannelsFirst))
        wide, number = _kept_as(data).itemsize, np.dtype(np.int32).itemsize
        return sum(label.size * (channels * wide + number) for label in data.labels)

    def randomize(self, data: tuple[int, int]) -> None:
        """Draw the sample `(image, seed)` as the data set's own transforms do."""
        image, seed = data
        seed_sample(self.data.transform, seed)
        for change in self.data.transform.transforms:
            if isinstance(change, RandWarpCropd):
                change.randomize(self.data.labels[image].shape)
            elif isinstance(change, Randomizable):
                change.randomize(None)
        self.drawn = _Drawn(
            image,
            self.by[RandWarpCropd].matrix,
            self._gaps(image),
            self._colours(image),
            self._tone(image),
            self._of(RandBlurd, ("sigma",), (0.0,))[0],
            self._of(RandNoised, ("std", "seed"), (0.0, 0)),
        )

    def _of(self, kind: type, names: tuple[str, ...], otherwise: Any) -> Any:
        """What the transform of this kind has drawn."""
        change = self.by.get(kind)
        return otherwise if change is None else tuple(getattr(change, name) for name in names)

    def _gaps(self, image: int) -> Gaps | None:
        """What is drawn between the nuclei of a colour image."""
        change = self.by.get(RandGapsd)
        return None if change is None or self.data.images[image].shape[2] != 3 else change.drawn

    def _tone(self, image: int) -> tuple[float, float, float]:
        """Exponent, slope and start, which go by the channels that there are once colours were drawn."""
        change, colour = self.by.get(RandIntensityd), self.by.get(RandColourd)
        if change is None:
            return 1.0, 1.0, 0.0
        channels = self.data.images[image].shape[2]
        matrix = None if colour is None else colour.of_grey if channels == 1 else colour.of_colour
        return change.exponent, *change.line(channels if matrix is None else len(matrix))

    def _colours(self, image: int) -> np.ndarray:
        matrix, change = np.eye(self.channels, self.channels + 1), self.by.get(RandColourd)
        grey = self.data.images[image].shape[2] == 1
        if change is None or (grey and change.of_grey is None):
            return matrix
        if grey:
            return np.asarray(matrix * change.of_grey)  # all channels are the same: some of them become black
        return np.broadcast_to(np.pad(change.of_colour, ((0, 0), (0, 4 - change.of_colour.shape[1]))), (3, 4))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        drawn = []
        for image, seed in zip(data["index"], data["seed"], strict=True):
            self.randomize((int(image), int(seed)))
            drawn.append(self.drawn)
        which = torch.tensor([each.image for each in drawn], device=self.device)
        matrix = self._tensor([each.matrix for each in drawn])
        image = self._crop(which, matrix)
        labels = self.labels[self._nearest(which, matrix)]
        image = ((image - self.offset[which]) * self.scale[which]).clamp_(-0.5, 1.5)
        image = torch.einsum("nij,njyx->niyx", self.fill[which], image)
        image = self._covered(image, labels, [each.gaps for each in drawn])
        if RandColourd in self.by:
            colour = self._tensor([each.colour for each in drawn])
            image = torch.einsum("nij,njyx->niyx", colour[:, :, :-1], image) + colour[:, :, -1, None, None]
        if RandIntensityd in self.by:
            exponent, slope, start = self._tensor([each.tone for each in drawn]).T[..., None, None, None]
            image = image.clamp_(0, BRIGHTEST).pow(exponent) * slope + start
        image = self._blurred(image, [each.sigma for each in drawn])
        for number, (std, seed) in enumerate(each.noise for each in drawn):
            if std:
                generator = torch.Generator(self.device).manual_seed(seed)
                image[number] += std * torch.randn(image[number].shape, generator=generator, device=self.device)
        batch: dict[Hashable, Any] = {"image": image, "target": encode_batch(labels, self.target)}
        if isinstance(self.loss, SizeWeighted):
            batch["weight"] = batch_size_weights(labels, self.loss)
        return batch

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device, non_blocking=True)

    def _places(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel of the crops lies in its image: y and x, `(N, size, size)` float32."""
        along = torch.arange(self.size, dtype=torch.float32, device=self.device)
        xs, ys = along[None, None, :], along[None, :, None]
        column = matrix[:, :, :, None, None]
        x, y = (column[:, k, 0] * xs + column[:, k, 1] * ys + column[:, k, 2] for k in (0, 1))
        return y, x

    def _at(self, which: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """The place in `pixels` and `labels` of whole-numbered y and x; images are mirrored beyond their edges."""
        height, width = self.shapes[which].T[..., None, None]
        y, x = _mirrored(y.long(), height), _mirrored(x.long(), width)
        place: Tensor = self.starts[which][:, None, None] + y * width + x
        return place

    def _nearest(self, which: Tensor, matrix: Tensor) -> Tensor:
        y, x = self._places(matrix)
        return self._at(which, (y + 0.5).floor(), (x + 0.5).floor())

    def _crop(self, which: Tensor, matrix: Tensor) -> Tensor:
        """Interpolated linearly between four pixels: `(N, C, size, size)` float32 in the file's values."""
        y, x = self._places(matrix)
        top, left = y.floor(), x.floor()
        down, right = y - top, x - left
        crop = torch.zeros((self.channels, *y.shape), device=self.device)
        for dy, share in ((0, 1 - down), (1, down)):
            for dx, part in ((0, 1 - right), (1, right)):
                crop += self.pixels[:, self._at(which, top + dy, left + dx)] * (share * part)
        return crop.movedim(0, 1).contiguous()

    def _covered(self, image: Tensor, labels: Tensor, gaps: Sequence[Gaps | None]) -> Tensor:
        """Gaps and fibres where no nucleus is, in bright crops, as `RandGapsd` draws them."""
        chosen = [number for number, each in enumerate(gaps) if each is not None]
        if not chosen:
            return image
        there = [each for each in gaps if each is not None]
        waves = self._tensor([each.waves for each in there])
        y, x = (waves[:, :, k, None] * torch.arange(self.size, device=self.device) for k in (0, 1))
        y = y + waves[:, :, 2, None]
        field = torch.einsum("nwy,nwx->nyx", y.cos(), x.cos()) - torch.einsum("nwy,nwx->nyx", y.sin(), x.sin())
        level, steep, cover = self._tensor([(g.level, g.steep, g.cover) for g in there]).T[..., None, None]
        share = cover * ((field * (2 / waves.shape[1]) ** 0.5 - level) * steep).clamp(0, 1)
        taken = functional.max_pool2d((labels[chosen] > 0).float(), 2 * MARGIN + 1, 1, MARGIN) > 0
        crops = image[chosen]
        share = share * ~taken * (crops.mean(dim=(1, 2, 3)) > BRIGHT)[:, None, None]
        image[chosen] = crops + share[:, None] * (self._tensor([g.tone for g in there])[:, :, None, None] - crops)
        return image

    def _blurred(self, image: Tensor, sigmas: Sequence[float]) -> Tensor:
        """Those of sigma > 0 blurred by a Gaussian, cut where OpenCV cuts it (4 sigma)."""
        chosen = [number for number, sigma in enumerate(sigmas) if sigma]
        if not chosen:
            return image
        kernels = [gaussian(sigmas[number]) for number in chosen]
        reach = max(len(kernel) for kernel in kernels) // 2
        padded = self._tensor([np.pad(kernel, reach - len(kernel) // 2) for kernel in kernels])
        weight = padded.repeat_interleave(self.channels, 0)[:, None, None]
        planes = image[chosen].flatten(0, 1)[None]
        for pad, kernel in (((reach, reach, 0, 0), weight), ((0, 0, reach, reach), weight.transpose(2, 3))):
            planes = functional.conv2d(functional.pad(planes, pad, mode="reflect"), kernel, groups=planes.shape[1])
        image[chosen] = planes.view(len(chosen), self.channels, *image.shape[2:])
        return image


def _kept_as(data: CropDataset) -> np.dtype[Any]:
    """What the pixels are kept as: bytes where all images are."""
    return np.dtype(np.uint8 if all(image.dtype == np.uint8 for image in data.images) else np.float32)


def _mirrored(at: Tensor, side: Tensor) -> Tensor:
    """dcba|abcd|dcba.

    >>> _mirrored(torch.arange(-4, 8), torch.tensor(4)).tolist()
    [3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]
    """
    at = at.remainder(2 * side)
    return torch.where(at < side, at, 2 * side - 1 - at)


def filling(scale: Sequence[float]) -> np.ndarray:
    """`(C, C)`: what makes the mean of the others of the channels whose scale is 0, as `Preparation.normalise` does.

    >>> filling((0.0, 1.0, 1.0)).tolist()
    [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    matrix, there = np.eye(len(scale), dtype=np.float32), np.asarray(scale) != 0
    if there.any():
        matrix[~there] = there / there.sum()
    return matrix


def gaussian(sigma: float) -> np.ndarray:
    """The kernel that `cv2.GaussianBlur` takes for float images: 1 in all, of odd length."""
    reach = int(np.rint(sigma * 8 + 1)) // 2
    return np.asarray(cv2.getGaussianKernel(2 * reach + 1, sigma)[:, 0])


class ResidentLoader:
    """Batches like an `EpochLoader`'s, made on `device` from images that stay there."""

    def __init__(self, data: CropDataset, batch_size: int, device: str) -> None:
        self.data, self.batch_size = data, batch_size
        self.augment = BatchAugmentd(data, device)

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def epoch(self, number: int) -> Iterator[dict[str, Tensor]]:
        """The batches of epoch `number`, the last one as small as it comes."""
        self.data.start_epoch(number)
        for start in range(0, len(self.data), self.batch_size):
            part = np.s_[start : start + self.batch_size]
            made = self.augment({"index": self.data.chosen[part], "seed": self.data.seeds[part]})
            yield {key: made[key] for key in ("image", "target", "weight") if key in made}
