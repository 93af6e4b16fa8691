"""The names below a folder, read once, and a digest of what stat says of them.

No file is opened but the headers of DICOM files, mostly two a folder: a folder of slices is one image, and so is a
.zarr folder.
"""

import hashlib
import os
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.files import folder_stat
from pipeline.data.images import IMAGE_SUFFIXES, is_image_name
from pipeline.errors import LayoutError

GEOJSON = ".geojson"
RUN_FOLDER = ".maskline"  # stands in every folder that a run writes to
_COUNTED = (*IMAGE_SUFFIXES, GEOJSON)


@dataclass
class Tree:
    """Names below a folder: relative directory ("" is the folder) -> sorted file names, sorted directory names."""

    root: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    stamp: str = ""  # sha256 over what stat says of every image and mask, where that was asked for
    is_run: bool = False  # a run wrote into the folder itself, beside its images
    series: set[str] = field(default_factory=set)  # relative folders that are one DICOM image each

    def is_image(self, directory: str, name: str) -> bool:
        """Whether what is called so, among the files of a directory, is taken for an image."""
        return is_image_name(name) or self.join(directory, name) in self.series

    def join(self, directory: str, name: str) -> str:
        return f"{directory}/{name}" if directory else name

    def walk(self, directory: str = "") -> Iterator[tuple[str, str]]:
        """(directory, file name) at any depth below `directory`."""
        for name in self.files[directory]:
            yield directory, name
        for name in self.folders[directory]:
            yield from self.walk(self.join(directory, name))


def scan(folder: Path, stamp: bool = False) -> Tree:
    """Read the names below `folder`, and with `stamp` what stat says of every image and mask.

    Raises LayoutError where the folder is missing, no folder, or unreadable.
    """
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there"
        raise LayoutError(str(folder), came, "a folder of images", "check the path")
    tree = Tree(folder, is_run=(folder / RUN_FOLDER).is_dir())
    stamps = []
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(f"{folder}/{directory}" if directory else folder) as entries:
                files, folders = _sort(entries, bool(directory))
                if stamp:
                    stamps.append(_stamp(directory, files))
        except OSError as error:
            raise LayoutError(
                str(folder / directory), str(error), "a folder that can be read", "check its rights"
            ) from error
        names = sorted(entry.name for entry in files)
        if directory and not folders and is_slices(folder / directory, names):
            _take_series(tree, directory)
            continue
        tree.files[directory], tree.folders[directory] = names, sorted(folders)
        waiting += [tree.join(directory, name) for name in folders]
    if stamp:
        tree.stamp = hashlib.sha256("\n\n".join(sorted(stamps)).encode(errors="surrogateescape")).hexdigest()
    return tree


def is_slices(folder: Path, names: Sequence[str]) -> bool:
    """Whether the files of a folder are the slices of a DICOM series, not images each (X-rays, say)."""
    images = [name for name in names if counts(name)]
    if len(images) < 2 or not all(name.lower().endswith(".dcm") for name in images):
        return False
    from pipeline.data.dicoms import share_a_series

    return share_a_series([folder / name for name in images])


def _take_series(tree: Tree, directory: str) -> None:
    """The folder becomes a file of the one above."""
    parent, _, name = directory.rpartition("/")
    tree.series.add(directory)
    tree.folders[parent].remove(name)
    insort(tree.files[parent], name)


def is_single(folder: Path) -> bool:
    """Whether a folder is itself one image: an OME-Zarr, or the slices of a DICOM series."""
    if folder.name.lower().endswith(".zarr") or any((folder / name).is_file() for name in (".zattrs", "zarr.json")):
        return folder.is_dir()
    try:
        entries = list(folder.iterdir())
    except OSError:
        return False  # scanning it says what is wrong
    return is_slices(folder, sorted(p.name for p in entries)) and not any(p.is_dir() for p in entries)


def _sort(entries: Iterator["os.DirEntry[str]"], below: bool) -> tuple[list["os.DirEntry[str]"], list[str]]:
    """The files and the names of the folders; nothing of a folder below that a run of maskline wrote."""
    files, folders = [], []
    for entry in entries:
        if entry.name.startswith("."):
            if below and entry.name == RUN_FOLDER:
                return [], []
        elif entry.is_dir() and entry.name.lower().endswith(".zarr"):
            files.append(entry)
        elif entry.is_dir():
            if not (entry.is_symlink() and _leads_back(entry.path)):
                folders.append(entry.name)
        else:
            files.append(entry)
    return files, folders


def _leads_back(link: str) -> bool:
    """Whether a link to a folder leads to one that it lies in: following it would never end."""
    target, here = Path(link).resolve(), Path(link).parent.resolve()
    return here.is_relative_to(target)


def _stamp(directory: str, files: Sequence["os.DirEntry[str]"]) -> str:
    """Name, size, times and inode of every image and mask of a folder."""
    lines = []
    for entry in files:
        if counts(entry.name):
            try:
                stat = entry.stat()
                told = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
                told = folder_stat(entry.path) if entry.is_dir() else told
                lines.append("\0".join(map(str, (entry.name, *told))))
            except OSError:  # a link that leads nowhere: reading it will say so
                lines.append(f"{entry.name}\0missing")
    return "\n".join([directory, *sorted(lines)])


def counts(name: str) -> bool:
    """Whether a file of this name may be an image, a mask or an outline.

    >>> counts("a.PNG"), counts("a.geojson"), counts("a.txt")
    (True, True, False)
    """
    return name.lower().endswith(_COUNTED)
