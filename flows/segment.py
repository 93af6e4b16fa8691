"""The flow `segment-folder`: a folder of images in; labels, tables, a report and an MLflow run out."""

from pathlib import Path
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import ShowProgress, show_failures, show_link, show_numbers
from flows.chunks import submit_chunks
from flows.folders import absolute
from flows.states import final_state
from pipeline.config import EngineName, SegmentConfig, build_config
from pipeline.errors import EmptyError
from pipeline.runs.segment_folder import SegmentSummary, segment_folder

MOST_AT_ONCE = 16


def publish(summary: SegmentSummary) -> None:
    """What a person finds on the run's page: numbers, failures, the way to MLflow."""
    numbers = {"done": summary.done, "skipped": summary.skipped, "failed": summary.failed}
    objects = {} if summary.objects is None else {"objects": summary.objects}
    report = {"report": f"{summary.out}/report.html"}
    show_numbers("segment", f"Segmented into {summary.out}", {**numbers, **objects, **report})
    show_failures("segment", summary.failures)
    show_link("segment", summary.run_url)


def run_segmentation(config: SegmentConfig, at_once: int, may_be_empty: bool = False) -> State[Any]:
    """Segment, publish, and say how it ended."""
    try:
        summary = segment_folder(config, submit_chunks(at_once), ShowProgress("segment"))
    except EmptyError as error:
        if may_be_empty:
            return Completed(name="NothingToDo", message=error.message)
        raise
    publish(summary)
    return final_state(summary)


@flow(
    name="segment-folder",
    flow_run_name="segment {folder}",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_AT_ONCE),  # type: ignore[arg-type]
    persist_result=False,
)
def segment_folder_flow(
    folder: Path,
    out: Path,
    model: str = "shipped:nuclei",
    diameter: float | str = "auto",
    pixel_size: float | None = None,
    channel: int | None = None,
    tta: bool = False,
    pages: Literal["refuse", "stack", "channels"] = "refuse",
    series: str = "",
    level: int = 0,
    time: int | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    group: str = "",
    limit: int | None = None,
    force: bool = False,
    geojson: bool = False,
    device: str = "auto",
    engine: EngineName = "auto",
    threads: int | None = None,
    skip: bool = True,
    max_failed_fraction: float = 0.2,
    max_megapixels: float = 400.0,
    whole_megapixels: float = 16.0,
    chunk_seconds: float = 30.0,
    track: bool = True,
    chunks_at_once: int = 1,
    may_be_empty: bool = False,
) -> State[Any]:
    """Segment every image of a folder: labels, objects.parquet, images.csv and report.html go to `out`.

    Images that are proven done are skipped, so the same run again does only what is new or changed. One bad file
    becomes a row in images.csv with what to do about it; the others go on.

    Args:
        folder: The folder of images, sub-folders included. A whole path, as the machine that does the work sees it.
        out: The folder for the results. A whole path. The same one again goes on where an earlier run stopped.
        model: shipped:nuclei, a registered model (nuclei, nuclei@champion, nuclei/3) or a path of one.
        diameter: How large the objects are, in pixels or as a length (8um); auto goes by the pixel size where the model
            has one and else finds it, native takes images as they are.
        pixel_size: Size of a pixel of the full image in micrometres, where the files do not say it or are wrong.
        channel: Which channel to segment, counted from 0. None takes all that the model can.
        tta: Take the mean over eight flips and quarter turns, for eight times the work.
        pages: What the pages of a multi-page TIFF are: slices of a stack, channels, or nothing we may guess (refuse).
        series: Number or name of the image to take where files hold several (scenes, positions).
        level: Which level of the pyramid to segment; 0 is the full image. The labels have that level's shape.
        time: Which time point to segment where there are several, counted from 0.
        include: Only files that match one of these patterns, like plate7/*.png.
        exclude: Not the files that match one of these patterns.
        group: A regular expression on the file's path; its first bracket names the group (plate, patient).
        limit: Only the first so many images; None takes all.
        force: Do everything again, also what is done already.
        geojson: Write outlines for QuPath beside the label images.
        device: auto, cpu, cuda, cuda:1, mps, or cuda:0,cuda:1 to share the work.
        engine: What runs the network on a CPU; auto is OpenVINO in float32 where it is installed, else torch.
        threads: Threads of the CPU that predict; None takes as many as there are.
        skip: Leave background out, where the model says how to know it.
        max_failed_fraction: The run itself fails when more than this part of the images failed (0 to 1).
        max_megapixels: Refuse images of which more than this must be decoded at once; tiled ones may be larger.
        whole_megapixels: Stream 2-D images that are larger than this, or magnified beyond it: do them by parts.
        chunk_seconds: About how much work one task holds, in seconds.
        track: Show this run in MLflow.
        chunks_at_once: How many tasks run side by side. More than 1 helps where there are cores or memory to spare.
        may_be_empty: A folder without any image is no failure; for scheduled runs.
    """
    settings = {
        "folder": absolute("folder", folder),
        "out": absolute("out", out),
        "model": model,
        "diameter": diameter,
        "pixel_size": pixel_size,
        "channel": channel,
        "tta": tta,
        "pages": pages,
        "series": series or None,
        "level": level,
        "time": time,
        "include": include,
        "exclude": exclude,
        "group": group or None,
        "limit": limit,
        "force": force,
        "geojson": geojson,
        "device": device,
        "engine": engine,
        "threads": threads,
        "skip": skip,
        "max_failed_fraction": max_failed_fraction,
        "max_megapixels": max_megapixels,
        "whole_megapixels": whole_megapixels,
        "chunk_seconds": chunk_seconds,
        "track": track,
    }
    return run_segmentation(build_config(SegmentConfig, settings, "segment-folder"), chunks_at_once, may_be_empty)


def segment_config(config: SegmentConfig) -> SegmentSummary:
    """The flow from the command line: its summary, or the error that ended it."""
    folders = {"folder": config.folder.absolute(), "out": config.out.absolute()}
    texts = {"group": config.group or "", "series": config.series or ""}
    state = segment_folder_flow(**{**config.model_dump(), **folders, **texts}, return_state=True)
    answer: Any = state.result(raise_on_failure=False)
    if isinstance(answer, BaseException):
        raise answer
    summary: SegmentSummary = answer
    return summary
