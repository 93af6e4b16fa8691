"""How label files are called: `plate/a1.png` -> `plate/a1`, and never two inputs into one file."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from pipeline.data.images import is_image_name, split_suffix
from pipeline.types import Case

_KINDS = {(".nii", ".nii.gz"): ".nii.gz", (".zarr", ".ome.zarr"): ".ome.zarr"}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def label_suffix(path: str, classes: bool = False) -> str:
    """What a label file of this input ends in: NIfTI gives NIfTI, OME-Zarr gives OME-Zarr, everything else TIFF.

    A folder, which has no image's suffix, is a DICOM series, whose affine NIfTI keeps. Class maps of pictures are PNG,
    with a palette.

    >>> label_suffix("a/b.png"), label_suffix("c.nii"), label_suffix("d.NII.GZ"), label_suffix("e.zarr")
    ('.tif', '.nii.gz', '.nii.gz', '.ome.zarr')
    >>> label_suffix("a/b.JPG", classes=True), label_suffix("c.nii", classes=True)
    ('.png', '.nii.gz')
    >>> label_suffix("patient/1.2.840.4"), label_suffix("patient/slice.dcm")
    ('.nii.gz', '.tif')
    """
    name = PurePosixPath(path).name
    suffix = split_suffix(name)[1].lower()
    if not is_image_name(name):
        return ".nii.gz"
    if classes and suffix in _PICTURES:
        return ".png"
    return next((written for read, written in _KINDS.items() if suffix in read), ".tif")


def fold_name(name: str, ignores_case: bool) -> str:
    """Two names with the same answer are one file on a file system that ignores case (and Unicode form)."""
    return unicodedata.normalize("NFC", name).casefold() if ignores_case else name


def label_stems(cases: Sequence[Case], known: Mapping[str, str], ignores_case: bool = False) -> dict[str, str]:
    """Label stem of every case, by its relative path; `known` are the stems that the ledger has given out.

    A known input keeps its stem. A newcomer takes its own (`Case.id`) if it is free; where another input differs only
    by suffix it keeps its suffix (`a1.jpg` -> `a1.jpg.tif`). Newcomers are served in the order of their paths, so that
    the answer does not depend on which of them was finished first. Series that had TIFF labels once are newcomers where
    a NIfTI has their name.
    """
    kept: dict[str, str] = {}
    taken: set[str] = set()
    for path in sorted(known, key=lambda path: (not is_image_name(path), path)):
        name = fold_name(known[path] + label_suffix(path), ignores_case)
        if is_image_name(path) or name not in taken:
            kept[path] = known[path]
            taken.add(name)
    stems = {case.relative: kept[case.relative] for case in cases if case.relative in kept}
    for case in sorted((case for case in cases if case.relative not in kept), key=lambda case: case.relative):
        suffix = label_suffix(case.relative)
        stem, number = case.id, 1
        while fold_name(stem + suffix, ignores_case) in taken:
            own = case.id + split_suffix(PurePosixPath(case.relative).name)[1]
            stem, number = (own if number == 1 else f"{own}.{number}"), number + 1
        taken.add(fold_name(stem + suffix, ignores_case))
        stems[case.relative] = stem
    return stems
