"""Microscopes' own files, with the extra maskline[microscopy]: .czi (pylibCZIrw), .nd2 (nd2), .lif (liffile).

Each is opened by its maker's or the community's library, and read plane by plane (.czi by tiles of a plane). Scenes,
positions and images of a file are its series. What the tests know: .czi against files that pylibCZIrw writes, .lif
against a file made by hand after liffile's reader, .nd2 only against a stand-in with the interface of nd2.ND2File,
since nothing writes that format.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.data.blocks import Grid, Quad
from pipeline.data.choices import Choice, choose_roles, pick_series
from pipeline.data.sources import BROKEN, FileSource, check_claim, stated_geometry
from pipeline.errors import ImageError
from pipeline.types import Array, Geometry

Kind = Literal["czi", "nd2", "lif"]
_PACKAGES: dict[Kind, str] = {"czi": "pylibCZIrw", "nd2": "nd2", "lif": "liffile"}
_HINT = "copy or export the file again"
_CZI_TILE = 2048
_CZI_CACHE = 256_000_000  # bytes of decoded sub-blocks, so that neighbouring tiles do not decode them again
_CZI_TYPES = {"Gray8": np.uint8, "Gray16": np.uint16, "Gray32Float": np.float32, "Bgr24": np.uint8, "Bgr48": np.uint16}


@dataclass(frozen=True)
class Planes:
    """One image of a microscope's file, whichever library reads it.

    `plane(places, rows, columns)` gives all channels `(C, Y, X)` at places along the axes of `lengths`; `spacing` is in
    micrometres along Z, Y, X as far as the file says.
    """

    lengths: Mapping[str, int]
    channels: int
    names: tuple[str, ...]
    size: tuple[int, int]
    block: tuple[int, int]
    dtype: np.dtype[Any]
    spacing: Mapping[str, float]
    plane: Callable[[Mapping[str, int], slice, slice], Array]


def open_microscopy(path: Path, kind: Kind, choice: Choice) -> FileSource:
    """A microscope's own file as `(C, (Z,) Y, X)`; raises ImageError where the extra that reads it is not installed."""
    opened = {"czi": open_czi, "nd2": open_nd2, "lif": open_lif}[kind]
    try:
        planes = opened(path, choice)
    except ImportError as error:
        came = f"a .{kind} file, which needs the package {_PACKAGES[kind]} ({error})"
        hint = "install the extra maskline[microscopy] or export as OME-TIFF"
        raise ImageError(str(path), came, "a format that can be read", hint) from error
    except BROKEN as error:
        raise ImageError(str(path), f"a damaged .{kind} file ({error})", "a whole image", _HINT) from error
    return source_of(path, planes, choice)


def source_of(path: Path, planes: Planes, choice: Choice) -> FileSource:
    """The image that `planes` gives, with its axes' roles chosen."""
    axes, lengths = "".join(planes.lengths), tuple(planes.lengths.values())
    roles = choose_roles(str(path), planes.lengths, choice)
    numbers = roles.planes(axes, lengths)
    height, width = planes.size
    shape: Quad = (planes.channels * numbers.shape[0], numbers.shape[1], height, width)
    rows, columns = (min(b, n) for b, n in zip(planes.block, planes.size, strict=True))
    check_claim(str(path), int(np.prod(shape)) * planes.dtype.itemsize, path.stat().st_size)

    def load(index: Quad) -> Array:
        at = np.unravel_index(int(numbers[index[0], index[1]]), lengths) if lengths else ()
        places = {axis: int(place) for axis, place in zip(axes, at, strict=True)}
        top, left = index[2] * rows, index[3] * columns
        spans = slice(top, min(top + rows, height)), slice(left, min(left + columns, width))
        try:
            return planes.plane(places, *spans).reshape(planes.channels, 1, *(s.stop - s.start for s in spans))
        except BROKEN as error:
            raise ImageError(str(path), f"damaged pixels ({error})", "a whole image", _HINT) from error

    dimensions = 3 if roles.stack else 2
    known = {axis: size for axis, size in planes.spacing.items() if size}
    stated = all(axis in known for axis in "ZYX"[-dimensions:]) and roles.stack in (None, "Z")
    where = str(path)
    return FileSource(
        path=path,
        axes="CZYX" if roles.stack else "CYX",
        grids=(Grid(shape, (planes.channels, 1, rows, columns), planes.dtype, load),),
        geometries=(
            stated_geometry(where, [known[a] for a in "ZYX"[-dimensions:]], "um")
            if stated
            else Geometry.pixels(dimensions),
        ),
        channels=planes.names if len(planes.names) == shape[0] else (),
        mode="grey" if shape[0] == 1 else "channels",
        max_megapixels=choice.max_megapixels,
    )


