"""What one image leaves in the results folder: label file, outlines, the report's picture, its row of images.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.files import atomic_write, remove
from pipeline.results.ledger import Product
from pipeline.results.lock import STATE
from pipeline.results.names import label_suffix
from pipeline.types import Case, Image, Labels

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.data.multiscales import Multiscale
    from pipeline.data.sources import FileSource
    from pipeline.runs.segment_case import Answer

PICTURES = f"{STATE}/pictures"
_OF_OBJECTS = (
    *("objects", "area", "density", "intensity"),
    *("touching", "median_area", "contrast", "saturated"),
)


def label_paths(case: Case, geojson: bool, classes: bool = False) -> tuple[str, ...]:
    """What is written for an image, below the results folder: its labels, and outlines where asked for."""
    label = f"labels/{case.id}{label_suffix(case.relative, classes)}"
    return (label, f"geojson/{case.id}.geojson") if geojson else (label,)


def picture_path(stem: str) -> str:
    """Where the report's preview of an image lies, below the results folder."""
    return f"{PICTURES}/{stem}.jpg"


def describe_small(answer: "Answer", objects: "pd.DataFrame") -> dict[str, Any]:
    """The columns of images.csv: `area` is the mean object's in px² (px³ of volumes), `density` objects per megapixel,
    `intensity` the mean over objects and channels in the file's own values. Class maps have nothing that is of objects
    alone, but the part of the pixels that each class has.
    """
    import numpy as np

    from pipeline.results.quality import appearance
    from pipeline.runs.measure_answer import sizes

    shape, count = answer.image.spatial_shape, len(objects)
    megapixels = float(np.prod(shape)) / 1e6
    means = [np.asarray(objects[name], np.float64) for name in objects.columns if name.startswith("intensity_mean_")]
    known = np.isfinite(means).any() if means else False
    row: dict[str, Any] = {
        "objects": count,
        "area": float(np.mean(np.asarray(sizes(objects), np.float64))) if count else None,
        "density": count / megapixels if megapixels else None,
        "intensity": float(np.nanmean(means)) if known else None,
        "height": shape[-2],
        "width": shape[-1],
        "planes": shape[0] if len(shape) == 3 else 1,
        "channels": int(answer.image.pixels.shape[0]),
        "dtype": str(answer.image.pixels.dtype),
        **appearance(answer.image, answer.labels),
        "confidence": answer.confidence.image if answer.confidence else None,
        **{f"model_{name}": value for name, value in answer.statistics.items()},
    }
    if classes := getattr(answer, "classes", ()):
        row = of_classes(row, fractions(np.bincount(answer.labels.ravel(), minlength=len(classes)), classes))
    return {name: plain(value) for name, value in row.items()}


def left_out(opened: "FileSource") -> dict[str, int]:
    """The columns of images.csv of a file that leaves out tiles, strips or chunks; none of a file that is whole."""
    missing = opened.missing
    return {"missing_tiles": missing.count, "tiles": missing.total} if missing.count else {}


def of_classes(row: dict[str, Any], parts: Mapping[str, float]) -> dict[str, Any]:
    """The row of a class map: less what is of objects alone, and the `fractions` of its classes."""
    return {name: value for name, value in row.items() if name not in _OF_OBJECTS} | dict(parts)


def fractions(pixels: "NDArray[np.int64]", names: Sequence[str]) -> dict[str, float]:
    """The columns of images.csv that say which part of the image each class is, from its number of pixels."""
    from pipeline.results.tables import fraction_column

    return {fraction_column(name): float(count / pixels.sum()) for name, count in zip(names, pixels, strict=True)}


def plain(value: Any) -> Any:
    """A number or text that JSON can hold; NaN is "not known"."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def write_products(
    case: Case, out: Path, geojson: bool, answer: "Answer", multiscale: "Multiscale | None" = None
) -> dict[str, Product]:
    """Write labels and outlines; `multiscale` is that of an OME-Zarr image."""
    from pipeline.data.geojson import write_geojson
    from pipeline.data.labels import write_labels
    from pipeline.data.palettes import write_class_png

    outputs, classes = {}, getattr(answer, "classes", ())
    for name in label_paths(case, geojson, bool(classes)):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            sha256 = write_class_png(path, answer.labels, classes, getattr(answer, "colours", ()))
        elif name.startswith("labels/"):
            sha256 = write_labels(path, answer.labels, answer.image.geometry, case.image, multiscale)
        else:
            sha256 = write_geojson(path, answer.labels)
        outputs[name] = Product.of(path, sha256)
    remove_others(case, out, outputs)
    return outputs


def remove_others(case: Case, out: Path, outputs: Mapping[str, Product]) -> None:
    """Take away the label file of another kind that an earlier model, or an earlier way of working, left."""
    for name in {*label_paths(case, False), *label_paths(case, False, classes=True)} - set(outputs):
        remove(out / name)


def write_picture(path: Path, image: Image, labels: Labels, colours: Sequence[tuple[int, int, int]] = ()) -> None:
    """The report's preview of an image: objects outlined, or classes in their `colours`."""
    from pipeline.results.class_pictures import class_preview
    from pipeline.results.pictures import preview

    path.parent.mkdir(parents=True, exist_ok=True)
    shown = class_preview(image, labels, colours) if colours else preview(image, labels)
    atomic_write(path, shown, durable=False)
