"""The manifest: one CSV row a case, with its split, its group and what the image was when it was ingested.

The first line names the format, the layout and the root, so that the file says by itself how to be read:

    # maskline manifest format_version=1 layout=dsb root=$MASKLINE_DATA/dsb2018/stage1_train
    case,image,masks,mask_kind,split,group,modality,height,width,objects,sha256

Where the ingest was told what pages, or the 4th axis of a NIfTI, are, `pages=channels` (or `stack`) follows the layout.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pipeline.config import IngestConfig
from pipeline.data.files import atomic_write
from pipeline.errors import InputError, ManifestError
from pipeline.types import FORMAT_VERSION, Case, Modality, Pages, Split

COLUMNS = ("case", "image", "masks", "mask_kind", "split", "group", "modality", "height", "width", "objects", "sha256")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "mask_kind": ("instances", "labels", "classes", "geojson", "none"),
    "split": get_args(Split),
    "modality": get_args(Modality),
}
VARIABLE = "MASKLINE_DATA"
HEADER = re.compile(r"# maskline manifest format_version=(\d+) layout=(\S+)(?: pages=(stack|channels))? root=(.+)")


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set below `root` (absolute); `path` is the CSV it was read from, if it was."""

    cases: tuple[Case, ...]
    root: Path
    layout: str
    path: Path | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over columns and rows as they stand in the CSV; the root is left out, so data may move."""
        return hashlib.sha256(_table(self).encode()).hexdigest()

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of one split, in the manifest's order; `all` gives every labelled one."""
        if name != "all" and name not in CHOICES["split"]:
            raise ManifestError(
                f"split {name}", "no such split", f"{', '.join(CHOICES['split'])} or all", "check the name"
            )
        return tuple(c for c in self.cases if (c.split != "unlabelled" if name == "all" else c.split == name))


def data_folder() -> Path:
    """Where data sets lie: `$MASKLINE_DATA`, by default `../shared/data` from the current folder."""
    return Path(os.environ.get(VARIABLE) or "../shared/data").expanduser().absolute()


def read_manifest(path: Path, *, check_files: bool = True) -> Manifest:
    """Read a manifest CSV.

    Parameters
    ----------
    path : Path
        The CSV. Its root may start with `$MASKLINE_DATA`; a relative root is relative to the CSV's folder.
    check_files : bool
        Whether the images and masks must be there. Without it, `FOLDER/*` stands for instance masks that are not.

    Raises
    ------
    ManifestError
        The file cannot be read, is no manifest, is of a later format, has a wrong value, or names missing files.
    """
    path = Path(path).absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(str(path), str(error), "a readable UTF-8 CSV file", "check the path") from None
    rows = list(csv.reader(io.StringIO(text, newline="")))
    layout, pages, root = _read_header(rows[0][0] if rows and rows[0] else "", path)
    columns = tuple(rows[1][: len(COLUMNS)]) if len(rows) > 1 else ()
    if columns != COLUMNS:
        raise ManifestError(f"{path}, line 2", ",".join(columns) or "nothing", ",".join(COLUMNS), "restore the header")
    cases = [_read_row(row, root, pages, f"{path}, row {n}") for n, row in enumerate(rows[2:], 1) if any(row)]
    _refuse_twins((case.id for case in cases), path)
    if check_files:
        _refuse_missing(cases, path)
    return Manifest(tuple(cases), root, layout, path)


def write_manifest(path: Path, manifest: Manifest) -> str:
    """Write the CSV, whole or not at all, and return the manifest's digest.

    The root is written as `$MASKLINE_DATA/...` when it lies there, relative when it lies in the CSV's own folder, and
    absolute otherwise.
    """
    path = Path(path).absolute()
    _refuse_twins((case.id for case in manifest.cases), path)
    pages = next((f" pages={case.pages}" for case in manifest.cases if case.pages != "refuse"), "")
    about = f"format_version={FORMAT_VERSION} layout={manifest.layout}{pages} root={_write_root(manifest.root, path)}"
    title = f"# maskline manifest {about}"
    if len(title.splitlines()) > 1:
        raise ManifestError(str(path), "a root with a line break in it", "one line", "rename the folder")
    atomic_write(path, (_line([title]) + _table(manifest)).encode())
    return manifest.digest


def load_data(data: Path, masks: Literal["instances", "classes"] = "instances", pages: Pages = "refuse") -> Manifest:
    """FOLDER|MANIFEST: a `.csv` is read, a folder is ingested in memory with the defaults, its label images as `masks`.

    `pages` is what its images are opened with; of a manifest, where it is not `refuse`, in place of what that says.

    Raises
    ------
    InputError
        There is nothing at `data`. ManifestError and LayoutError come from reading what is there.
    """
    if data.is_dir():
        from pipeline.data.ingest import ingest  # ingest itself writes manifests

        return ingest(IngestConfig(folder=data, manifest=data / "manifest.csv", masks=masks, pages=pages)).manifest
    if not data.exists():
        raise InputError(str(data), "nothing there", "a data folder or a manifest CSV", "check the path")
    manifest = read_manifest(data)
    if pages == "refuse":
        return manifest
    return replace(manifest, cases=tuple(replace(case, pages=pages) for case in manifest.cases))


