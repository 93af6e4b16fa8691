"""What a run has to do: which images, which of them are proven done, in which chunks, at what cost.

Nothing is written here, so that `--dry-run` is exactly this.
"""

import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.config import ImageOptions, SegmentConfig
from pipeline.data.files import sha256_file
from pipeline.data.images import WANTED
from pipeline.errors import EmptyError, ImageError, InputError, UsageError
from pipeline.inference.tile_sizes import LARGEST_CORE, remembered_core
from pipeline.model.told_size import KnownSize
from pipeline.results.ledger import Ledger, why_redo
from pipeline.results.lock import PRODUCTS, STATE
from pipeline.results.names import label_stems
from pipeline.runs.case_products import label_paths
from pipeline.runs.check_room import check_room
from pipeline.runs.model_record import RECORD, class_key, read_record
from pipeline.runs.plan_chunks import OVERHEAD, Planned, cut_chunks, learn_speed
from pipeline.runs.plan_image import is_alone, plan_image
from pipeline.runs.plan_large import CORE
from pipeline.runs.planned_run import Plan
from pipeline.runs.scratch import name_work, scratch_folder
from pipeline.runs.segment_case import open_asked
from pipeline.runs.segment_chunk import LEDGER, SHARDS
from pipeline.types import Case, Skipped

RESULTS_VERSION = 3  # raised when the same image, model and settings would give other numbers than before
LARGE_FILE = 1 << 18  # bytes; smaller files' headers are not read only to plan


def locate_model(name: str) -> tuple[Path, str]:
    """Folder and digest of a model. Raises ModelError or TrackingError where there is none."""
    folder = shipped.FOLDER / name.removeprefix("shipped:") if name.startswith("shipped:") else Path(name)
    if not (folder / RECORD).is_file():
        from pipeline.runs.find_model import find_any_model

        folder = find_any_model(name)
    return folder.resolve(), sha256_file(folder / RECORD)


def digest_settings(config: SegmentConfig) -> str:
    """Digest of the settings that decide what comes out for an image."""
    kept = config.model_dump(include={*ImageOptions.model_fields, "level", "whole_megapixels"})
    kept |= {"engine": which_engine(config), "version": RESULTS_VERSION}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def which_engine(config: SegmentConfig) -> str:
    """What `--engine auto` comes to: engines differ in their last digits, so a folder is not mixed from two."""
    if config.engine != "auto":
        return config.engine
    if config.device not in ("auto", "cpu") or importlib.util.find_spec("openvino") is None:
        return "torch"
    return "openvino" if config.device == "cpu" or not _has_accelerator() else "torch"


def _has_accelerator() -> bool:
    """Whether `--device auto` is a GPU here; torch, slow to load, is asked only where there may be one."""
    if sys.platform == "linux" and not any(Path("/dev", x).exists() for x in ("nvidiactl", "nvmap", "kfd", "dxg")):
        return False
    from pipeline.inference.engines import choose_device

    return choose_device("auto") != "cpu"


def absolute(config: SegmentConfig) -> SegmentConfig:
    """The config with whole paths, as workers elsewhere need them."""
    return config.model_copy(update={"folder": config.folder.absolute(), "out": config.out.absolute()})


def check_folders(config: SegmentConfig) -> None:
    """Raise InputError where the input is no folder, and UsageError where the results would lie among the images."""
    folder, out = config.folder.resolve(), config.out.resolve()
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there"
        raise InputError(f"folder {config.folder}", came, "a folder of images", "check the path")
    if folder == out or any(folder.is_relative_to(out / name) for name in PRODUCTS):
        raise UsageError(f"--out {config.out}", "the folder of the images", "another one", "give another --out")


@dataclass(frozen=True)
class Found:
    """What there is to plan with: the model's folder and digest, the images asked for, the others of the folder."""

    model: Path
    digest: str
    asked: list[Case]
    rest: list[Case]


def find_work(config: SegmentConfig) -> Found:
    """Model and images, nothing written yet. Raises InputError, UsageError, ModelError or TrackingError."""
    check_folders(config)
    model, digest = locate_model(config.model)
    KnownSize.of(read_record(model)).check(config)
    return Found(model, digest, *_find_cases(config))


def _find_cases(config: SegmentConfig) -> tuple[list[Case], list[Case]]:
    from pipeline.data.layouts import discover_images

    chosen = bool(config.include or config.exclude or config.limit)
    found = discover_images(config.folder, config.include, config.exclude, None, config.group)
    asked = list(found)[: config.limit]
    if not asked:
        raise EmptyError(
            f"folder {config.folder}",
            "no image that is asked for",
            f"images ({WANTED})",
            "check the folder, --include and --exclude",
        )
    if not chosen:
        return asked, []
    names = {case.relative for case in asked}
    whole = discover_images(config.folder, (), (), None, config.group)
    return asked, [case for case in whole if case.relative not in names]


def _plan(case: Case, reason: str, config: SegmentConfig, record: Mapping[str, Any], core: int, exact: bool) -> Planned:
    """From the header; for small files, unless `exact`, from the size at a byte a pixel. 0 for what does not open."""
    try:
        size = case.image.stat().st_size
        if size < LARGE_FILE and not exact and case.image.is_file():
            return Planned(case, reason, size / 1e6)
        opened = open_asked(case.image, config)
        cost, zoom = plan_image(opened, config, record, core)
    except (ImageError, OSError) as error:
        return Planned(case, reason, 0.0, refused=str(error))
    alone = cost.streamed or is_alone(opened.shape, zoom)
    return Planned(case, reason, math.prod(opened.shape[1:]) / 1e6, cost, zoom, alone)


