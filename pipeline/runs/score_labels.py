"""Score label files that exist already, whoever made them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.data.files import walk_files
from pipeline.data.images import IMAGE_SUFFIXES, split_suffix
from pipeline.data.ingest import load_case
from pipeline.data.labels import read_geojson, read_labels
from pipeline.data.layouts import discover_cases
from pipeline.data.manifest import read_manifest
from pipeline.data.modality import classify_modality
from pipeline.errors import InputError, LayoutError, MaskError, MasklineError
from pipeline.runs.evaluate_classes import score_class_maps
from pipeline.runs.score_windows import large_truth, modality_of, score_windows
from pipeline.scoring.metrics import Scores, match
from pipeline.scoring.present import write_scores
from pipeline.scoring.summary import CaseScore, summarise
from pipeline.types import Case, Event, Labels, Modality, Watch, unwatched

_SUFFIXES = (*IMAGE_SUFFIXES, ".geojson")


def score_folder(
    predicted: Path,
    truth: Path,
    *,
    out: Path | None = None,
    split: str = "all",
    bootstrap: int = 1000,
    masks: Literal["instances", "classes"] = "instances",
    whole_megapixels: float | None = None,
    ignore: int = 255,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Score the label files below `predicted` against a manifest, a labelled folder or a folder of label images.

    Parameters
    ----------
    predicted : Path
        A results folder of `maskline segment` or `evaluate` (its `labels/` is taken), or any folder of label images or
        GeoJSON outlines, named like the images: `plate/a1.tif` or `plate/a1.png.tif` for `plate/a1.png`.
    truth : Path
        Its `unlabelled` cases are passed over. `split` chooses a part of a manifest.
    masks : what the numbers of a folder's label images are; a manifest says it itself.
    whole_megapixels : float, optional
        Label images that are larger are scored by windows, with the same numbers; see `large_truth` for the default.
    ignore : pixels of the truth with this class number do not count.
    out : Path, optional
        Where to write `scores.json` and `scores.csv`.

    Returns
    -------
    dict
        What `summarise` (of class maps `summarise_classes`) gives. A case without a file counts as an empty prediction
        and is named in `missing`; one whose
        file does not fit its image, or cannot be read, is left out of the numbers and named in `errors`;
        `unexpected` counts the files that no case claims.

    Raises
    ------
    InputError
        There is nothing to score: no labelled case, no label file, or none that belongs to any case.
    """
    cases = find_truth(truth, split, masks)
    files = find_labels(predicted)
    claimed = _claim(cases, files)
    if not any(claimed.values()):
        example = f"{cases[0].id}.tif"
        came = f"{sum(map(len, files.values()))} files, of no case of {truth}"
        raise InputError(str(predicted), came, f"label files such as {example}", "check both folders, and the names")
    if any(case.mask_kind == "classes" for case in cases):
        return score_class_maps(cases, claimed, ignore=ignore, out=out, bootstrap=bootstrap, watch=watch)
    per_image = []
    for number, case in enumerate(cases, start=1):
        per_image.append(_score(case, claimed[case.relative], whole_megapixels))
        watch(Event("score", number, len(cases)))
    used = {path for paths in claimed.values() for path in paths}
    unexpected = sum(path not in used for paths in files.values() for path in paths)
    scores = summarise(per_image, bootstrap) | {
        "predicted": str(predicted),
        "truth": str(truth),
        "split": split,
        "unexpected": unexpected,
    }
    if out is not None:
        write_scores(out, scores, per_image)
    return scores


@dataclass(frozen=True)
class Truth:
    """The true labels of a case, and the kind of picture it is."""

    labels: Labels
    modality: Modality


def read_truth(case: Case) -> Truth:
    """The true labels; raises MasklineError where image or masks cannot be read or have changed."""
    if case.image in case.masks:  # a folder of label images alone
        return Truth(read_labels(case.image)[0], case.modality)
    image, labels = load_case(case)
    return Truth(labels, classify_modality(image) if case.modality == "unknown" else case.modality)