def open_nd2(path: Path, choice: Choice) -> Planes:
    """Nikon: positions (axis P) are the series; a frame holds all channels of a plane."""
    import nd2

    file = nd2.ND2File(path)
    return _closing(file, lambda: nd2_planes(str(path), file, choice))


def _closing(file: Any, opened: Callable[[], Planes]) -> Planes:
    """The planes of a file that is closed with the last of them, or at once where it is refused."""
    with ExitStack() as stack:
        stack.callback(file.close)
        planes = opened()
        weakref.finalize(planes, stack.pop_all().close)
    return planes


def nd2_planes(where: str, file: Any, choice: Choice) -> Planes:
    """`file` has the interface of nd2.ND2File: sizes, dtype, loop_indices, read_frame, voxel_size, metadata."""
    sizes = {str(axis): int(length) for axis, length in file.sizes.items()}
    height, width, colours = sizes.pop("Y"), sizes.pop("X"), sizes.pop("S", 1)
    positions, channels = sizes.pop("P", 1), sizes.pop("C", 1)
    shapes = [(channels * colours, height, width)] * positions
    position = pick_series(where, [str(i) for i in range(positions)], shapes, choice)
    frames = {tuple(sorted(loop.items())): number for number, loop in enumerate(file.loop_indices)}
    size, lock = file.voxel_size(), threading.Lock()

    def plane(places: Mapping[str, int], rows: slice, columns: slice) -> Array:
        at = {**places, **({"P": position} if positions > 1 else {})}
        with lock:
            frame = np.asarray(file.read_frame(_frame_number(frames, at)))
        pixels = frame.reshape(channels, height, width, colours).transpose(0, 3, 1, 2)
        return pixels.reshape(-1, height, width)[:, rows, columns]

    named = [str(one.channel.name) for one in (getattr(file.metadata, "channels", None) or ())]
    spacing = {"Z": float(size.z), "Y": float(size.y), "X": float(size.x)}
    whole = (height, width)
    return Planes(sizes, channels * colours, tuple(named), whole, whole, np.dtype(file.dtype), spacing, plane)


def _frame_number(frames: Mapping[tuple[tuple[str, int], ...], int], at: Mapping[str, int]) -> int:
    """The frame whose loops stand at these places; loops of length 1 may be told or not."""
    for loops, number in frames.items():
        if all(at.get(axis, 0) == place for axis, place in loops):
            return number
    raise KeyError(f"no frame at {dict(at)}")


def open_lif(path: Path, choice: Choice) -> Planes:
    """Leica: the images of a project are the series."""
    import liffile

    try:
        file = liffile.LifFile(path)
    except liffile.LifFileError as error:
        raise ValueError(str(error)) from error

    def opened() -> Planes:
        images = list(file.images)
        names, shapes = [image.name for image in images], [image.shape for image in images]
        return lif_planes(str(path), images[pick_series(str(path), names, shapes, choice)])

    return _closing(file, opened)


