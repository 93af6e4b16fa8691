"""What lies in a folder: which files are images, which are their masks, and what each case is called.

    dsb            ID/images/* and ID/masks/* (one binary file an object); the folder above works too
    paired         images/ beside labels/ or masks/ with the same stems, train/ beside trainannot/ (CamVid), val/ beside
                   val_masks/, or a.geojson beside a.png
    paired-nifti   the same in NIfTI, imagesTr/labelsTr and nnU-Net's _0000 included
    unlabelled     images in folders of any depth

A .zarr folder is one image, and so is a folder of DICOM slices. Names only: no file is opened but headers of DICOM.
Hidden files, and folders that a run of maskline wrote, are passed over.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pipeline.data.files import folder_stat
from pipeline.data.images import WANTED, is_image_name, split_suffix
from pipeline.data.pairs import NIFTI, cases_beside, find_pairs, make_case, mask_names, pair_cases
from pipeline.data.tree import Tree, counts, is_single, scan
from pipeline.errors import ConfigError, LayoutError
from pipeline.types import Case

Layout = Literal["dsb", "paired", "paired-nifti", "unlabelled"]
LAYOUTS: tuple[Layout, ...] = ("dsb", "paired", "paired-nifti", "unlabelled")


@dataclass(frozen=True)
class Discovered:
    """A folder's layout, the root that `Case.relative` starts from, the cases, and the images and masks left over."""

    layout: Layout
    root: Path
    cases: tuple[Case, ...]
    orphans: tuple[Path, ...] = ()  # named like an image or mask, but part of no case
    stamp: str = ""  # sha256 over what stat says of every image and mask, where that was asked for


# --- Data Science Bowl ----------------------------------------------------------------------------


def _is_dsb_case(tree: Tree, directory: str) -> bool:
    """ID/images with an image and ID/masks of other names than the image's, or no masks but named as the ID."""
    if not directory or "images" not in tree.folders[directory]:
        return False
    images = [n for n in tree.files[f"{directory}/images"] if is_image_name(n)]
    named = [split_suffix(n)[0] for n in images] == [directory.rpartition("/")[2]]
    if named or "masks" not in tree.folders[directory]:
        return named
    masks = {split_suffix(n)[0] for n in tree.files[f"{directory}/masks"]}
    return not any(split_suffix(c)[0] in masks or c in masks for n in images for c in mask_names("", n, True))


def _dsb_directories(tree: Tree) -> list[str]:
    """The case folders, one or two levels down."""
    first = tree.folders[""]
    second = [f"{a}/{b}" for a in first for b in tree.folders[a]]
    return sorted(d for d in (*first, *second) if _is_dsb_case(tree, d))


def _discover_dsb(tree: Tree) -> Discovered:
    directories = _dsb_directories(tree)
    parents = {d.rpartition("/")[0] for d in directories}
    prefix = parents.pop() + "/" if len(parents) == 1 and "" not in parents else ""
    cases = [case for directory in directories for case in _dsb_cases(tree, directory, prefix)]
    root = tree.root / prefix.rstrip("/") if prefix else tree.root
    return Discovered("dsb", root, tuple(cases))


def _dsb_cases(tree: Tree, directory: str, prefix: str) -> list[Case]:
    """One case, or one without masks for each image where there are several: whose the masks are cannot be known."""
    images = [n for n in tree.files[f"{directory}/images"] if is_image_name(n)]
    inner = directory.removeprefix(prefix)
    if len(images) > 1:
        several = [(f"{inner}/{split_suffix(n)[0]}", n) for n in images]
        return [Case(i, tree.root / directory / "images" / n, f"{inner}/images/{n}") for i, n in several]
    names = [n for n in tree.files.get(f"{directory}/masks", ()) if is_image_name(n)]
    folder = tree.root / directory / "masks"
    kind: Literal["instances", "none"] = "instances" if f"{directory}/masks" in tree.files else "none"
    masks = tuple(folder / n for n in names)
    return [Case(inner, tree.root / directory / "images" / n, f"{inner}/images/{n}", masks, kind) for n in images]


# --- paired ---------------------------------------------------------------------------------------


def _discover_paired(tree: Tree) -> Discovered:
    pairs = find_pairs(tree)
    cases = [case for images, masks in pairs for case in pair_cases(tree, images, masks)]
    if not any(case.masks for case in cases):
        cases = cases_beside(tree)
    nifti = bool(cases) and all(split_suffix(case.relative)[1].lower() in NIFTI for case in cases)
    return Discovered("paired-nifti" if nifti else "paired", tree.root, _sorted(cases))


def _sorted(cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.relative))


# --- any ------------------------------------------------------------------------------------------


