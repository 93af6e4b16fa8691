"""OME-Zarr (NGFF 0.4 in Zarr v2, 0.5 in Zarr v3): axes, units, pyramids and channel names as its metadata states.

A chunk that is absent holds the array's fill value, as Zarr has it, and is noted; where there is no fill value (null),
it is missing. One that is there but empty is refused before anything is decoded, one that is cut short when it is.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.blocks import Grid, Quad
from pipeline.data.choices import Choice, Roles, choose_roles, pick_series
from pipeline.data.multiscales import Level, Multiscale, Transforms, pick_transforms
from pipeline.data.sources import BROKEN, FileSource, Missing, check_claim, check_grid, kept_dtype, stated_geometry
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry

_HINT = "copy or export the folder again"
_UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4}
_CHUNK = re.compile(r"(c\.)?\d+(\.\d+)*")  # the last part of its path


def open_zarr(path: Path, choice: Choice) -> FileSource:
    """An OME-Zarr image as `(C, (Z,) Y, X)`, with its pyramid; of several, `choice.series` takes one."""
    import zarr

    where = str(path)
    inner, multiscale, about = _choose(path, choice)
    try:
        names = [str(dataset["path"]) for dataset in multiscale["datasets"]]
        axes = _axes(where, multiscale)
        arrays = [zarr.open_array(path / inner / name, mode="r") for name in names]
        scales = [_scale(multiscale, dataset, len(axes)) for dataset in multiscale["datasets"]]
    except BROKEN as error:
        raise ImageError(where, f"damaged metadata ({error!r})", "an OME-Zarr image", _HINT) from error
    _check_arrays(where, arrays, axes)
    roles = choose_roles(where, dict(zip(axes, arrays[0].shape, strict=True)) | {"Y": 1, "X": 1}, choice, volume=True)
    levels = [_Level(path / inner / name, array, axes, roles) for name, array in zip(names, arrays, strict=True)]
    grids = tuple(level.grid() for level in levels)
    check_grid(where, grids[0], choice.max_megapixels)
    kept, units = [a for a in axes if a in "YX" or a == roles.stack], _units(multiscale, axes)
    labels = _labels(about)
    return FileSource(
        path=path,
        axes="CZYX" if roles.stack else "CYX",
        grids=grids,
        geometries=tuple(_geometry(where, scale, axes, kept, units) for scale in scales),
        channels=labels if len(labels) == grids[0].shape[0] else (),
        mode="grey" if grids[0].shape[0] == 1 else "channels",
        multiscale=_stated(where, multiscale, levels, sorted(kept, key="ZYX".find)),
        absent=tuple(level.check() for level in levels),
        max_megapixels=choice.max_megapixels,
    )


def _attributes(folder: Path) -> dict[str, Any]:
    """What a group says of itself: the "ome" part of zarr.json (0.5), or .zattrs (0.4); else empty."""
    for name in ("zarr.json", ".zattrs"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            stated = json.loads(file.read_text(encoding="utf-8"))
            return dict(stated.get("attributes", {}).get("ome", {}) if name == "zarr.json" else stated)
        except BROKEN as error:
            raise ImageError(str(file), f"damaged metadata ({error})", "JSON", _HINT) from error
    return {}


def _choose(path: Path, choice: Choice) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The group of the image that is meant, below `path`; its multiscale, and all it says of itself."""
    about = _attributes(path)
    inner = _inner(path, about)
    if inner:
        chosen = inner[pick_series(str(path), inner, [()] * len(inner), choice)]
        about, choice = _attributes(path / chosen), Choice()
    else:
        chosen = ""
    scales = about.get("multiscales") or []
    if not isinstance(scales, list) or not scales:
        came = "a Zarr folder without multiscales metadata"
        raise ImageError(str(path), came, "OME-Zarr (NGFF 0.4 or 0.5)", "export the image as OME-Zarr")
    names = [str(scale.get("name", number)) for number, scale in enumerate(scales)]
    return chosen, scales[pick_series(str(path), names, [()] * len(names), choice)], about


def _inner(path: Path, about: Mapping[str, Any]) -> list[str]:
    """The images below a folder that is none itself: numbered by bioformats2raw, or the fields of a plate."""
    if "plate" in about:
        wells = [str(well["path"]) for well in about["plate"].get("wells", [])]
        return [f"{w}/{i['path']}" for w in wells for i in _attributes(path / w).get("well", {}).get("images", [])]
    if "multiscales" in about:
        return []
    return sorted((p.name for p in path.iterdir() if p.is_dir() and p.name.isdecimal()), key=int)


