"""One image, from file to files: opened, segmented, measured, written.

Whatever is wrong with an image becomes its row; only what would hit every image (no model, an output folder that cannot
be written) is raised.
"""

import functools
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.config import ImageOptions, SegmentConfig
from pipeline.data.files import remove, sha256_file
from pipeline.errors import ImageError, MasklineError, ModelError, OutputError
from pipeline.results.ledger import Entry, Product, Stamp, stamp
from pipeline.results.lock import is_output_trouble, output_error, writing
from pipeline.runs.case_products import (
    describe_small,
    label_paths,
    picture_path,
    plain,
    remove_others,
    write_picture,
    write_products,
)
from pipeline.runs.measure_answer import measure_answer
from pipeline.runs.model_record import class_key, read_record
from pipeline.runs.stages import Stages, Watched
from pipeline.types import Case, Image, ImageSource, Labels, Watch, unwatched

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.data.sources import FileSource
    from pipeline.runs.map_large import Streaming as MapStreaming
    from pipeline.runs.segment_large import Large, Streaming
    from pipeline.scoring.confidence import Confidence

log = logging.getLogger("maskline.segment")
TRIED = 50_000_000  # values; a larger image is not read twice
BESIDE = 8_000_000  # values; of larger images one at a time is held


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

    def stream(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch
    ) -> "Streaming": ...

    def map(
        self, source: ImageSource, options: ImageOptions, scratch: Path, identity: str, watch: Watch
    ) -> "MapStreaming": ...


_loading, _alone = threading.Lock(), threading.Lock()


def load_segmenter(job: ChunkJob) -> Segments:
    """The job's model on its device, loaded once a process. Raises ModelError."""
    with _loading:
        config = job.config
        return _load(job.model, job.model_digest, config.device, config.engine, config.threads, config.skip)


@functools.lru_cache(maxsize=1)
def _load(folder: Path, digest: str, device: str, engine: str, threads: int | None, skip: bool) -> Segments:
    from pipeline.inference.direct import build_segmenter
    from pipeline.model.bundle import load_model

    model = load_model(folder)
    if model.digest != digest:
        wanted = f"{digest[:12]}, as the run began"
        raise ModelError(str(folder), f"digest {model.digest[:12]}", wanted, "let the model be, and run again")
    segmenter: Segments = build_segmenter(model, device, engine, threads, skip=skip)
    return segmenter


@dataclass(frozen=True)
class Worked:
    """One image's entry for the ledger, and its objects (None when it failed).

    Those of a streamed image are a table on disk already, in a scratch folder that is done with once they have a place.
    """

    entry: Entry
    objects: "pd.DataFrame | Path | None" = None


def segment_case(case: Case, job: ChunkJob, watch: Watch = unwatched) -> Worked:
    """One image from file to files: the border at which a failure becomes a row."""
    stages = Stages()
    source = Product("", (0, 0, 0, 0))
    try:
        with stages.stage("read"):
            before = stamp(case.image)
            source = Product(sha256_file(case.image), before)
        opened = _open(case, job, stages)
        with nullcontext() if prod(opened.shape) <= BESIDE else _alone:
            if is_large(opened, job.config):
                return _stream(case, job, opened, source, stages, watch)
            answer = _answer(opened, job, stages)
            with stages.stage("read"):
                _check_unchanged(case, before)
            return _finish(case, job, opened, answer, source, stages)
    except Exception as error:  # noqa: BLE001 - the per-image border: anything wrong with one image stays with it
        _let_pass(error, stages.at, job.out)
        return Worked(_failure(case, job, source, stages, error))


def _check_unchanged(case: Case, before: Stamp) -> None:
    if stamp(case.image) != before:
        came = "a file that changed while it was read"
        raise ImageError(case.relative, came, "a file that is finished", "run again when it is")


def _open(case: Case, job: ChunkJob, stages: Stages) -> "FileSource":
    with stages.stage("open"):
        opened = open_asked(case.image, job.config)
    for note in opened.notes:
        log.warning("%s: %s", case.relative, note)
    return opened


def is_large(source: ImageSource, config: SegmentConfig) -> bool:
    """Whether an opened image is streamed instead of held in memory."""
    return len(source.shape) == 3 and source.shape[1] * source.shape[2] > config.whole_megapixels * 1e6


