"""One image, from file to files: opened, segmented, measured, written.

Whatever is wrong with an image becomes its row; only what would hit every image (no model, an output folder that cannot
be written) is raised.
"""

import functools
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.config import ImageOptions, SegmentConfig
from pipeline.data.files import atomic_write, sha256_file
from pipeline.errors import ImageError, MasklineError, ModelError, OutputError
from pipeline.results.ledger import Entry, Product, Stamp, stamp
from pipeline.results.lock import STATE, is_output_trouble, output_error, writing
from pipeline.results.names import label_suffix
from pipeline.runs.measure_answer import measure_answer, sizes
from pipeline.runs.stages import Stages, Watched
from pipeline.types import Case, Image, ImageSource, Labels

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.scoring.confidence import Confidence

log = logging.getLogger("maskline.segment")
TRIED = 50_000_000  # values; a larger image is not read twice
PICTURES = f"{STATE}/pictures"


@dataclass(frozen=True)
class ChunkJob:
    """What every chunk of a run has in common; `folder` and `out` of the config are absolute."""

    config: SegmentConfig
    model: Path
    model_digest: str
    settings: str  # digest of what decides the results besides image and model
    run: str

    @property
    def out(self) -> Path:
        return self.config.out


class Answer(Protocol):
    """What a segmenter gives for one image; see `pipeline.inference.segment.Segmented`."""

    @property
    def labels(self) -> Labels: ...
    @property
    def confidence(self) -> "Confidence | None": ...
    @property
    def image(self) -> Image: ...
    @property
    def statistics(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


class Segments(Protocol):
    """What segments one opened image; see `pipeline.inference.segment.Segmenter`."""

    def segment(self, source: ImageSource, options: ImageOptions) -> Answer: ...


_loading = threading.Lock()


def load_segmenter(job: ChunkJob) -> Segments:
    """The job's model on its device, loaded once a process. Raises ModelError."""
    with _loading:
        return _load(job.model, job.model_digest, job.config.device)


@functools.lru_cache(maxsize=1)
def _load(folder: Path, digest: str, device: str) -> Segments:
    from pipeline.inference.direct import build_segmenter
    from pipeline.model.bundle import load_model

    model = load_model(folder)
    if model.digest != digest:
        wanted = f"{digest[:12]}, as the run began"
        raise ModelError(str(folder), f"digest {model.digest[:12]}", wanted, "let the model be, and run again")
    segmenter: Segments = build_segmenter(model, device)
    return segmenter


@dataclass(frozen=True)
class Worked:
    """One image's entry for the ledger, and its objects (None when it failed)."""

    entry: Entry
    objects: "pd.DataFrame | None" = None


def segment_case(case: Case, job: ChunkJob) -> Worked:
    """One image from file to files: the border at which a failure becomes a row."""
    stages = Stages()
    source = Product("", (0, 0, 0, 0))
    try:
        with stages.stage("read"):
            before = stamp(case.image)
            source = Product(sha256_file(case.image), before)
        answer = _answer(case, job, stages)
        with stages.stage("read"):
            _check_unchanged(case, before)
        return _finish(case, job, answer, source, stages)
    except Exception as error:  # noqa: BLE001 - the per-image border: anything wrong with one image stays with it
        _let_pass(error, stages.at, job.out)
        return Worked(_failure(case, job, source, stages, error))


def _check_unchanged(case: Case, before: Stamp) -> None:
    if stamp(case.image) != before:
        came = "a file that changed while it was read"
        raise ImageError(case.relative, came, "a file that is finished", "run again when it is")


def _answer(case: Case, job: ChunkJob, stages: Stages) -> Answer:
    from pipeline.data.images import open_image

    config = job.config
    with stages.stage("open"):
        opened = open_image(case.image, pages=config.pages, max_megapixels=config.max_megapixels)
    if not _load.cache_info().currsize:  # a broken file is found out before a model is loaded for it
        with stages.stage("read"):
            _try(opened)
    with stages.stage("load"):
        segmenter = load_segmenter(job)
    with stages.stage("segment"):
        return segmenter.segment(Watched(opened, stages), config)


def _try(source: ImageSource) -> None:
    pixels = 1
    for length in source.shape:
        pixels *= length
    if pixels <= TRIED:
        source.read()


def _let_pass(error: Exception, stage: str, out: Path) -> None:
    """Raise what is no one image's fault; return for what is."""
    if stage == "load":
        raise error
    reason = error.__cause__ if isinstance(error, OutputError) else error
    if stage in ("write", "picture") and isinstance(reason, OSError) and is_output_trouble(reason):
        raise output_error(out, reason) from error


def _explain(error: Exception, case: Case) -> tuple[str, str]:
    """What images.csv says of a failure, wherever the folder lies, and what to do about it."""
    if isinstance(error, MasklineError):
        return error.message.replace(str(case.image), case.relative), error.hint
    text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".replace(str(case.image), case.relative)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return text, "free memory, segment on a larger machine, or cut the image into parts"
    if isinstance(error, OSError):
        return text, "check that the file is there and may be read, then run again"
    return text, "look into maskline.log; if the file opens elsewhere, report this with the file"


def label_paths(case: Case, geojson: bool) -> tuple[str, ...]:
    """What is written for an image, below the results folder: its labels, and outlines where asked for."""
    label = f"labels/{case.id}{label_suffix(case.relative)}"
    return (label, f"geojson/{case.id}.geojson") if geojson else (label,)


def picture_path(stem: str) -> str:
    """Where the report's preview of an image lies, below the results folder."""
    return f"{PICTURES}/{stem}.jpg"


def _finish(case: Case, job: ChunkJob, answer: Answer, source: Product, stages: Stages) -> Worked:
    with stages.stage("measure"):
        objects = measure_answer(answer)
        row = _row(answer, objects)
    with stages.stage("write"):
        outputs = _write(case, job, answer)
    with stages.stage("picture"):
        _write_picture(job.out / picture_path(case.id), answer)
    inner = {name: value for name, value in answer.seconds.items() if name != "read"}
    stages.seconds["segment"] = max(0.0, stages.seconds["segment"] - sum(inner.values()))
    stages.seconds.update(inner)
    entry = Entry(case.relative, case.id, "done", source, job.model_digest, job.settings, outputs, row, stages.rounded)
    return Worked(entry, objects)


def _row(answer: Answer, objects: "pd.DataFrame") -> dict[str, Any]:
    """The columns of images.csv: `area` is the mean object's in px² (px³ of volumes), `density` objects per megapixel,
    `intensity` the mean over objects and channels in the file's own values.
    """
    import numpy as np

    from pipeline.results.quality import appearance

    shape, count = answer.image.spatial_shape, len(objects)
    megapixels = float(np.prod(shape)) / 1e6
    means = [np.asarray(objects[name], np.float64) for name in objects.columns if name.startswith("intensity_mean_")]
    row: dict[str, Any] = {
        "objects": count,
        "area": float(np.mean(np.asarray(sizes(objects), np.float64))) if count else None,
        "density": count / megapixels if megapixels else None,
        "intensity": float(np.nanmean(means)) if count and means else None,
        "height": shape[-2],
        "width": shape[-1],
        "planes": shape[0] if len(shape) == 3 else 1,
        "channels": int(answer.image.pixels.shape[0]),
        "dtype": str(answer.image.pixels.dtype),
        **appearance(answer.image, answer.labels),
        "confidence": answer.confidence.image if answer.confidence else None,
        **{f"model_{name}": value for name, value in answer.statistics.items()},
    }
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """A number or text that JSON can hold; NaN is "not known"."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def _write(case: Case, job: ChunkJob, answer: Answer) -> dict[str, Product]:
    from pipeline.data.labels import write_geojson, write_labels

    outputs = {}
    for name in label_paths(case, job.config.geojson):
        path = job.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("labels/"):
            sha256 = write_labels(path, answer.labels, answer.image.geometry, case.image)
        else:
            sha256 = write_geojson(path, answer.labels)
        outputs[name] = Product.of(path, sha256)
    return outputs


def _write_picture(path: Path, answer: Answer) -> None:
    from pipeline.results.pictures import preview

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, preview(answer.image, answer.labels), durable=False)


def _failure(case: Case, job: ChunkJob, source: Product, stages: Stages, error: Exception) -> Entry:
    """The entry of an image that failed; what an earlier run made of it is taken away, for it is not true any more."""
    message, hint = _explain(error, case)
    log.debug("%s failed at %s", case.relative, stages.at, exc_info=error)
    with writing(job.out):
        for name in (*label_paths(case, True), picture_path(case.id)):
            (job.out / name).unlink(missing_ok=True)
    return Entry(
        case.relative,
        case.id,
        "failed",
        source,
        job.model_digest,
        job.settings,
        seconds=stages.rounded,
        stage=stages.at,
        error=message,
        hint=hint,
    )