def _judged(planned: Planned, out: Path, model: str, settings: str) -> Planned:
    """With why it is refused where the machine has no room for it; an earlier run may have left a part of the work."""
    if planned.cost is None:
        return planned
    begun = planned.cost.streamed and any((out / STATE / "large").glob("*"))
    work = name_work(planned.case, sha256_file(planned.case.image), model, settings) if begun else ""
    try:
        check_room(planned.cost, out, scratch_folder(out, work) if begun else None)
    except ImageError as error:
        return replace(planned, refused=str(error))
    return planned


def _core(config: SegmentConfig, digest: str) -> int:
    """The side of a tile: what was measured on this processor, else a usual one."""
    if config.device not in ("auto", "cpu"):
        return LARGEST_CORE
    return remembered_core(digest, which_engine(config), config.threads) or CORE


def broken_shards(ledger: Ledger, out: Path) -> set[str]:
    """Table shards that entries stand on and that are missing or changed: their images count as not done."""
    needed = {entry.shard for entry in ledger.entries.values() if entry.shard}
    return {
        name for name in needed if name not in ledger.shards or not ledger.shards[name].unchanged(out / SHARDS / name)
    }


def _stems(cases: Sequence[Case], ledger: Ledger, out: Path) -> dict[str, str]:
    known = {path: entry.stem for path, entry in ledger.entries.items()}
    return label_stems(cases, known, (out / STATE.upper()).exists())


def _reasons(
    cases: Iterable[Case], ledger: Ledger, config: SegmentConfig, folder: Path, model: str, settings: str
) -> dict[str, str]:
    broken, classes = broken_shards(ledger, config.out), bool(class_key(read_record(folder)))
    reasons = {}
    for case in cases:
        entry = ledger.entries.get(case.relative)
        wanted = label_paths(case, config.geojson, classes)
        reason = why_redo(entry, case.image, config.out, model, settings, wanted)
        if not reason and entry is not None and entry.shard in broken:
            reason = "its table shard is missing or changed"
        reasons[case.relative] = reason or ("forced" if config.force else "")
    return reasons


def make_plan(config: SegmentConfig, found: Found, ledger: Ledger, exact: bool = False) -> Plan:
    """Plan a run over what `ledger` has seen; `config` has whole paths. `exact` reads every header for its size."""
    digest, asked, rest = found.digest, found.asked, found.rest
    settings = digest_settings(config)
    stems = _stems([*asked, *rest], ledger, config.out)
    cases = [replace(case, id=stems[case.relative]) for case in asked]
    reasons = _reasons(cases, ledger, config, found.model, digest, settings)
    wanted = [case for case in cases if reasons[case.relative]]
    record = read_record(found.model)
    core = _core(config, digest)
    todo = tuple(_plan(case, reasons[case.relative], config, record, core, exact) for case in wanted)
    speed = learn_speed(ledger.entries.values(), digest, any(planned.zoom != 1 for planned in todo))
    return Plan(
        config=config,
        model=found.model,
        model_digest=digest,
        settings=settings,
        cases=tuple(cases),
        others=tuple(_still_true(rest, stems, ledger, config)),
        todo=todo,
        skipped=tuple(Skipped(case.relative, "proven done") for case in cases if not reasons[case.relative]),
        chunks=cut_chunks(todo, config.chunk_seconds, speed),
        seconds=sum(OVERHEAD + planned.work / speed for planned in todo),
    )


def _still_true(rest: Sequence[Case], stems: Mapping[str, str], ledger: Ledger, config: SegmentConfig) -> list[Case]:
    """Images that this run was not asked for, but whose results of an earlier one still hold."""
    broken = broken_shards(ledger, config.out) if rest else set()
    kept = []
    for case in rest:
        entry = ledger.entries.get(case.relative)
        if entry is None or entry.shard in broken:
            continue
        failed = entry.status == "failed" and entry.source.unchanged(case.image)
        if failed or not why_redo(entry, case.image, config.out, entry.model, entry.settings, ()):
            kept.append(replace(case, id=stems[case.relative]))
    return kept


def plan_segmentation(config: SegmentConfig) -> Plan:
    """What `segment` would do now, with estimates; writes nothing (`--dry-run`)."""
    config = absolute(config)
    plan = make_plan(config, find_work(config), Ledger(config.out / LEDGER), exact=True)
    todo = tuple(_judged(planned, config.out, plan.model_digest, plan.settings) for planned in plan.todo)
    return replace(plan, todo=todo, engine=name_engine(config, read_record(plan.model)))


def name_engine(config: SegmentConfig, record: Mapping[str, Any]) -> str:
    """What will run the network, and on what. Raises UsageError for a device that torch does not know."""
    from pipeline.inference.engines import choose_device

    devices = [choose_device(name.strip()) for name in config.device.split(",")]
    blended = record.get("halo") is None or bool(record.get("volume"))
    torch = devices != ["cpu"] or (config.engine == "auto" and blended)
    return f"{'torch' if torch else which_engine(config)} on {', '.join(devices)}"
