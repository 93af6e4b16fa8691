"""From what an archive holds to a folder that maskline reads as it stands; pixels of images are never touched.

Each way takes the folder that was unpacked and the folder to fill, and moves files from one to the other. It raises
LayoutError where the archive is not the one it is for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np

from pipeline.data.classes import read_class_map
from pipeline.data.files import atomic_write
from pipeline.data.images import open_image, split_suffix
from pipeline.errors import LayoutError, MaskError
from pipeline.types import Array, Event, Watch, unwatched


@dataclass(frozen=True)
class Bowl:
    """The Data Science Bowl's folders, ID/images beside ID/masks, wherever they begin; they go below stage1_train/."""

    def fill(self, source: Path, target: Path, watch: Watch = unwatched) -> None:
        cases = sorted(path.parent for path in source.rglob("images") if (path.parent / "masks").is_dir())
        if not cases:
            _wrong(source, "folders ID/images and ID/masks")
        (target / "stage1_train").mkdir(parents=True)
        for number, case in enumerate(cases, start=1):
            case.rename(target / "stage1_train" / case.name)
            watch(Event("arrange", number, len(cases)))


@dataclass(frozen=True)
class Folder:
    """All of the folder `name`, wherever it is in the archive, as it is."""

    name: str

    def fill(self, source: Path, target: Path, watch: Watch = unwatched) -> None:
        found = sorted((path for path in source.rglob(self.name) if path.is_dir()), key=lambda path: len(path.parts))
        if not found:
            _wrong(source, f"a folder {self.name}")
        target.mkdir(parents=True)
        paths = sorted(found[0].iterdir())
        for number, path in enumerate(paths, start=1):
            path.rename(target / path.name)
            watch(Event("arrange", number, len(paths)))


@dataclass(frozen=True)
class Pairs:
    """Images and labels found by what their paths end in, put into images/ and labels/ under one name.

    The brackets of both patterns give the name (joined by /). Labels are moved as they are, or their numbers are
    replaced (`values`), taken from the red channel (`red`), or 1 above `threshold` and 0 elsewhere.
    """

    images: str
    labels: str
    values: Mapping[int, int] = field(default_factory=dict)
    red: bool = False
    threshold: int | None = None

    def fill(self, source: Path, target: Path, watch: Watch = unwatched) -> None:
        images, labels = _named(source, self.images), _named(source, self.labels)
        pairs = sorted(images.keys() & labels.keys())
        if not pairs:
            _wrong(source, f"images ({self.images}) with labels ({self.labels})")
        for number, name in enumerate(pairs, start=1):
            self._move(images[name], target / "images" / f"{name}{split_suffix(images[name].name)[1]}")
            goal = target / "labels" / f"{name}{split_suffix(labels[name].name)[1]}"
            if self.values or self.red or self.threshold is not None:
                _write_png(goal, self._classes(labels[name]))
            else:
                self._move(labels[name], goal)
            watch(Event("arrange", number, len(pairs)))

    @staticmethod
    def _move(path: Path, goal: Path) -> None:
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.rename(goal)

    def _classes(self, path: Path) -> Array:
        """The class numbers `(Y, X)` uint8 of a label image."""
        opened = open_image(path)
        if self.red:
            return np.asarray(opened.read().pixels[0], np.uint8)
        if self.threshold is not None:
            return np.asarray(opened.read().pixels.max(axis=0) > self.threshold, np.uint8)
        numbers = read_class_map(path, opened.shape[1:])
        strange = sorted(set(np.unique(numbers).tolist()) - self.values.keys())
        if strange:
            known = ", ".join(map(str, self.values))
            raise MaskError(str(path), f"number {strange[0]}", f"one of {known}", "fetch the archive again")
        table = np.array([self.values.get(number, 0) for number in range(max(self.values) + 1)], np.uint8)
        return table[numbers]


@dataclass(frozen=True)
class Slices:
    """A stack of slices with a stack of labels, and one without: a PNG a slice, pixels as they are."""

    volume: str
    labels: str
    test: str

    def fill(self, source: Path, target: Path, watch: Watch = unwatched) -> None:
        places = {"train/image": self.volume, "train/label": self.labels, "test_unlabelled": self.test}
        stacks = {}
        for place, pattern in places.items():
            found = [path for path in _files(source) if re.search(pattern, path.relative_to(source).as_posix())]
            if not found:
                _wrong(source, f"a file {pattern}")
            stacks[place] = open_image(found[0], pages="stack").read().pixels[0]
        if stacks["train/image"].shape != stacks["train/label"].shape:
            _wrong(source, "as many slices of labels as of images, of one size")
        planes = [(f"{place}/{number}.png", plane) for place in stacks for number, plane in enumerate(stacks[place])]
        for number, (name, plane) in enumerate(planes, start=1):
            _write_png(target / name, plane)
            watch(Event("arrange", number, len(planes)))


Arrangement: TypeAlias = Bowl | Folder | Pairs | Slices


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _named(source: Path, pattern: str) -> dict[str, Path]:
    """The files whose path matches, by what the brackets of the pattern found."""
    found = ((re.search(pattern, path.relative_to(source).as_posix()), path) for path in _files(source))
    return {"/".join(match.groups()): path for match, path in found if match}


def _write_png(path: Path, plane: Array) -> None:
    import cv2

    atomic_write(path, bytes(cv2.imencode(".png", plane)[1].tobytes()), durable=False)


def _wrong(source: Path, wanted: str) -> NoReturn:
    files = _files(source)
    example = f", such as {files[0].relative_to(source).as_posix()}" if files else ""
    raise LayoutError("the archive", f"{len(files)} files{example}", wanted, "check that it is the set's own archive")