def find_truth(truth: Path, split: str, masks: Literal["instances", "classes"] = "instances") -> tuple[Case, ...]:
    """The labelled cases of a manifest's split or of a folder; raises InputError where there are none."""
    if truth.is_dir():
        if split != "all":
            raise InputError(str(truth), f"split {split}", "a manifest, which has splits", "give the manifest CSV")
        cases = _labelled(discover_all(truth)) or _label_images(truth)
    elif truth.exists():
        cases = _labelled(read_manifest(truth).split(split))
    else:
        raise InputError(str(truth), "nothing there", "a manifest CSV or a folder of true labels", "check the path")
    if masks == "classes":
        cases = tuple(replace(case, mask_kind="classes") if case.mask_kind == "labels" else case for case in cases)
    if not cases:
        raise InputError(
            str(truth), f"no labelled image (split {split})", "one at least", "check the path and the split"
        )
    return cases


def discover_all(folder: Path) -> tuple[Case, ...]:
    """The cases of a folder of any layout; none where no layout is recognised."""
    try:
        return discover_cases(folder)[1]
    except LayoutError:
        return ()


def _labelled(cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.mask_kind != "none")


def _label_images(folder: Path) -> tuple[Case, ...]:
    """A folder of label images alone: each is a case, its own truth."""
    root = label_root(folder)
    named = sorted(
        (path.relative_to(root).as_posix(), path) for paths in find_labels(folder).values() for path in paths
    )
    return tuple(
        Case(split_suffix(name)[0], path, name, (path,), "labels") for name, path in named if path.suffix != ".geojson"
    )


def label_root(folder: Path) -> Path:
    """Where the label files of a results folder lie; any other folder is its own root."""
    return folder / "labels" if (folder / "labels").is_dir() else folder


def find_labels(folder: Path) -> Mapping[str, list[Path]]:
    """Label files below a folder by their path without suffix; hidden folders are passed over. Raises InputError."""
    if not folder.is_dir():
        raise InputError(str(folder), "no folder", "a folder of label files", "check the path")
    root = label_root(folder)
    found = defaultdict(list)
    for path in sorted(walk_files(root)):
        relative = path.relative_to(root)
        if (
            path.name.lower().endswith(_SUFFIXES)
            and not any(p.startswith(".") for p in relative.parts)
            and path.exists()
        ):
            found[split_suffix(relative.as_posix())[0]].append(path)
    if not found:
        raise InputError(str(root), "no label file", ", ".join(_SUFFIXES), "check the path")
    return found


def _claim(cases: Sequence[Case], files: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The files that each case may mean, by its relative path.

    A file is named like the image with its suffix kept, else like the case's id; where folders differ (labels of
    `data/images` against `data`), by the end of that path which no other case has.
    """
    shared = Counter(end for case in cases for end in {*_ends(case.relative), *_ends(case.id)})
    claims = {}
    for case in cases:
        names = [case.relative, case.id]
        names += [end for name in names for end in _ends(name) if shared[end] == 1]
        claims[case.relative] = next((files[name] for name in names if name in files), [])
    return claims


def _ends(path: str) -> list[str]:
    """A path and its ends, longest first.

    >>> _ends("plate/images/a1")
    ['plate/images/a1', 'images/a1', 'a1']
    """
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _score(case: Case, files: Sequence[Path], whole_megapixels: float | None) -> CaseScore:
    try:
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise MaskError(f"case {case.id}", f"{len(files)} label files ({names})", "one", "remove the others")
        outlined = bool(files) and files[0].suffix.lower() == ".geojson"  # drawn whole, whatever its size
        large = None if outlined else large_truth(case, whole_megapixels)
        if large is not None:
            counts = score_windows(case, large, files[0] if files else None)
            return CaseScore(case.id, counts, modality_of(case), case.group, missing=not files)
        truth = read_truth(case)
        labels = _read(files[0], truth.labels) if files else truth.labels * 0
        return CaseScore(case.id, match(truth.labels, labels), truth.modality, case.group, missing=not files)
    except MasklineError as error:
        return failed_case(case, error)


def _read(path: Path, truth: Labels) -> Labels:
    labels = read_geojson(path, truth.shape) if path.suffix.lower() == ".geojson" else read_labels(path)[0]
    if labels.shape != truth.shape:
        hint = "save the labels at the image's own size"
        raise MaskError(str(path), f"shape {labels.shape}", f"its truth's {truth.shape}", hint)
    return labels


def failed_case(case: Case, error: MasklineError) -> CaseScore:
    """The row of a case that cannot be scored; it names the case."""
    where = "" if case.id in error.message else f"case {case.id}, "
    return CaseScore(case.id, Scores(), case.modality, case.group, error=f"{where}{error.message}", hint=error.hint)
