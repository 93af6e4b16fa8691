"""How many true objects are found (IoU at least .5), by their area and the kind of image. Prints a line a size.

    python bench/sizes.py [--data MANIFEST] [--split val] [--model shipped:nuclei]

Areas are of the file's pixels. Objects that the image's edge cuts are counted like others.
"""

import argparse
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.config import ImageOptions
from pipeline.data.images import open_image
from pipeline.data.ingest import load_case
from pipeline.data.manifest import load_data
from pipeline.inference.segment import Segmenter
from pipeline.model.bundle import load_model
from pipeline.runs.find_model import find_any_model
from pipeline.scoring.overlaps import count_overlaps
from pipeline.types import Labels

AREAS = (0, 40, 80, 160, 320, 640, 2**31)  # px


def found_areas(truth: Labels, predicted: Labels) -> tuple[np.ndarray, np.ndarray]:
    """The areas `(n,)` of the true objects, and which of them are found."""
    table = count_overlaps(truth, predicted)
    union = table.true_areas[table.row] + table.predicted_areas[table.column] - table.pixels
    found = np.zeros(table.true_areas.size, bool)
    found[table.row[2 * table.pixels >= union]] = True
    return table.true_areas, found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="shipped:nuclei")
    arguments = parser.parse_args()
    segmenter = Segmenter(load_model(find_any_model(arguments.model)))
    objects: Counter[tuple[str, int]] = Counter()
    found: Counter[tuple[str, int]] = Counter()
    for case in load_data(arguments.data).split(arguments.split):
        labels = load_case(case)[1]
        predicted = segmenter.segment(open_image(case.image), ImageOptions()).labels
        areas, hit = found_areas(labels, predicted)
        for size, one in zip(np.digitize(areas, AREAS).tolist(), hit.tolist(), strict=True):
            objects[case.modality, size] += 1
            found[case.modality, size] += one
    for kind in sorted({kind for kind, _ in objects}):
        for size, (low, high) in enumerate(pairwise(AREAS), 1):
            if objects[kind, size]:
                span = f"{low} px and more" if high == AREAS[-1] else f"{low} to {high - 1} px"
                share = found[kind, size] / objects[kind, size]
                print(f"{kind:<14} {span:<16} {objects[kind, size]:>5} objects  {share:.3f} found")


if __name__ == "__main__":
    main()
