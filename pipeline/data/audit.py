"""Read one case, all of it: what its image and its masks are, and everything that is wrong with them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.classes import read_class_map
from pipeline.data.duplicates import Features, features
from pipeline.data.files import sha256_file
from pipeline.data.images import open_image
from pipeline.data.labels import merge_geojson, read_labels
from pipeline.data.masks import Audit, Digest, Merged, audit_shape, merge_masks
from pipeline.data.modality import classify_modality
from pipeline.data.sources import Missing
from pipeline.errors import InputError, MaskError
from pipeline.types import Case, Finding, Image, Labels

MANY = 2**24  # beyond this, label numbers are not used as indices
_HINT = "copy or export the file again; the case was left out"


@dataclass(frozen=True)
class Audited:
    """A case as it was found. `labels` is None where the case is left out; `mode` is how its image stores colour."""

    case: Case
    findings: tuple[Finding, ...]
    labels: Labels | None = None
    features: Features | None = None
    mode: str = ""
    encodings: tuple[tuple[str, int], ...] = ()

    @property
    def kept(self) -> bool:
        return self.features is not None


def content_digest(case: Case) -> str:
    """sha256 (hex) over the bytes of the image, then of its masks by name: `cat image masks/* | sha256sum`.

    Raises InputError where a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in (case.image, *sorted(case.masks, key=lambda mask: mask.name)):
        digest.update(_bytes(path))
    return digest.hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return bytes.fromhex(sha256_file(path)) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise InputError(str(path), str(error), "a file that can be read", "check the path and its rights") from error


def audit_case(case: Case) -> Audited:
    """Read the image and every mask of a case; nothing is raised for what is wrong with them, it is found."""
    try:
        source = open_image(case.image, pages=case.pages)
        image = source.read()
        digest = hashlib.sha256(_bytes(case.image))
    except InputError as error:
        return _left_out(case, Finding(case.id, case.relative, "image_unreadable", error.came, _HINT, "error"))
    try:
        merged = merge_case(case, image.spatial_shape, digest)
    except InputError as error:
        name = case.masks[0].name if case.masks else ""
        code = "mask_wrong_size" if error.came.startswith("shape (") else "mask_unreadable"
        return _left_out(
            case, Finding(case.id, name, code, f"{error.came}, wanted {error.wanted}", error.hint, "error")
        )
    of_image = (*_audit_missing(case, source.missing), *_audit_image(case, image))
    findings = (*of_image, *merged.findings, *_audit_count(case, merged))
    if any(finding.severity == "error" for finding in findings):
        return Audited(case, findings)
    objects = None if case.mask_kind == "none" else merged.objects
    known = replace(
        case, sha256=digest.hexdigest(), shape=image.spatial_shape, objects=objects, modality=classify_modality(image)
    )
    mode = f"{source.mode or 'grey'} {source.dtype}"
    return Audited(known, findings, merged.labels, features(case.id, image), mode, tuple(merged.encodings.items()))


def _left_out(case: Case, finding: Finding) -> Audited:
    """A case that cannot be used, and a row for the masks that go with it."""
    findings = [finding]
    if case.masks and finding.code == "image_unreadable":
        what = f"{len(case.masks)} masks belong to an image that cannot be read"
        folder = case.masks[0].parent.name if case.mask_kind == "instances" else case.masks[0].name
        findings.append(Finding(case.id, folder, "masks_left_out", what, "repair the image", "error"))
    return Audited(case, tuple(findings))


def _audit_missing(case: Case, missing: Missing) -> list[Finding]:
    if not missing.count:
        return []
    hint = "export it again; the masks there have no image"
    return [Finding(case.id, case.relative, "missing_tiles", missing.note, hint)]


def _audit_image(case: Case, image: Image) -> list[Finding]:
    if image.pixels.min() < image.pixels.max():
        return []
    what = f"every pixel is {image.pixels.flat[0]}"
    return [Finding(case.id, case.relative, "image_flat", what, "check the exposure and the export")]


def _audit_count(case: Case, merged: Merged) -> list[Finding]:
    """A case without objects is a case like others, unless that is so because its masks could not be used."""
    if merged.objects or case.mask_kind == "none":
        return []
    unusable = [f for f in merged.findings if f.code not in ("mask_empty", "mask_alpha", "mask_colour")]
    if unusable:
        what = f"none of its {len(case.masks)} masks can be used"
        return [
            Finding(case.id, case.relative, "masks_unusable", what, "repair the masks; the case was left out", "error")
        ]
    what = "has no object"
    return [
        Finding(
            case.id,
            case.relative,
            "no_objects",
            what,
            "nothing, if that is right: it is kept as an empty image",
            "note",
        )
    ]


