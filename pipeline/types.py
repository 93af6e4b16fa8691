"""The values that every part of the pipeline speaks in.

Frozen, checked once at construction. Arrays are `(C, (Z,) Y, X)` for images, `((Z,) Y, X)` for labels,
`(K, (Z,) Y, X)` for probabilities; batches put `N` in front. 2-D is 2-D: there is no Z axis of length 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError

FORMAT_VERSION: Final = 1
Unit = Literal["px", "um", "mm"]
Split = Literal["train", "val", "test", "unlabelled"]
Pages = Literal["refuse", "stack", "channels"]  # what pages, time points or the 4th axis of a NIfTI are
Modality = Literal["fluorescence", "stained", "grey_bright", "unknown"]
Array = NDArray[Any]
Labels = NDArray[np.uint32]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """Where the pixels lie: `spacing` in ((Z,) Y, X) order in `unit`; `affine` (4x4 float64) is for writing back."""

    spacing: tuple[float, ...]
    unit: Unit = "px"
    affine: NDArray[np.float64] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ImageError(
                "geometry",
                f"spacing {self.spacing}",
                "finite numbers above 0",
                "give --pixel-size or repair the header",
            )

    @classmethod
    def pixels(cls, dimensions: int = 2) -> "Geometry":
        """The geometry of an image that says nothing about its size: one pixel is one unit."""
        return cls((1.0,) * dimensions, "px")


@dataclass(frozen=True)
class Window:
    """A box in ((Z,) Y, X) order; `stop` is exclusive."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Image:
    """Pixels `(C, (Z,) Y, X)` in the file's own dtype, alpha already dropped, with where they lie."""

    pixels: Array
    geometry: Geometry

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])


class ImageSource(Protocol):
    """An image that has been opened but not read. `shape` is `(C, (Z,) Y, X)`.

    `levels` are the spatial shapes of its pyramid, the full one first; `block` is the (rows, columns) that the file
    decodes at once: a tile, a strip, or the whole image. `read` gives a window of a level and decodes the blocks that
    it touches, keeping the last of them; windows may be asked for from several threads. `again` is the same image for
    who reads elsewhere at the same time.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    channels: tuple[str, ...]
    geometry: Geometry
    levels: tuple[tuple[int, ...], ...]
    block: tuple[int, int]

    def read(self, window: Window | None = None, level: int = 0) -> Image: ...

    def again(self) -> "ImageSource": ...


@dataclass(frozen=True)
class Case:
    """One image of a data set. `image` and `masks` are absolute paths; `masks` is empty for unlabelled images.

    `mask_kind` says how `masks` are to be read: one binary file an instance, one label image of objects, one
    of classes, one GeoJSON, or none.
    `relative` is the image's path below the data set's root, with forward slashes. `pages` is what the image is opened
    with, as the ingest was told.
    """

    id: str
    image: Path
    relative: str
    masks: tuple[Path, ...] = ()
    mask_kind: Literal["instances", "labels", "classes", "geojson", "none"] = "none"
    split: Split = "unlabelled"
    group: str = ""
    modality: Modality = "unknown"
    sha256: str = ""
    objects: int | None = None
    shape: tuple[int, ...] = ()
    pages: Pages = "refuse"


@dataclass(frozen=True)
class Finding:
    """One thing an audit found. `code` is stable and lower_snake; `severity` error means the case was left out."""

    case: str
    file: str
    code: str
    what: str
    fix: str
    severity: Literal["error", "warning", "note"] = "warning"


@dataclass(frozen=True)
class Done:
    case: str
    objects: int
    outputs: Mapping[str, str]  # path below the run folder -> sha256
    row: Mapping[str, Any]  # what images.csv says of it
    seconds: Mapping[str, float]  # stage -> seconds


@dataclass(frozen=True)
class Skipped:
    case: str
    reason: str


@dataclass(frozen=True)
class Failed:
    case: str
    stage: str
    error: str
    hint: str


Outcome = Done | Skipped | Failed


@dataclass(frozen=True)
class Chunk:
    """About 30-60 s of work: the unit that is scheduled, retried and sealed in the ledger. Paths and strings only."""

    number: int
    cases: tuple[Case, ...]


class RunChunks(Protocol):
    """How chunks are run: serially here, as Prefect tasks in `flows`. Yields results as they are finished."""

    def __call__(self, work: Callable[[Chunk], list[Outcome]], chunks: Sequence[Chunk]) -> Iterator[list[Outcome]]: ...


def run_serially(work: Callable[[Chunk], list[Outcome]], chunks: Sequence[Chunk]) -> Iterator[list[Outcome]]:
    """The default `RunChunks`: one after the other, in this process."""
    for chunk in chunks:
        yield work(chunk)


@dataclass(frozen=True)
class Event:
    """Something a long job tells whoever watches: `done` of `total` in `stage`, with numbers worth showing."""

    stage: str
    done: int
    total: int
    fields: Mapping[str, float | int | str] = field(default_factory=dict)


Watch = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """The `Watch` of a job nobody looks at."""
