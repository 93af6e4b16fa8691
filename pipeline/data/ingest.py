"""Labelled data in: every image and every mask read, audited and accounted for, groups found, splits drawn.

A second ingest of the same files is answered from the cache: its key is made of what `stat` says of every file (path,
size, times, inode) and of the settings; what it holds is sealed by a checksum.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import IngestConfig
from pipeline.data import cache as kept
from pipeline.data.audit import Audited, audit_case, content_digest, mask_values, merge_case, mixed_modes
from pipeline.data.duplicates import Match, group
from pipeline.data.images import open_image, split_suffix
from pipeline.data.layouts import Discovered, compile_group, discover, group_of
from pipeline.data.manifest import Manifest
from pipeline.data.pairs import is_mask_folder
from pipeline.data.splits import name_groups, split_cases
from pipeline.errors import LayoutError, ManifestError
from pipeline.types import Case, Event, Finding, Image, Labels, Watch, unwatched

REVISION = 1  # raise it when the same files give another result
_RECORDED = ("id", "split", "group", "modality", "sha256", "objects", "shape", "mask_kind")


@dataclass(frozen=True)
class Ingested:
    """What an ingest answers with; `merged_groups` are the sets of near-duplicates, each with its evidence."""

    manifest: Manifest
    findings: tuple[Finding, ...]
    merged_groups: tuple[dict[str, Any], ...]
    seconds: float
    warm: bool


def ingest(config: IngestConfig, watch: Watch = unwatched) -> Ingested:
    """Read, audit and split the data set in `config.folder`; nothing is written but the cache.

    Raises LayoutError where the folder holds no data set, or none of its cases can be used; ConfigError for a bad
    `group` or fractions.
    """
    began = time.perf_counter()
    pattern = compile_group(config.group)
    found = discover(config.folder, config.layout, stamp=True)
    found = replace(found, cases=tuple(replace(case, pages=config.pages) for case in found.cases))
    folder = kept.cache_folder(config.cache)
    path = kept.summary_path(folder, _key(found, config))
    summary = kept.read_summary(path)
    warm = summary is not None
    if summary is None:
        cases = tuple(replace(case, group=group_of(case.relative, pattern)) for case in found.cases)
        if config.masks == "classes":
            cases = tuple(replace(c, mask_kind="classes") if c.mask_kind == "labels" else c for c in cases)
        summary = _ingest_cold(replace(found, cases=cases), config, folder, watch)
        kept.write_summary(path, summary)
    cases = _restore(found.cases, summary["cases"])
    findings = tuple(Finding(**row) for row in summary["findings"])
    if not cases:
        first = next((f for f in findings if f.severity == "error"), None)
        came = f"{len(found.cases)} cases, none of which can be used"
        hint = f"{first.file}: {first.what}" if first else "look at the folder"
        raise LayoutError(str(config.folder), came, "at least one image that can be read", hint)
    watch(Event("ingest", len(found.cases), len(found.cases), {"warm": int(warm)}))
    manifest = Manifest(cases, found.root, found.layout, None)
    return Ingested(manifest, findings, tuple(summary["groups"]), time.perf_counter() - began, warm)


def _key(found: Discovered, config: IngestConfig) -> str:
    """sha256 over what stat says of every file, and over every setting that changes the result."""
    asked = (config.group, config.fractions, config.seed, config.masks, config.contiguous, config.pages)
    settings = (REVISION, found.layout, str(found.root), *asked)
    return hashlib.sha256(f"{settings!r}\n{found.stamp}".encode(errors="surrogateescape")).hexdigest()


def _ingest_cold(found: Discovered, config: IngestConfig, folder: Path, watch: Watch) -> dict[str, Any]:
    """Everything anew, as the plain values that the cache keeps."""
    cases, renamed = _distinct(found.cases)
    audited = _audit_all(cases, folder, watch)
    usable = [item for item in audited if item.kept]
    sets, matches = group([item.features for item in usable if item.features])
    groups = _describe(usable, sets, matches)
    together = [set(entry["cases"]) for entry in groups]
    split = split_cases([item.case for item in usable], config.fractions, config.seed, together, config.contiguous)
    named = name_groups(split, together)
    findings = [
        *renamed,
        *_leftovers(found),
        *(finding for item in audited for finding in item.findings),
        *mixed_modes(audited),
        *mask_values(audited),
        *_duplicates(groups, {case.id: case.relative for case in cases}),
    ]
    return {
        "cases": {case.relative: {name: getattr(case, name) for name in _RECORDED} for case in named},
        "findings": [asdict(finding) for finding in findings],
        "groups": groups,
    }


def _audit_all(cases: Sequence[Case], folder: Path, watch: Watch) -> list[Audited]:
    """Audit the cases in threads (decoding lets go of the interpreter), keep the labels, report progress."""

    def work(case: Case) -> Audited:
        item = audit_case(case)
        if item.labels is not None and case.mask_kind != "none":
            kept.write_labels_cache(_kept_labels(folder, item.case), item.labels)
        return replace(item, labels=None)

    audited = []
    masks = findings = 0
    pool = ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 2)), "ingest")
    try:
        for number, item in enumerate(pool.map(work, cases), start=1):
            audited.append(item)
            masks, findings = masks + len(item.case.masks), findings + len(item.findings)
            watch(Event("ingest", number, len(cases), {"masks": masks, "findings": findings}))
    finally:
        pool.shutdown(cancel_futures=True)  # stopped by the user: no need to read the rest
    return audited


def _distinct(cases: Sequence[Case]) -> tuple[list[Case], list[Finding]]:
    """Give cases that differ by suffix only ids of their own: the later one keeps its suffix."""
    seen: set[str] = set()
    distinct, findings = [], []
    for case in cases:
        identity = case.id
        if identity in seen:
            identity = f"{case.id}{split_suffix(case.relative)[1]}"
            what = f"differs from another image by its suffix only, so its case is called {identity}"
            findings.append(
                Finding(identity, case.relative, "same_stem", what, "rename one, if they are not the same image")
            )
        seen.add(identity)
        distinct.append(replace(case, id=identity))
    return distinct, findings


def _leftovers(found: Discovered) -> list[Finding]:
    """Rows for files that no case uses, and for images that miss their masks in a labelled layout."""
    findings = []
    for path in found.orphans:
        name = path.relative_to(found.root).as_posix() if path.is_relative_to(found.root) else str(path)
        mask = any(is_mask_folder(part) for part in path.parent.parts)
        code, what = (
            ("mask_without_image", "no image belongs to it")
            if mask
            else ("file_unused", f"is no part of the layout {found.layout}")
        )
        findings.append(Finding("", name, code, what, "give both the same stem, or take it away"))
    if found.layout != "unlabelled":
        findings += [
            Finding(
                case.id, case.relative, "image_without_masks", "has no masks", "add them, or use it for segmenting only"
            )
            for case in found.cases
            if case.mask_kind == "none"
        ]
    return findings


def _describe(usable: Sequence[Audited], sets: Sequence[set[int]], matches: Sequence[Match]) -> list[dict[str, Any]]:
    """The sets of near-duplicates by case id, each with the matches that joined it."""
    names = [item.case.id for item in usable]
    where = {index: number for number, members in enumerate(sets) for index in members}
    groups: list[dict[str, Any]] = [{"cases": sorted(names[i] for i in members), "evidence": []} for members in sets]
    for match in matches:
        evidence = {"first": names[match.first], "second": names[match.second], "kind": match.kind}
        groups[where[match.first]]["evidence"].append(
            {**evidence, "score": float(match.score), "votes": int(match.votes)}
        )
    return groups


def _duplicates(groups: Sequence[dict[str, Any]], files: Mapping[str, str]) -> list[Finding]:
    """A row for every pair: identical ones are a warning, near ones a note, since the split keeps them together."""
    findings = []
    for entry in groups:
        for match in entry["evidence"]:
            exact = match["kind"] == "exact"
            what = (
                f"has the same pixels as {match['second']}"
                if exact
                else (f"shows part or all of {match['second']} ({match['kind']}, {match['score']:.2f})")
            )
            fix = "delete one; both are in one split" if exact else "nothing: both are in one split"
            code = "duplicate_exact" if exact else "duplicate_near"
            findings.append(
                Finding(match["first"], files[match["first"]], code, what, fix, "warning" if exact else "note")
            )
    return findings


def _restore(cases: Sequence[Case], recorded: dict[str, dict[str, Any]]) -> tuple[Case, ...]:
    """The discovered cases with what the ingest recorded of them; those it left out are left out."""
    restored = []
    for case in cases:
        known = recorded.get(case.relative)
        if known is not None:
            restored.append(replace(case, **{**known, "shape": tuple(known["shape"])}))
    return tuple(restored)


def _kept_labels(folder: Path, case: Case) -> Path:
    """Where a case's labels are kept: one and the same file may be read as objects and as classes."""
    return kept.labels_path(folder, case.sha256 + "-classes" * (case.mask_kind == "classes"))


def load_case(case: Case, cache: Path | None = None) -> tuple[Image, Labels]:
    """The image and the label image ((Z,) Y, X) of a case; all-zero labels where it has none.

    Labels come from the cache, and are made again where they are missing or damaged. Raises ManifestError where the
    files are not those that were ingested, and ImageError or MaskError where they cannot be read.
    """
    image = open_image(case.image, pages=case.pages).read()
    shape = image.spatial_shape
    if case.mask_kind == "none" or not case.sha256:
        return image, merge_case(case, shape).labels
    path = _kept_labels(kept.cache_folder(cache), case)
    labels = kept.read_labels_cache(path)
    if labels is None or labels.shape != shape:
        if content_digest(case) != case.sha256:
            came = "files that have changed since they were ingested"
            raise ManifestError(f"case {case.id}", came, "those the manifest describes", "ingest the folder again")
        labels = merge_case(case, shape).labels
        kept.write_labels_cache(path, labels)
    return image, labels