def _read_header(title: str, path: Path) -> tuple[str, Pages, Path]:
    found = HEADER.fullmatch(title)
    if not found:
        raise ManifestError(
            f"{path}, line 1", repr(title[:80]), "'# maskline manifest format_version=...'", "ingest the folder again"
        )
    version, layout, said, root = found.groups()
    pages = cast(Pages, said or "refuse")  # the pattern lets nothing else in
    if int(version) != FORMAT_VERSION:
        raise ManifestError(
            str(path), f"format_version {version}", str(FORMAT_VERSION), "update maskline or ingest again"
        )
    if root == f"${VARIABLE}" or root.startswith(f"${VARIABLE}/"):
        return layout, pages, Path(os.path.normpath(data_folder() / root[len(VARIABLE) + 2 :]))
    return layout, pages, Path(os.path.normpath(path.parent / root))


def _write_root(root: Path, path: Path) -> str:
    root = Path(os.path.normpath(root.absolute()))
    for folder, prefix in ((Path(os.path.normpath(data_folder())), f"${VARIABLE}/"), (path.parent, "./")):
        if root.is_relative_to(folder):
            return f"{prefix}{root.relative_to(folder).as_posix()}"
    return root.as_posix()


def _read_row(row: list[str], root: Path, pages: Pages, where: str) -> Case:
    if len(row) < len(COLUMNS) or any(row[len(COLUMNS) :]):
        raise ManifestError(where, f"{len(row)} values", f"{len(COLUMNS)}", "restore the row or ingest again")
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    for name, allowed in CHOICES.items():
        if values[name] not in allowed:
            raise ManifestError(f"{where}, {name}", repr(values[name]), " | ".join(allowed), "correct the value")
    if not values["case"] or not values["image"]:
        raise ManifestError(where, "an empty case or image", "both", "restore the row or ingest again")
    height, width, objects = (_number(values[name], f"{where}, {name}") for name in ("height", "width", "objects"))
    return Case(
        id=values["case"],
        image=root / values["image"],
        relative=values["image"],
        masks=_read_masks(root / values["masks"], values["mask_kind"]) if values["masks"] else (),
        mask_kind=values["mask_kind"],
        split=values["split"],
        group=values["group"],
        modality=values["modality"],
        sha256=values["sha256"],
        objects=objects,
        shape=() if height is None or width is None else (height, width),
        pages=pages,
    )


def _number(text: str, where: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ManifestError(where, repr(text), "a whole number or nothing", "correct the value")
    return int(text)


def _read_masks(masks: Path, kind: str) -> tuple[Path, ...]:
    """The mask files a row names: all that are in a folder of instances, sorted by name, else the one file."""
    if kind != "instances":
        return (masks,)
    try:
        names = sorted(entry.name for entry in os.scandir(masks) if not entry.name.startswith(".") and entry.is_file())
    except OSError:
        return (masks / "*",)
    return tuple(masks / name for name in names)


def _refuse_twins(ids: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for case in ids:
        if case in seen:
            raise ManifestError(str(path), f"case {case!r} twice", "each case once", "rename one or remove the row")
        seen.add(case)


def _refuse_missing(cases: Iterable[Case], path: Path) -> None:
    """Every image must be there, and its mask or folder of masks."""
    for case in cases:
        missing = [file for file in (case.image, *case.masks[:1]) if not file.exists()]
        if missing:
            hint = f"set {VARIABLE} to where the data lie, or ingest the folder again"
            raise ManifestError(f"{path}, case {case.id}", f"no file {missing[0]}", "every file it names", hint)


def _table(manifest: Manifest) -> str:
    return _line(COLUMNS) + "".join(_line(_row(case, manifest.root)) for case in manifest.cases)


def _row(case: Case, root: Path) -> list[str]:
    height, width = case.shape[-2:] if len(case.shape) >= 2 else ("", "")
    objects = "" if case.objects is None else case.objects
    masks = _masks_column(case, root)
    about = (case.mask_kind, case.split, case.group, case.modality, height, width, objects, case.sha256)
    return [str(value) for value in (case.id, case.relative, masks, *about)]


def _masks_column(case: Case, root: Path) -> str:
    if not case.masks:
        return ""
    places = {mask.parent for mask in case.masks} if case.mask_kind == "instances" else set(case.masks)
    if len(places) > 1:
        wanted = "one folder" if case.mask_kind == "instances" else "one mask file"
        raise ManifestError(
            f"case {case.id}", f"masks in {len(places)} places", wanted, "give each case one place for masks"
        )
    return Path(os.path.relpath(places.pop(), root)).as_posix()


def _line(values: Iterable[str]) -> str:
    """One CSV line, quoted only where it must be, ended by a line feed on every platform."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