def _axes(where: str, multiscale: Mapping[str, Any]) -> str:
    """The axes as letters, in the order of the arrays; raises ImageError for those that are no image's."""
    stated = multiscale["axes"]
    names = [str(axis["name"] if isinstance(axis, dict) else axis).upper() for axis in stated]
    if not {"Y", "X"} <= set(names) or len(set(names)) < len(names) or any(len(name) != 1 for name in names):
        raise ImageError(where, f"axes {', '.join(names)}", "y and x, and z, c, t", "export the image as OME-Zarr")
    return "".join(names)


def _scale(multiscale: Mapping[str, Any], dataset: Mapping[str, Any], axes: int) -> list[float]:
    """How large a pixel of a level is along each axis: its own scale times that of the whole pyramid."""
    scale = np.ones(axes)
    for stated in (dataset, multiscale):
        for transform in stated.get("coordinateTransformations", ()):
            if transform["type"] == "scale":
                scale = scale * np.asarray(transform["scale"], np.float64)
    return [float(value) for value in scale]


def _units(multiscale: Mapping[str, Any], axes: str) -> dict[str, float]:
    stated = (axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale["axes"])
    return {axis: _UNITS[unit] for axis, unit in zip(axes, stated, strict=True) if unit in _UNITS}


def _geometry(where: str, scale: list[float], axes: str, kept: list[str], units: Mapping[str, float]) -> Geometry:
    order = sorted(kept, key="ZYX".find)
    stated = stated_geometry(where, [scale[axes.index(axis)] * units.get(axis, 1.0) for axis in order], "um")
    return stated if all(axis in units for axis in order) else Geometry.pixels(len(order))


def _stated(where: str, multiscale: Mapping[str, Any], levels: Sequence["_Level"], kept: list[str]) -> Multiscale:
    """What is stated of the axes that are `kept`, which is what labels of the image state too."""
    axes = levels[0].axes
    places = [axes.index(axis) for axis in kept]
    named = ({"name": axis.lower(), "type": "space"} for axis in axes)
    stated = [a if isinstance(a, dict) else n for a, n in zip(multiscale["axes"], named, strict=True)]
    try:
        shared = pick_transforms(multiscale.get("coordinateTransformations"), places, len(axes))
        transforms = [
            pick_transforms(dataset.get("coordinateTransformations"), places, len(axes))
            for dataset in multiscale["datasets"]
        ]
    except BROKEN as error:
        raise ImageError(where, f"damaged transformations ({error!r})", "numbers", _HINT) from error
    unscaled: Transforms = ({"type": "scale", "scale": [1.0] * len(places)},)
    return Multiscale(
        "0.4" if levels[0].array.metadata.zarr_format == 2 else "0.5",
        tuple(stated[place] for place in places),
        tuple(
            Level(tuple(int(level.array.shape[place]) for place in places), of_level or unscaled)
            for level, of_level in zip(levels, transforms, strict=True)
        ),
        shared,
    )


def _labels(about: Mapping[str, Any]) -> tuple[str, ...]:
    channels = (about.get("omero") or {}).get("channels") or []
    labels = tuple(str(channel.get("label", "")) for channel in channels)
    return labels if all(labels) else ()


def _check_arrays(where: str, arrays: list[Any], axes: str) -> None:
    if not arrays:
        raise ImageError(where, "a pyramid without a level", "at least one", _HINT)
    for array in arrays:
        if len(array.shape) != len(axes) or array.dtype != arrays[0].dtype:
            came = f"a level of shape {tuple(array.shape)}, {array.dtype}"
            raise ImageError(where, came, f"the axes {axes} in {arrays[0].dtype}", _HINT)
    kept_dtype(np.dtype(arrays[0].dtype), where)