def merge_case(case: Case, shape: tuple[int, ...], digest: Digest | None = None) -> Merged:
    """The label image ((Z,) Y, X) of a case, from whatever kind of masks it has, with findings.

    Raises MaskError or ImageError where the one file that holds the labels cannot be used.
    """
    if case.mask_kind == "instances":
        return merge_masks(case.masks, shape, case.id, digest)
    if digest is not None and case.masks:
        digest.update(_bytes(case.masks[0]))
    if case.mask_kind == "geojson":
        return merge_geojson(case.masks[0], shape, case.id)
    if case.mask_kind == "labels":
        return _from_label_image(case.masks[0], shape, case.id)
    if case.mask_kind == "classes":
        classes = read_class_map(case.masks[0], shape)
        return Merged(classes, (), _count(classes), {})
    return Merged(np.zeros(shape, np.uint32), (), 0, {})


def _from_label_image(path: Path, shape: tuple[int, ...], case: str) -> Merged:
    labels, _ = read_labels(path)
    if labels.shape != shape:
        wanted = f"its image's {shape}"
        raise MaskError(
            f"case {case}, {path.name}", f"shape {labels.shape}", wanted, "re-export the mask at the image's size"
        )
    audit = Audit(case)
    if labels.ndim == 2:
        labels = _separate(path.name, labels, audit)
        _audit_objects(path.name, labels, audit)
    return Merged(labels, tuple(audit.findings), _count(labels), {})


def _count(labels: Labels) -> int:
    """How many numbers other than 0 there are."""
    if labels.max(initial=0) < MANY:
        return int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
    return len(np.unique(labels[labels > 0]))


def _separate(name: str, labels: Labels, audit: Audit) -> Labels:
    """A label image that holds one value beside 0 is a binary mask: each 8-connected piece is an object."""
    high = int(labels.max(initial=0))
    if high not in (1, 255) or (high == 255 and len(np.unique(labels)) > 2):
        return labels
    count, pieces = cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=8)
    if high == 1 and count <= 2:
        return labels
    code = "mask_0_255" if high == 255 else "mask_binary"
    what = f"holds 0 and {high} only: a mask, not one number an object"
    fix = f"number the objects; the {count - 1} connected pieces were taken as objects, touching ones as one"
    audit.note(name, code, what, fix)
    return np.asarray(pieces, np.uint32)


def _audit_objects(name: str, labels: Labels, audit: Audit) -> None:
    """Pieces and holes of every object of a label image, each in its box."""
    from scipy.ndimage import find_objects

    if labels.max(initial=0) >= MANY:
        audit.note(
            name,
            "labels_large",
            f"numbers objects up to {labels.max()}",
            "renumber them; pieces and holes were not looked for",
        )
        return
    for label, box in enumerate(find_objects(labels.astype(np.int32)), start=1):
        if box is not None:
            audit_shape(f"{name}, object {label}", labels[box] == label, audit)


def mixed_modes(audited: Sequence[Audited]) -> list[Finding]:
    """A row for each way of storing colour beyond the most frequent one, where there are several."""
    modes: dict[str, list[str]] = {}
    for item in audited:
        if item.kept:
            modes.setdefault(item.mode, []).append(item.case.relative)
    most = max(modes, key=lambda mode: len(modes[mode]), default="")
    return [
        Finding(
            "",
            names[0],
            "mixed_modes",
            f"{len(names)} images are {mode}, {len(modes[most])} are {most}: {', '.join(names[:3])}"
            + " ..." * (len(names) > 3),
            "nothing, if that is meant: alpha is dropped and each channel is normalised on its own",
        )
        for mode, names in sorted(modes.items())
        if mode != most
    ]


def mask_values(audited: Sequence[Audited]) -> list[Finding]:
    """How the masks write "object": one row for the data set, a warning where they do not agree."""
    counts: dict[str, int] = {}
    for item in audited:
        for key, count in item.encodings:
            counts[key] = counts.get(key, 0) + count
    if not counts or list(counts) == ["0/1"]:
        return []
    what = ", ".join(f"{count} masks are {key}" for key, count in sorted(counts.items()))
    mixed = len(counts) > 1
    fix = (
        "nothing: every value above 0 is the object"
        if not mixed
        else "export all masks alike; every value above 0 is the object"
    )
    return [Finding("", "", "mask_values", what, fix, "warning" if mixed else "note")]