def _discover_unlabelled(tree: Tree) -> Discovered:
    masks = tuple(f"{folder}/" for _, folder in find_pairs(tree))  # beside images: never images themselves
    masks += ("labels/",) if tree.is_run else ()
    paths = (tree.join(directory, name) for directory, name in tree.walk() if tree.is_image(directory, name))
    names = [path for path in paths if not path.startswith(masks)]
    return Discovered("unlabelled", tree.root, _sorted([make_case(tree, name, None) for name in names]))


def discover(folder: Path, layout: str = "auto", stamp: bool = False) -> Discovered:
    """Find the cases of a folder, detecting its layout or holding it to the one that is named.

    With `stamp`, the answer also carries a digest of what stat says of every image and mask.
    Raises LayoutError where the folder is missing, holds no image, or is not of the layout named.
    """
    folder = folder.absolute()
    if layout in ("auto", "unlabelled") and is_single(folder):
        case = Case(split_suffix(folder.name)[0], folder, folder.name)
        return Discovered("unlabelled", folder.parent, (case,), stamp=repr(folder_stat(folder)) if stamp else "")
    tree = scan(folder, stamp)
    if found := _find(tree, layout):
        return replace(found, orphans=_left_over(tree, found), stamp=tree.stamp)
    wanted = f"images ({WANTED})" if layout in ("auto", "unlabelled") else f"the layout {layout}"
    hint = "check the path, or name another layout: " + ", ".join(LAYOUTS)
    raise LayoutError(str(folder), f"{sum(map(len, tree.files.values()))} files", wanted, hint)


def _find(tree: Tree, layout: str) -> Discovered | None:
    if layout in ("auto", "dsb"):
        found = _discover_dsb(tree)
        if found.cases:
            return found
    if layout in ("auto", "paired", "paired-nifti"):
        found = _discover_paired(tree)
        if any(case.masks for case in found.cases) and layout in ("auto", found.layout):
            return found
    if layout in ("auto", "unlabelled"):
        found = _discover_unlabelled(tree)
        if found.cases:
            return found
    return None


def _left_over(tree: Tree, found: Discovered) -> tuple[Path, ...]:
    """Files named like an image or an outline that no case uses; nothing is passed over in silence."""
    names = [tree.join(directory, name) for directory, names in tree.files.items() for name in names if counts(name)]
    if len(names) == sum(1 + len(case.masks) for case in found.cases):
        return ()
    used = {str(path) for case in found.cases for path in (case.image, *case.masks)}
    return tuple(tree.root / name for name in sorted(names) if f"{tree.root}/{name}" not in used)


def detect_layout(folder: Path) -> str:
    """The layout of a folder: dsb, paired, paired-nifti or unlabelled; raises LayoutError where there is none."""
    return discover(folder).layout


def discover_cases(folder: Path, layout: str = "auto") -> tuple[str, tuple[Case, ...]]:
    """The layout and the cases of a folder, sorted, labelled or not; see `discover`."""
    found = discover(folder, layout)
    return found.layout, found.cases


def discover_images(
    folder: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    group: str | None = None,
) -> tuple[Case, ...]:
    """What `segment` runs over: the images of a folder of any layout, never the masks, sorted by relative path.

    `include` and `exclude` are globs on the relative path or the file name; `group` is a regular expression whose first
    bracket (or whole match) on the relative path becomes the case's group. Raises LayoutError or ConfigError.
    """
    pattern = compile_group(group)
    cases = [
        Case(case.id, case.image, case.relative, group=group_of(case.relative, pattern))
        for case in discover(folder).cases
        if _wanted(case.relative, include, exclude)
    ]
    return tuple(cases[:limit])


def _wanted(relative: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    names = (relative, relative.rpartition("/")[2])

    def hit(globs: Sequence[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs for name in names)

    return (not include or hit(include)) and not hit(exclude)


def compile_group(group: str | None) -> re.Pattern[str] | None:
    """The regular expression for groups; raises ConfigError where it is none."""
    try:
        return re.compile(group) if group else None
    except re.error as error:
        raise ConfigError(
            "group", f"{group!r} ({error})", "a regular expression", "correct it, for example '^([^/]+)/'"
        ) from None


def group_of(relative: str, pattern: re.Pattern[str] | None) -> str:
    """The group that a pattern finds in a relative path; "" where it finds none.

    >>> group_of("plate7/a1.png", re.compile("^([^/]+)/")), group_of("a1.png", re.compile("^plate"))
    ('plate7', '')
    """
    found = pattern.search(relative) if pattern else None
    if not found:
        return ""
    return (found[1] if found.re.groups else found[0]) or ""