def _answer(opened: ImageSource, job: ChunkJob, stages: Stages) -> Answer:
    if not _load.cache_info().currsize:  # a broken file is found out before a model is loaded for it
        with stages.stage("read"):
            _try(opened)
    with stages.stage("load"):
        segmenter = load_segmenter(job)
    with stages.stage("segment"):
        return segmenter.segment(Watched(opened, stages), job.config)


def _stream(case: Case, job: ChunkJob, opened: "FileSource", source: Product, stages: Stages, watch: Watch) -> Worked:
    """One image larger than memory, from file to files."""
    from pipeline.runs.plan_large import check_disk, stream_cost
    from pipeline.runs.segment_large import describe_large, scratch_folder

    identity = f"{source.sha256} {job.model_digest} {job.settings}"
    scratch = scratch_folder(job.out, identity)
    with stages.stage("load"):
        segmenter = load_segmenter(job)
    names = label_paths(case, job.config.geojson)
    check_disk(stream_cost(opened.shape, opened.dtype.itemsize, read_record(job.model)), job.out)
    with stages.stage("segment"):
        large = _streamed(opened, segmenter, job, scratch, identity, [job.out / name for name in names], watch)
    with stages.stage("read"):
        _check_unchanged(case, source.stamp)
    digests = (large.label_sha256, large.outlines_sha256)
    log.info("%s: %s", case.relative, ", ".join(f"{stage} {s:.1f} s" for stage, s in large.seconds.items()))
    outputs = {name: Product.of(job.out / name, sha256) for name, sha256 in zip(names, digests, strict=False)}
    remove_others(case, job.out, outputs)
    with stages.stage("picture"):
        write_picture(job.out / picture_path(case.id), large.overview, large.overview_labels, large.colours)
    row = {name: plain(value) for name, value in describe_large(large, opened).items()}
    entry = Entry(case.relative, case.id, "done", source, job.model_digest, job.settings, outputs, row, stages.rounded)
    return Worked(entry, large.table)


def _streamed(
    opened: "FileSource",
    segmenter: Segments,
    job: ChunkJob,
    scratch: Path,
    identity: str,
    paths: Sequence[Path],
    watch: Watch,
) -> "Large":
    """Labels, and outlines where there is a second path, of objects or of classes, as the model has it."""
    from pipeline.runs.map_large import map_large
    from pipeline.runs.segment_large import segment_large

    label, outline = paths[0], paths[1] if len(paths) > 1 else None
    if not class_key(read_record(job.model)):
        return segment_large(opened, segmenter, job.config, scratch, identity, label, outline, watch)
    if outline is not None:
        came, wanted = "outlines of a class map larger than memory", "label images"
        raise ImageError("--geojson", came, wanted, "leave --geojson out, or raise whole_megapixels")
    return map_large(opened, segmenter, job.config, scratch, identity, label, watch)


def open_asked(path: Path, config: SegmentConfig) -> "FileSource":
    """The image that a run is asked to segment in a file. Raises ImageError."""
    from pipeline.data.images import open_image

    opened = open_image(
        path, pages=config.pages, series=config.series, time=config.time, max_megapixels=config.max_megapixels
    )
    return opened.told(config.pixel_size).at_level(config.level)


def _try(source: ImageSource) -> None:
    if prod(source.shape) <= TRIED:
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


def _finish(case: Case, job: ChunkJob, opened: "FileSource", answer: Answer, source: Product, stages: Stages) -> Worked:
    with stages.stage("measure"):
        objects = measure_answer(answer)
        row = describe_small(answer, objects)
    with stages.stage("write"):
        outputs = write_products(case, job.out, job.config.geojson, answer, opened.multiscale)
    with stages.stage("picture"):
        colours = getattr(answer, "colours", ())
        write_picture(job.out / picture_path(case.id), answer.image, answer.labels, colours)
    inner = {name: value for name, value in answer.seconds.items() if name != "read"}
    stages.seconds["segment"] = max(0.0, stages.seconds["segment"] - sum(inner.values()))
    stages.seconds.update(inner)
    entry = Entry(case.relative, case.id, "done", source, job.model_digest, job.settings, outputs, row, stages.rounded)
    return Worked(entry, objects)


def _failure(case: Case, job: ChunkJob, source: Product, stages: Stages, error: Exception) -> Entry:
    """The entry of an image that failed; what an earlier run made of it is taken away, for it is not true any more."""
    message, hint = _explain(error, case)
    log.debug("%s failed at %s", case.relative, stages.at, exc_info=error)
    with writing(job.out):
        for name in (*label_paths(case, True), *label_paths(case, False, classes=True), picture_path(case.id)):
            remove(job.out / name)
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
