"""One volume, or one image of a model of classes, end to end: read, prepare, predict, decode. No zoom is looked for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import ClassesTarget, ImageOptions, SpacingSize
from pipeline.errors import ImageError, ModelError
from pipeline.inference.predict import choose_device, predict
from pipeline.inference.segment import Segmented, Segmenter
from pipeline.inference.volumes import predict_volume
from pipeline.model.bundle import ModelRecord, TrainedModel
from pipeline.model.prepare import Preparation, fit, take_channels
from pipeline.model.targets import decode, scale_areas
from pipeline.model.volumes import VolumePreparation, fit_volume, nearest
from pipeline.scoring.confidence import Confidence, confidence
from pipeline.types import Array, Geometry, Image, ImageSource, Labels, Pixels


@dataclass(frozen=True)
class DirectSegmented(Segmented):
    """As `Segmented`, `((Z,) Y, X)`; `classes` are the names of what the labels number, empty where that is objects."""

    classes: tuple[str, ...] = ()


_OTHER = {2: "2-D", 3: "3-D"}


def build_segmenter(model: TrainedModel, device: str = "auto") -> Any:
    """What segments images for this model: `Segmenter` for instances in images, `DirectSegmenter` for all else."""
    if model.record.volume is None and not isinstance(model.record.target, ClassesTarget):
        return Segmenter(model, device)
    return DirectSegmenter(model, device)


class DirectSegmenter:
    """A model of volumes, or of classes, on a device; its record decides channels, voxel size, windows and classes."""

    def __init__(self, model: TrainedModel, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model = model
        target = model.record.target
        self.classes = target.names if isinstance(target, ClassesTarget) else ()
        model.network.to(self.device)

    def segment(
        self,
        source: ImageSource,
        options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    ) -> DirectSegmented:
        """Segment an opened image or volume; `labels` are objects, or the class of each pixel.

        `options.pixel_size` (um) stands for all sides of a voxel where the model has a voxel size. Raises ImageError
        for images the model cannot take and ModelError where a diameter is given, which such models do not know.
        """
        seconds: dict[str, float] = {}
        record = self.model.record
        with _timed(seconds, "read"):
            image = source.read()
        with _timed(seconds, "prepare"):
            _check(image, record, options)
            pixels = take_volume_channels(image.pixels, record.prepare.channels, options.channel)
            preparation = self._prepare(pixels, image.geometry, options)
            ready = preparation.apply(pixels)
        with _timed(seconds, "predict"):
            if record.volume is None:
                planes = predict(self.model, ready, self.device, tta=options.tta)
            else:
                planes = predict_volume(self.model, ready, self.device, tta=options.tta)
        with _timed(seconds, "decode"):
            labels, probabilities, sure = self._decode(planes, preparation)
        statistics: dict[str, float | str] = {
            "zoom": float((np.prod(preparation.shape) / np.prod(preparation.original)) ** (1 / labels.ndim)),
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if record.halo is not None else "blended",
        }
        return DirectSegmented(labels, probabilities, sure, image, statistics, seconds, self.classes)

    def _prepare(self, pixels: Array, geometry: Geometry, options: ImageOptions) -> Preparation | VolumePreparation:
        record = self.model.record
        if record.volume is None:
            return fit(pixels, record.prepare, stride=record.stride)
        if options.pixel_size is not None:
            geometry = Geometry((options.pixel_size,) * 3, "um")
        return fit_volume(pixels, geometry, record.prepare, record.volume.strides)

    def _decode(
        self, planes: Pixels, preparation: Preparation | VolumePreparation
    ) -> tuple[Labels, Pixels, Confidence]:
        """Classes are decided on the file's grid, objects on the finer of the two."""
        target, thresholds = self.model.record.target, self.model.thresholds
        probabilities = preparation.undo(planes)
        if isinstance(target, ClassesTarget):
            labels = decode(probabilities, target, thresholds)
            return labels, probabilities, class_confidence(labels, probabilities)
        shrink = float(np.prod(preparation.original)) / float(np.prod(preparation.shape))
        if shrink >= 1:
            labels = decode(probabilities, target, scale_areas(thresholds, shrink))
            return labels, probabilities, confidence(labels, probabilities, target)
        z, y, x = preparation.shape
        fine = planes[:, :z, :y, :x]
        labels = decode(fine, target, thresholds)
        objects = confidence(labels, fine, target)
        kept, inverse = np.unique(nearest(labels, preparation.original), return_inverse=True)
        first = 0 if kept[0] == 0 else 1  # an object of less than a voxel may be gone
        numbered = (inverse.reshape(preparation.original) + first).astype(np.uint32)
        return numbered, probabilities, Confidence(objects.image, objects.objects[kept[kept > 0] - 1])


def class_confidence(labels: Labels, probabilities: Pixels) -> Confidence:
    """Mean probability of the class that was chosen: over the foreground, and for each class that is there."""
    chosen = probabilities.max(axis=0).ravel().astype(np.float64)
    count = np.bincount(labels.ravel())
    total = np.bincount(labels.ravel(), weights=chosen)
    there = np.flatnonzero(count[1:]) + 1
    if not there.size:
        return Confidence(0.0, np.zeros(0))
    return Confidence(float(total[there].sum() / count[there].sum()), total[there] / count[there])


def take_volume_channels(pixels: Array, channels: int, chosen: int | None) -> Array:
    """As `take_channels`, for `(C, (Z,) Y, X)`."""
    if pixels.ndim == 3:
        return take_channels(pixels, channels, chosen)
    depth, height = pixels.shape[1:3]
    flat = take_channels(pixels.reshape(len(pixels), depth * height, -1), channels, chosen)
    return flat.reshape(len(flat), depth, height, -1)


def _check(image: Image, record: ModelRecord, options: ImageOptions) -> None:
    dimensions = 2 if record.volume is None else 3
    came = len(image.spatial_shape)
    if came != dimensions:
        hint = f"give {_OTHER[dimensions]} images, or a model of {_OTHER.get(came, 'such')} ones"
        raise ImageError("image", f"{came}-D", f"{_OTHER[dimensions]}, as the model is", hint)
    if isinstance(options.diameter, float):
        hint = "leave --diameter out"
        raise ModelError(
            "--diameter", f"a model of {record.target.kind} in {_OTHER[dimensions]}", "one of objects", hint
        )
    if options.pixel_size is not None and not isinstance(record.prepare.size, SpacingSize):
        raise ModelError("--pixel-size", "a model without a voxel size", "one that has one", "leave --pixel-size out")


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
