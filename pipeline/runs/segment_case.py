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
from pipeline.errors import ImageError, LargeError, ModelError
from pipeline.results.ledger import Entry, Product, Stamp, stamp
from pipeline.results.lock import writing
from pipeline.runs.case_products import (
    describe_small,
    label_paths,
    left_out,
    picture_path,
    plain,
    remove_others,
    write_picture,
    write_products,
)
from pipeline.runs.check_room import Afforded, check_room
from pipeline.runs.failures import explain, let_pass
from pipeline.runs.measure_answer import measure_answer
from pipeline.runs.model_record import class_key, read_record
from pipeline.runs.plan_image import bytes_in_network, can_stream, is_alone, plan_image
from pipeline.runs.scratch import begin_work, name_work, scratch_folder
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
        with stages.stage("open"):
            record = read_record(job.model)
            cost, zoom = plan_image(opened, job.config, record)
            check_room(cost, job.out, scratch_folder(job.out, _work(case, job, source)) if cost.streamed else None)
        if not cost.streamed:
            try:
                with _alone if is_alone(opened.shape, zoom) else nullcontext():
                    return _hold(case, job, opened, source, stages)
            except LargeError as error:
                if not can_stream(opened):
                    raise
                log.info("%s: %s: it is streamed", case.relative, error.message)
        with _alone:
            return _stream(case, job, opened, source, stages, watch)
    except Exception as error:  # noqa: BLE001 - the per-image border: anything wrong with one image stays with it
        let_pass(error, stages.at, job.out)
        return Worked(_failure(case, job, source, stages, error))


def _check_unchanged(case: Case, before: Stamp) -> None:
    if stamp(case.image) != before:
        came = "a file that changed while it was read"
        raise ImageError(case.relative, came, "a file that is finished", "run again when it is")


def _open(case: Case, job: ChunkJob, stages: Stages) -> "FileSource":
    with stages.stage("open"):
        opened = open_asked(case.image, job.config)
    if opened.missing.note:
        log.warning("%s: %s", case.relative, opened.missing.note)
    return opened


def _hold(case: Case, job: ChunkJob, opened: "FileSource", source: Product, stages: Stages) -> Worked:
    """One image that is held in memory, from file to files. Raises LargeError where it must be streamed after all."""
    answer = _answer(opened, job, stages)
    with stages.stage("read"):
        _check_unchanged(case, source.stamp)
    return _finish(case, job, opened, answer, source, stages)


def _work(case: Case, job: ChunkJob, source: Product) -> str:
    return name_work(case, source.sha256, job.model_digest, job.settings)


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
    from pipeline.runs.segment_large import describe_large

    identity = _work(case, job, source)
    with stages.stage("load"):
        segmenter = load_segmenter(job)
    names = label_paths(case, job.config.geojson)
    with stages.stage("segment"), begin_work(job.out, identity, case, source.sha256) as scratch:
        large = _streamed(opened, segmenter, job, scratch, identity, [job.out / name for name in names], watch)
    with stages.stage("read"):
        _check_unchanged(case, source.stamp)
    digests = (large.label_sha256, large.outlines_sha256)
    log.info("%s: %s", case.relative, ", ".join(f"{stage} {s:.1f} s" for stage, s in large.seconds.items()))
    outputs = {name: Product.of(job.out / name, sha256) for name, sha256 in zip(names, digests, strict=False)}
    remove_others(case, job.out, outputs)
    with stages.stage("picture"):
        write_picture(job.out / picture_path(case.id), large.overview, large.overview_labels, large.colours)
    row = {name: plain(value) for name, value in describe_large(large, opened).items()} | left_out(opened)
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
    record = read_record(job.model)
    if not class_key(record):
        afforded = Afforded(
            segmenter, opened, record, job.out, scratch, outline is not None, bytes_in_network(job.config)
        )
        return segment_large(opened, afforded, job.config, scratch, identity, label, outline, watch)
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


def _finish(case: Case, job: ChunkJob, opened: "FileSource", answer: Answer, source: Product, stages: Stages) -> Worked:
    with stages.stage("measure"):
        objects = measure_answer(answer)
        row = describe_small(answer, objects) | left_out(opened)
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
    message, hint = explain(error, case)
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
