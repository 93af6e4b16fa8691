"""Images in one folder, their masks in another: which folders belong together, and which file to which."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pipeline.data.images import is_image_name, split_suffix
from pipeline.data.tree import GEOJSON, Tree
from pipeline.errors import LayoutError
from pipeline.types import Case

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "imagestr")
MASK_FOLDERS = ("labels", "masks", "label", "mask", "annotations", "ground_truth", "gt", "labelstr", "geojson")
MASKS_OF = ("annot", "_annot", "_labels", "_masks")  # train/ and trainannot/, as CamVid has it; train_masks/
NIFTI = (".nii", ".nii.gz")
_CHANNEL = re.compile(r"_(\d{4})$")


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` among `names`, whatever the case."""
    lower = {name.lower(): name for name in names}
    return next((lower[w] for w in wanted if w in lower), None)


def is_mask_folder(name: str) -> bool:
    """Whether a folder is called what folders of masks are.

    >>> is_mask_folder("Labels"), is_mask_folder("valannot"), is_mask_folder("val")
    (True, True, False)
    """
    return name.lower() in MASK_FOLDERS or name.lower().endswith(MASKS_OF)


def find_pairs(tree: Tree) -> list[tuple[str, str]]:
    """(images folder, masks folder) of every directory that holds both."""
    pairs = ((directory, pair) for directory, folders in tree.folders.items() for pair in _pairs(folders))
    return sorted((tree.join(directory, images), tree.join(directory, masks)) for directory, (images, masks) in pairs)


def _pairs(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """images and labels by their own names, or any folder beside one that is called after it.

    >>> list(_pairs(["images", "masks"])), list(_pairs(["test", "train", "trainannot"]))
    ([('images', 'masks')], [('train', 'trainannot')])
    """
    images, masks = _named(folders, IMAGE_FOLDERS), _named(folders, MASK_FOLDERS)
    if images and masks:
        yield images, masks
        return
    for name in folders:
        if own := _named(folders, [name.lower() + ending for ending in MASKS_OF]):
            yield name, own


def _mask_index(tree: Tree, folder: str) -> dict[str, str]:
    """Mask path below `folder` without its suffix -> path below the root. GeoJSON wins over a label image beside it."""
    index: dict[str, str] = {}
    for directory, name in tree.walk(folder):
        stem, suffix = split_suffix(name)
        if is_image_name(name) or suffix.lower() == GEOJSON:
            inner = tree.join(directory.removeprefix(folder).lstrip("/"), stem)
            if inner not in index or suffix.lower() == GEOJSON:
                index[inner] = tree.join(directory, name)
    return index


def mask_names(inner: str, name: str, nifti: bool) -> list[str]:
    """What the mask of image `name` in the sub-folder `inner` may be called, without suffix."""
    stem = split_suffix(name)[0]
    names = [stem, name, f"{stem}_mask", f"{stem}_label", f"{stem}_labels", f"{stem}_masks"]
    if nifti and (channel := _CHANNEL.search(stem)):
        names.append(stem[: channel.start()])
    return [f"{inner}/{n}" if inner else n for n in names]


def pair_cases(tree: Tree, images: str, masks: str) -> list[Case]:
    """The cases of one images folder and its masks folder."""
    index = _mask_index(tree, masks)
    cases = []
    for directory, name in tree.walk(images):
        if not tree.is_image(directory, name):
            continue
        nifti = split_suffix(name)[1].lower() in NIFTI
        inner = directory.removeprefix(images).lstrip("/")
        mask = next((index[c] for c in mask_names(inner, name, nifti) if c in index), None)
        _refuse_channels(tree, directory, name, nifti)
        cases.append(make_case(tree, tree.join(directory, name), mask))
    return cases


def make_case(tree: Tree, relative: str, mask: str | None) -> Case:
    """The case of an image and its label image or outlines, if it has any; both are paths below the tree's root."""
    identity = relative if relative in tree.series else split_suffix(relative)[0]
    if mask is None:
        return Case(identity, tree.root / relative, relative)
    kind: Literal["geojson", "labels"] = "geojson" if mask.lower().endswith(GEOJSON) else "labels"
    return Case(identity, tree.root / relative, relative, (tree.root / mask,), kind)


def _refuse_channels(tree: Tree, directory: str, name: str, nifti: bool) -> None:
    """Raise LayoutError for nnU-Net's second channel: a case is one file."""
    stem, suffix = split_suffix(name)
    channel = _CHANNEL.search(stem) if nifti else None
    if channel and channel[1] != "0000" and f"{stem[: channel.start()]}_0000{suffix}" in tree.files[directory]:
        where = str(tree.root / directory / name)
        raise LayoutError(where, "a second channel file", "one file a case", "stack the channels into one 4-D file")


def cases_beside(tree: Tree) -> list[Case]:
    """Images with a GeoJSON of the same stem in the same folder."""
    cases = []
    for directory, name in tree.walk():
        if not tree.is_image(directory, name):
            continue
        names = tree.files[directory]
        mask = next((m for m in (split_suffix(name)[0] + GEOJSON, name + GEOJSON) if m in names), None)
        cases.append(make_case(tree, tree.join(directory, name), tree.join(directory, mask) if mask else None))
    return cases
