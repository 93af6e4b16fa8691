"""The same images with another look: how far AP@.5 falls. Prints a line a look, and the largest fall last.

    python bench/looks.py [--data MANIFEST] [--split val] [--model shipped:nuclei] [--look inverted --look x4]

Looks: `inverted`, `16-bit` (values in 5 % of the range), `blue` and `green` (fluorescence stored as one colour of RGB),
`blue.jpg` (the same as JPEG of quality 95 has it, with traces of it in the other two),
and `x0.25` to `x4` (rescaled, of images whose median nucleus then measures 6 to 120 px). Every look is compared with
the same images as they are. Sizes are never told to the model.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile

from pipeline.config import ImageOptions
from pipeline.data.images import open_image
from pipeline.data.ingest import load_case
from pipeline.data.manifest import load_data
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import load_model
from pipeline.runs.find_model import find_any_model
from pipeline.scoring.metrics import Scores, match
from pipeline.types import Array, Case, Labels

Look = Callable[[Array, Labels, Case], tuple[Array, Labels] | None]  # (C, Y, X) and labels; None: not for this image
ZOOMS = (0.25, 0.5, 2.0, 4.0)


def inverted(pixels: Array, labels: Labels, case: Case) -> tuple[Array, Labels] | None:
    return np.iinfo(pixels.dtype).max - pixels, labels


def sixteen_bit(pixels: Array, labels: Labels, case: Case) -> tuple[Array, Labels] | None:
    full = np.iinfo(pixels.dtype).max
    return (1000 + pixels / full * 0.05 * 65535).round().astype(np.uint16), labels


def coloured(channel: int) -> Look:
    def colour(pixels: Array, labels: Labels, case: Case) -> tuple[Array, Labels] | None:
        if case.modality != "fluorescence":
            return None
        image = np.zeros((3, *pixels.shape[1:]), pixels.dtype)
        image[channel] = pixels.max(axis=0)
        return image, labels

    return colour


def as_jpeg(look: Look) -> Look:
    def compress(pixels: Array, labels: Labels, case: Case) -> tuple[Array, Labels] | None:
        looked = look(pixels, labels, case)
        if looked is None:
            return None
        _, coded = cv2.imencode(".jpg", np.moveaxis(looked[0][::-1], 0, 2), [cv2.IMWRITE_JPEG_QUALITY, 95])
        return np.moveaxis(cv2.imdecode(coded, cv2.IMREAD_COLOR), 2, 0)[::-1], labels

    return compress


def rescaled(zoom: float) -> Look:
    def scale(pixels: Array, labels: Labels, case: Case) -> tuple[Array, Labels] | None:
        areas = np.bincount(labels.ravel())[1:]
        if not (areas > 0).any() or not 6 <= zoom * 2 * np.sqrt(np.median(areas[areas > 0]) / np.pi) <= 120:
            return None
        size = tuple(max(1, round(side * zoom)) for side in labels.shape[::-1])
        method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
        image = np.stack([cv2.resize(plane, size, interpolation=method) for plane in pixels])
        small = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        return image, small.astype(np.uint32)

    return scale


LOOKS: dict[str, Look] = {
    "inverted": inverted,
    "16-bit": sixteen_bit,
    "blue": coloured(2),
    "green": coloured(1),
    "blue.jpg": as_jpeg(coloured(2)),
    **{f"x{zoom:g}": rescaled(zoom) for zoom in ZOOMS},
}


def score(segmenter: Segmenter, pixels: Array, labels: Labels, path: Path) -> Scores:
    """Through a file, as a user's image would come."""
    tifffile.imwrite(path, np.moveaxis(pixels, 0, 2), photometric="rgb" if len(pixels) == 3 else "minisblack")
    return match(labels, segmenter.segment(open_image(path), ImageOptions()).labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="shipped:nuclei")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--look", action="append", choices=list(LOOKS), help="only these")
    arguments = parser.parse_args()
    segmenter = Segmenter(load_model(find_any_model(arguments.model)))
    cases = load_data(arguments.data).split(arguments.split)[:: arguments.every]
    images = [(case, *load_case(case)) for case in cases]
    falls = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.tif"
        plain = {case.id: score(segmenter, image.pixels, labels, path) for case, image, labels in images}
        for name in arguments.look or LOOKS:
            looked = {case.id: LOOKS[name](image.pixels, labels, case) for case, image, labels in images}
            found = {key: score(segmenter, *changed, path) for key, changed in looked.items() if changed is not None}
            before = sum((plain[key] for key in found), Scores()).ap(0.5)
            after = sum(found.values(), Scores()).ap(0.5)
            falls[name] = before - after
            print(
                f"{name:<9} {len(found):>4} images  AP@.5 {before:.3f} -> {after:.3f}  ({-falls[name]:+.3f})",
                flush=True,
            )
    worst = max(falls, key=lambda name: falls[name])
    print(f"another look: AP@.5 falls by at most {falls[worst]:.3f} ({worst})")


if __name__ == "__main__":
    main()
