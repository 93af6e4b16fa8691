"""One volume, or one image of a model of classes, end to end: read, prepare, predict, decode. No zoom is looked for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pipeline.config import ClassesTarget, FixedSize, ImageOptions, colours_of
from pipeline.errors import ImageError, UsageError
from pipeline.inference import volumes
from pipeline.inference.blocks import Sizes, band_of
from pipeline.inference.class_stream import ClassMapping, ClassStream
from pipeline.inference.engines import choose_device, make_engine
from pipeline.inference.forward import on_grid
from pipeline.inference.predict import predict
from pipeline.inference.segment import Segmented, Segmenter
from pipeline.inference.survey import survey
from pipeline.inference.volume_grid import VolumeGrid, undo_slabs
from pipeline.inference.volumes import predict_slabs, predict_volume
from pipeline.model.bundle import ModelRecord, TrainedModel
from pipeline.model.decode import Bytes, to_bytes
from pipeline.model.prepare import Preparation, fit, share_channels
from pipeline.model.targets import decode, scale_areas
from pipeline.model.told_size import KnownSize
from pipeline.model.volumes import VolumePreparation, fit_volume, nearest
from pipeline.scoring.class_sums import ClassSums
from pipeline.scoring.confidence import Confidence, confidence
from pipeline.types import Array, Geometry, ImageSource, Labels, Pixels, Watch, unwatched


@dataclass(frozen=True)
class DirectSegmented(Segmented):
    """As `Segmented`, `((Z,) Y, X)`; `classes` are the names of what the labels number, `colours` how they are shown,
    both empty where that is objects.
    """

    classes: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()


_OTHER = {2: "2-D", 3: "3-D"}


def build_segmenter(
    model: TrainedModel, device: str = "auto", engine: str = "auto", threads: int | None = None, *, skip: bool = True
) -> Any:
    """What segments images for this model: `Segmenter` for instances in images, `DirectSegmenter` for all else."""
    if model.record.volume is None and not isinstance(model.record.target, ClassesTarget):
        return Segmenter(model, device, engine, threads, skip=skip)
    return DirectSegmenter(model, device, engine, threads)


class DirectSegmenter:
    """A model of volumes, or of classes, on a device; its record decides channels, voxel size, windows and classes.

    Images go through the engines that `make_engine` has. Volumes are torch's alone, on one device, with `threads` for
    the process; UsageError is raised where another engine or several devices are asked for.
    """

    def __init__(
        self, model: TrainedModel, device: str = "auto", engine: str = "auto", threads: int | None = None
    ) -> None:
        self.model = model
        target = model.record.target
        self.classes = target.names if isinstance(target, ClassesTarget) else ()
        self.colours = colours_of(target) if isinstance(target, ClassesTarget) else ()
        if model.record.volume is None:
            self.engine = make_engine(model, device, engine, threads)
            return
        if engine not in ("auto", "torch"):
            raise UsageError(f"--engine {engine}", "a model of volumes", "auto or torch", "leave --engine out")
        if "," in device:
            came, wanted = "several for a model of volumes", "one: a model of volumes takes one device"
            raise UsageError(f"--device {device}", came, wanted, "name one of them")
        self.device, self.room = choose_device(device), volumes.Room()
        if threads:
            torch.set_num_threads(threads)
        model.network.to(self.device)

    def segment(
        self,
        source: ImageSource,
        options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    ) -> DirectSegmented:
        """Segment an opened image or volume; `labels` are objects, or the class of each pixel.

        How large a voxel is says the source, which is opened with `options.pixel_size` (`FileSource.told`). Raises
        ImageError for images the model cannot take and UsageError where a diameter is given, which such models do not
        know.
        """
        seconds: dict[str, float] = {}
        record = self.model.record
        with _timed(seconds, "read"):
            image = source.read()
        with _timed(seconds, "prepare"):
            _check(len(image.spatial_shape), record, options)
            pixels = share_volume_channels(image.pixels, record.prepare.channels, options.channel)
            preparation = self._prepare(pixels, image.geometry)
        labels: Labels
        probabilities: Pixels | None
        if isinstance(preparation, VolumePreparation) and not preparation.is_at_most(volumes.WHOLE):
            labels, sure = self._in_slabs(pixels, preparation, options.tta, seconds)
            probabilities = None
        else:
            with _timed(seconds, "predict"):
                planes = self._predict(pixels, preparation, options.tta)
            with _timed(seconds, "decode"):
                labels, probabilities, sure = self._decode(planes, preparation)
        statistics: dict[str, float | str] = {
            "zoom": float((np.prod(preparation.shape) / np.prod(preparation.original)) ** (1 / labels.ndim)),
            "low": float(np.mean(preparation.offset)),
            "span": float(np.mean([1 / s if s else 0.0 for s in preparation.scale])),
            "windows": "exact" if record.halo is not None else "blended",
            "engine": self.engine.name if record.volume is None else "torch",
        }
        return DirectSegmented(labels, probabilities, sure, image, statistics, seconds, self.classes, self.colours)

    def map(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch = unwatched
    ) -> ClassMapping:
        """The class map of an opened 2-D image larger than memory, part by part, of a model of classes.

        `scratch` keeps what a killed run had done; `identity` names image, model and options. Raises what `segment`
        raises.
        """
        record = self.model.record
        _check(len(source.shape) - 1, record, options)
        seen = survey(source, record.prepare, stride=record.stride, channel=options.channel).preparation
        size = record.prepare.size
        if isinstance(size, FixedSize):
            seen = replace(seen, shape=(size.height, size.width))
        sizes = Sizes(band=band_of(seen.shape[1]))
        stream = ClassStream(
            self.model, self.engine, source, seen, scratch, identity, options.channel, options.tta, sizes, watch
        )
        return ClassMapping(stream, self.classes, self.colours)

    def stream(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch = unwatched
    ) -> NoReturn:
        """Objects of images are `Segmenter`'s: raises ImageError, of a model of volumes that is given an image."""
        came, hint = f"{len(source.shape) - 1}-D", "give 3-D images, or a model of 2-D ones"
        raise ImageError("image", came, "3-D, as the model is", hint)

    def _prepare(self, pixels: Array, geometry: Geometry) -> Preparation | VolumePreparation:
        record = self.model.record
        if record.volume is None:
            return fit(pixels, record.prepare, stride=record.stride)
        return fit_volume(pixels, geometry, record.prepare, record.volume.strides)

    def _predict(self, pixels: Array, preparation: Preparation | VolumePreparation, tta: bool) -> Pixels:
        if isinstance(preparation, Preparation):
            return predict(self.engine, *on_grid(pixels, preparation), tta=tta)
        return predict_volume(self.model, preparation.apply(pixels), self.device, tta=tta, room=self.room)

    def _in_slabs(
        self, voxels: Array, preparation: VolumePreparation, tta: bool, seconds: dict[str, float]
    ) -> tuple[Labels, Confidence]:
        """A large volume: classes are decided slab by slab; objects need all their probabilities at once."""
        grid = VolumeGrid(voxels, preparation)
        if not self.classes:
            with _timed(seconds, "predict"):
                planes = predict_volume(self.model, grid, self.device, tta=tta, room=self.room)
            with _timed(seconds, "decode"):
                labels, _, sure = self._decode(planes, preparation)
            return labels, sure
        found = predict_slabs(self.model, grid, self.device, tta=tta, room=self.room)
        slabs = undo_slabs(found, preparation)
        target, sums, done = self.model.record.target, ClassSums(len(self.classes), 3, channels=0), 0
        small = np.uint8 if len(self.classes) <= 256 else np.uint32
        answer: Array = np.empty(preparation.original, small)
        while done < len(answer):
            with _timed(seconds, "predict"):
                slab = next(slabs)
            with _timed(seconds, "decode"):
                labels = decode(slab, target, self.model.thresholds)
                sums.count(labels, chosen_bytes(slab))
                answer[done : done + len(labels)] = labels
                done += len(labels)
            del slab, labels  # while the next one is made
        return answer, sums.confidence

    def _decode(
        self, planes: Pixels, preparation: Preparation | VolumePreparation
    ) -> tuple[Labels, Pixels | None, Confidence]:
        """Classes are decided on the file's grid, objects on the finer of the two.

        Probabilities are on the file's grid, None where nothing was decided there.
        """
        target, thresholds = self.model.record.target, self.model.thresholds
        shrink = float(np.prod(preparation.original)) / float(np.prod(preparation.shape))
        if shrink >= 1 or isinstance(target, ClassesTarget):
            probabilities = preparation.undo(planes)
            labels = decode(probabilities, target, scale_areas(thresholds, shrink))
            if isinstance(target, ClassesTarget):
                return labels, probabilities, class_confidence(labels, probabilities)
            return labels, probabilities, confidence(labels, probabilities, target)
        z, y, x = preparation.shape
        fine = planes[:, :z, :y, :x]
        labels = decode(fine, target, thresholds)
        objects = confidence(labels, fine, target)
        kept, inverse = np.unique(nearest(labels, preparation.original), return_inverse=True)
        first = 0 if kept[0] == 0 else 1  # an object of less than a voxel may be gone
        numbered = (inverse.reshape(preparation.original) + first).astype(np.uint32)
        return numbered, None, replace(objects, objects=objects.objects[kept[kept > 0] - 1])