def lif_planes(where: str, image: Any) -> Planes:
    """`image` is a liffile.LifImage: sizes, dtype, coords (metres), frame(C=..., Z=..., T=...)."""
    sizes = {str(axis): int(length) for axis, length in image.sizes.items()}
    height, width, colours = sizes.pop("Y"), sizes.pop("X"), sizes.pop("S", 1)
    channels = sizes.pop("C", 1)
    if any(len(axis) > 1 for axis in sizes):
        raise ImageError(where, f"axes {', '.join(sizes)}", "T, Z, C, Y and X", "export as OME-TIFF")
    lock = threading.Lock()

    def plane(places: Mapping[str, int], rows: slice, columns: slice) -> Array:
        at = [dict(places) | ({"C": c} if "C" in image.sizes else {}) for c in range(channels)]
        with lock:
            frames = [np.asarray(image.frame(**one)).reshape(height, width, colours) for one in at]
        return np.concatenate([frame[rows, columns].transpose(2, 0, 1) for frame in frames])

    spacing = {a: abs(float(c[1] - c[0])) * 1e6 for a, c in image.coords.items() if a in "ZYX" and len(c) > 1}
    whole = (height, width)
    return Planes(sizes, channels * colours, (), whole, whole, np.dtype(image.dtype), spacing, plane)


def open_czi(path: Path, choice: Choice) -> Planes:
    """Zeiss: scenes are the series; planes are read by tiles, mosaics put together by the library, gaps as 0."""
    from pylibCZIrw import czi

    options = czi.CacheOptions(type=czi.CacheType.Standard, max_memory_usage=_CZI_CACHE)
    file = czi.CziReader(str(path), cache_options=options)
    return _closing(file, lambda: czi_planes(str(path), file, choice))


def czi_planes(where: str, file: Any, choice: Choice) -> Planes:
    """`file` is a pylibCZIrw.czi.CziReader; RGB, which it gives as blue, green, red, is turned round."""
    scenes = dict(file.scenes_bounding_rectangle_no_pyramid) or {0: file.total_bounding_rectangle_no_pyramid}
    boxes = list(scenes.items())
    names = [str(number) for number, _ in boxes]
    scene, box = boxes[pick_series(where, names, [(b.h, b.w) for _, b in boxes], choice)]
    bounds = {axis: (int(a), int(b) - int(a)) for axis, (a, b) in file.total_bounding_box_no_pyramid.items()}
    lengths = {axis: length for axis, (_, length) in bounds.items() if axis not in "CYX"}
    channels, kinds = bounds.get("C", (0, 1))[1], set(file.pixel_types.values())
    if len(kinds) != 1 or not kinds <= set(_CZI_TYPES):
        came = f"pixels of type {', '.join(sorted(map(str, kinds)))}"
        raise ImageError(where, came, "one of " + ", ".join(_CZI_TYPES), "export as OME-TIFF")
    kind = kinds.pop()
    colours, lock = 3 if kind.startswith("Bgr") else 1, threading.Lock()
    known = scene if file.scenes_bounding_rectangle_no_pyramid else None

    def plane(places: Mapping[str, int], rows: slice, columns: slice) -> Array:
        roi = (box.x + columns.start, box.y + rows.start, columns.stop - columns.start, rows.stop - rows.start)
        at = {axis: bounds[axis][0] + place for axis, place in places.items()}
        first = bounds.get("C", (0, 1))[0]
        with lock:
            read = [file.read(roi=roi, plane=at | {"C": first + c}, scene=known) for c in range(channels)]
        return np.concatenate([np.moveaxis(pixels[..., ::-1], -1, 0) for pixels in read])

    about = _czi_about(file.metadata)
    size, tile = (int(box.h), int(box.w)), (_CZI_TILE, _CZI_TILE)
    return Planes(lengths, channels * colours, about[0], size, tile, np.dtype(_CZI_TYPES[kind]), about[1], plane)


def _czi_about(metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Channel names, and micrometres along the axes, of the XML that pylibCZIrw gives as dictionaries."""
    stated = (metadata.get("ImageDocument") or {}).get("Metadata") or {}
    distances = _listed(stated, "Scaling", "Items", "Distance")
    spacing = {str(d.get("@Id")): float(d.get("Value") or 0) * 1e6 for d in distances}
    channels = _listed(stated, "Information", "Image", "Dimensions", "Channels", "Channel")
    names = tuple(str(channel.get("@Name", "")) for channel in channels)
    return (names if all(names) else ()), {axis: spacing[axis] for axis in "ZYX" if axis in spacing}


def _listed(tree: Mapping[str, Any], *names: str) -> list[Mapping[str, Any]]:
    found: Any = tree
    for name in names:
        found = (found or {}).get(name)
    return [] if found is None else found if isinstance(found, list) else [found]
