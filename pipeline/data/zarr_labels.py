"""Label images as OME-Zarr: a folder of chunks that can be read alone, every one of them written, background too.

The bytes depend on the labels and the multiscale alone. An absent chunk is therefore a lost one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import move_into_place, remove, temporary_name
from pipeline.data.images import split_suffix
from pipeline.data.multiscales import Multiscale, sampled
from pipeline.errors import OutputError
from pipeline.types import Array, Labels

TILE = 512  # px of a chunk along Y and X
_COMPRESSORS: dict[str, dict[str, Any]] = {
    "0.4": {"id": "zlib", "level": 6},  # what every reader of Zarr v2 has
    "0.5": {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
}


def _create(folder: Path, multiscale: Multiscale, dtype: Any) -> list[Any]:
    """An empty array a level, in a new folder; what lay there before is gone."""
    import zarr

    remove(folder)
    old = multiscale.version == "0.4"
    group = zarr.open_group(folder, mode="w-", zarr_format=2 if old else 3)
    options: dict[str, Any] = {} if old else {"dimension_names": [str(axis["name"]) for axis in multiscale.axes]}
    return [
        group.create_array(
            str(number),
            shape=level.shape,
            chunks=_chunks(level.shape),
            dtype=dtype,
            compressors=_COMPRESSORS[multiscale.version],
            fill_value=0,
            chunk_key_encoding={"name": "v2" if old else "default", "separator": "/"},
            config={"write_empty_chunks": True},
            **options,
        )
        for number, level in enumerate(multiscale.levels)
    ]


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Tiles; of small volumes, several planes of them.

    >>> _chunks((3000, 700)), _chunks((64, 128, 128)), _chunks((64, 1024, 128))
    ((512, 512), (16, 128, 128), (4, 512, 128))
    """
    height, width = (min(TILE, side) for side in shape[-2:])
    return (*(min(planes, max(1, TILE * TILE // (height * width))) for planes in shape[:-2]), height, width)


def _describe(folder: Path, multiscale: Multiscale, name: str) -> None:
    """Say what the arrays are; until then they are no image."""
    import zarr

    zarr.open_group(folder, mode="r+").attrs.put(multiscale.attributes(split_suffix(name)[0]))


def _check_shape(where: str, shape: tuple[int, ...], multiscale: Multiscale) -> None:
    if shape != multiscale.shape:
        wanted = f"those of its image, {multiscale.shape}"
        raise OutputError(where, f"labels of shape {shape}", wanted, "use its own labels")


def write_zarr_labels(path: Path, labels: Array, multiscale: Multiscale) -> str:
    """Write `((Z,) Y, X)` labels and every level of their pyramid; returns the folder's sha256 (see `sha256_file`).

    Whole or not at all: they lie beside under a temporary name until they are. Raises OutputError for labels that are
    not of the multiscale's shape, and where the folder cannot be written.
    """
    _check_shape(str(path), labels.shape, multiscale)
    multiscale, temporary = multiscale.deepened(), temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, array in enumerate(_create(temporary, multiscale, labels.dtype)):
            places = (sampled(full, small, number) for full, small in zip(labels.shape, array.shape, strict=True))
            array[...] = labels[np.ix_(*places)] if number else labels
        _describe(temporary, multiscale, path.name)
        return move_into_place(temporary, path)
    except OSError as error:
        wanted, hint = "a folder that can be written", "check the folder, its rights and the free disk"
        raise OutputError(str(path), str(error), wanted, hint) from error
    finally:
        if temporary.is_dir():
            remove(temporary)


class ZarrTiles:
    """Tiles of a 2-D OME-Zarr label image: each is one chunk, compressed and in its file at once.

    See `pipeline.data.pyramids.Tiles`. Raises OutputError for an image of another shape than the multiscale's.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], multiscale: Multiscale) -> None:
        _check_shape("label pyramid", shape, multiscale)
        self.folder, self.multiscale = folder, multiscale.deepened()
        self.shapes = [level.shape for level in self.multiscale.levels]
        self.arrays = _create(folder, self.multiscale, np.uint32)

    def keep(self, level: int, row: int, column: int, tile: Labels) -> None:
        """Write the tile `(TILE, TILE)` at this place of the grid; what lies beyond the image is left out."""
        array, top, left = self.arrays[level], row * TILE, column * TILE
        bottom, right = min(array.shape[0], top + TILE), min(array.shape[1], left + TILE)
        array[top:bottom, left:right] = tile[: bottom - top, : right - left]

    def finish(self, name: str) -> Path:
        """The whole label image."""
        _describe(self.folder, self.multiscale, name)
        return self.folder

    def close(self) -> None:
        """No file is open."""