def chosen_bytes(probabilities: Pixels) -> Bytes:
    """The probability 0..255 of the class that is chosen, `(1, Z * Y, X)` of `(K, (Z,) Y, X)`."""
    return to_bytes(probabilities.max(axis=0).reshape(1, -1, probabilities.shape[-1]))


def class_confidence(labels: Labels, probabilities: Pixels) -> Confidence:
    """How sure a class map is of itself; see `ClassSums.confidence`. Probabilities are read as 0..255."""
    sums = ClassSums(len(probabilities), labels.ndim, channels=0)
    sums.count(labels, chosen_bytes(probabilities))
    return sums.confidence


def share_volume_channels(pixels: Array, channels: int, chosen: int | None) -> Array:
    """As `share_channels`, for `(C, (Z,) Y, X)`."""
    if pixels.ndim == 3:
        return share_channels(pixels, channels, chosen)
    depth, height = pixels.shape[1:3]
    flat = share_channels(pixels.reshape(len(pixels), depth * height, -1), channels, chosen)
    return flat.reshape(len(flat), depth, height, -1)


def _check(came: int, record: ModelRecord, options: ImageOptions) -> None:
    """Refuse an image of `came` dimensions, or options, that are not for the model."""
    dimensions = 2 if record.volume is None else 3
    if came != dimensions:
        hint = f"give {_OTHER[dimensions]} images, or a model of {_OTHER.get(came, 'such')} ones"
        raise ImageError("image", f"{came}-D", f"{_OTHER[dimensions]}, as the model is", hint)
    KnownSize.of(record.model_dump()).check(options)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