@dataclass(frozen=True)
class _Level:
    """One array of a pyramid; `axes` are those of the array, `roles` say what becomes of them."""

    path: Path
    array: Any
    axes: str
    roles: Roles

    @property
    def chunks(self) -> dict[str, int]:
        return {axis: int(n) for axis, n in zip(self.axes, self.array.chunks, strict=True)}

    @property
    def files(self) -> tuple[int, ...]:
        """The shape of what lies in a file: a chunk, or a shard of chunks."""
        return tuple(int(n) for n in (self.array.shards or self.array.chunks))

    def grid(self) -> Grid:
        lengths = dict(zip(self.axes, map(int, self.array.shape), strict=True))
        stack, several = self.roles.stack or "", self.roles.channels
        one = several[0] if len(several) == 1 else ""
        shape = (prod(lengths[a] for a in several), lengths.get(stack, 1), lengths["Y"], lengths["X"])
        block = (self.chunks.get(one, 1), self.chunks.get(stack, 1), self.chunks["Y"], self.chunks["X"])
        return Grid(shape, block, np.dtype(self.array.dtype), self._loader(shape, block, one))

    def _loader(self, shape: Quad, block: Quad, one: str) -> Callable[[Quad], Array]:
        lengths = dict(zip(self.axes, self.array.shape, strict=True))
        several = self.roles.channels if not one else ()
        order = [a for a in (one, self.roles.stack, "Y", "X") if a]

        def load(index: Quad) -> Array:
            first = [i * n for i, n in zip(index, block, strict=True)]
            spans = [slice(f, min(f + b, n)) for f, b, n in zip(first, block, shape, strict=True)]
            at: dict[str, int | slice] = dict(self.roles.fixed)
            at |= {"Y": spans[2], "X": spans[3]}
            at |= {self.roles.stack: spans[1]} if self.roles.stack else {}
            at |= {one: spans[0]} if one else {}
            places = np.unravel_index(index[0], [lengths[a] for a in several]) if several else ()
            at |= {axis: int(place) for axis, place in zip(several, places, strict=True)}
            pixels = self._read([at[axis] for axis in self.axes])
            left = [axis for axis in self.axes if isinstance(at[axis], slice)]
            return pixels.transpose([left.index(a) for a in order]).reshape([s.stop - s.start for s in spans])

        return load

    def _read(self, at: list[int | slice]) -> Array:
        starts = [a if isinstance(a, int) else a.start for a in at]
        name = self.array.metadata.encode_chunk_key(tuple(s // n for s, n in zip(starts, self.files, strict=True)))
        file = self.path / name
        try:
            size = file.stat().st_size if file.exists() else -1
            if size == 0 or (size < 0 and self.array.fill_value is None):
                raise ImageError(str(file), "no bytes", "a chunk, for the array has no fill value", _HINT)
            return np.asarray(self.array[tuple(at)])
        except BROKEN as error:
            raise ImageError(str(file), f"a damaged chunk ({error})", "a whole chunk", _HINT) from error

    def check(self) -> Missing:
        """Raise ImageError where the files cannot hold what the metadata claims; answers the chunks that are absent."""
        files = [ceil(n / c) for n, c in zip(self.array.shape, self.files, strict=True)]
        found, size = self._count()
        check_claim(str(self.path), prod(map(int, self.array.shape)) * self.array.dtype.itemsize, size)
        total = prod(files)
        absent = total - found
        if absent <= 0:
            return Missing(0, total)
        if self.array.fill_value is None:
            missing = next(
                name
                for at in product(*map(range, files))
                if not (self.path / (name := self.array.metadata.encode_chunk_key(at))).exists()
            )
            came = f"{absent:,} chunks that are not there, first {missing}"
            raise ImageError(str(self.path), came, "every chunk, for the array has no fill value", _HINT)
        value = self.array.fill_value
        note = f"{absent:,} of {total:,} chunks are not in the folder, read as its fill value {value}"
        return Missing(absent, total, note)

    def _count(self) -> tuple[int, int]:
        """Number and bytes of the chunk files; raises ImageError where some are empty."""
        number = size = 0
        empty: list[Path] = []
        for folder, _, names in os.walk(self.path):
            for name in filter(_CHUNK.fullmatch, names):
                here = os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - as many as chunks
                number, size = number + 1, size + here
                if not here:
                    empty.append(Path(folder, name))
        if empty:
            first = min(empty).relative_to(self.path).as_posix()
            came = f"{len(empty):,} chunk file{'s' if len(empty) > 1 else ''} of 0 bytes, first {first}"
            raise ImageError(str(self.path), came, "whole chunks", _HINT)
        return number, size
