"""The names below a folder, read once, and a digest of what stat says of them: no file is opened."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.images import IMAGE_SUFFIXES
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
        tree.files[directory] = sorted(entry.name for entry in files)
        tree.folders[directory] = sorted(folders)
        waiting += [tree.join(directory, name) for name in folders]
    if stamp:
        tree.stamp = hashlib.sha256("\n\n".join(sorted(stamps)).encode(errors="surrogateescape")).hexdigest()
    return tree


def _sort(entries: Iterator["os.DirEntry[str]"], below: bool) -> tuple[list["os.DirEntry[str]"], list[str]]:
    """The files and the names of the folders; nothing of a folder below that a run of maskline wrote."""
    files, folders = [], []
    for entry in entries:
        if entry.name.startswith("."):
            if below and entry.name == RUN_FOLDER:
                return [], []
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
                lines.append(f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}")
            except OSError:  # a link that leads nowhere: reading it will say so
                lines.append(f"{entry.name}\0missing")
    return "\n".join([directory, *sorted(lines)])


def counts(name: str) -> bool:
    """Whether a file of this name may be an image, a mask or an outline.

    >>> counts("a.PNG"), counts("a.geojson"), counts("a.txt")
    (True, True, False)
    """
    return name.lower().endswith(_COUNTED)
