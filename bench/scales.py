"""Several scales at once: scores of an image's probabilities averaged over views. Prints a line a combination.

    python bench/scales.py --model MODEL [--data MANIFEST] [--split test]

Every view is predicted, resized to the file's grid and averaged with the others; objects are told apart there, by the
model's own thresholds. `tta` is the mean over the eight flips and quarter turns at the file's own size. Views of more
than 3 Mpx are left out, so give small images. Scores are means over images; the last columns are AP@.5 by modality.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from pipeline.data.ingest import load_case
from pipeline.data.manifest import load_data
from pipeline.inference.engines import make_engine
from pipeline.inference.predict import predict
from pipeline.model.bundle import load_model
from pipeline.model.prepare import fit, share_channels
from pipeline.model.targets import decode
from pipeline.runs.find_model import find_any_model
from pipeline.scoring.metrics import Scores, match

ZOOMS = {"x0.75": 0.75, "x1": 1.0, "x1.5": 1.5, "x2": 2.0}
VIEWS = ("x1", "x1.5", "x2", "tta", "x1 x1.5", "x1 x2", "x0.75 x1 x1.5", "tta x1.5")
MOST = 3e6  # px of a view
WORK = {"tta": 8.0} | {name: zoom**2 for name, zoom in ZOOMS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="shipped:nuclei")
    arguments = parser.parse_args()
    model = load_model(find_any_model(arguments.model))
    record, engine = model.record, make_engine(model)
    found: dict[str, list[tuple[str, Scores]]] = defaultdict(list)
    for case in load_data(arguments.data).split(arguments.split):
        image, labels = load_case(case)
        pixels = share_channels(image.pixels, record.prepare.channels)
        planes = {}
        for name, zoom in ZOOMS.items():
            how = fit(pixels, record.prepare, stride=record.stride, zoom=zoom)
            if zoom == 1.0:
                planes["tta"] = how.undo(predict(engine, how.apply(pixels), tta=True))
            if zoom == 1.0 or np.prod(how.shape) <= MOST:
                planes[name] = how.undo(predict(engine, how.apply(pixels)))
        for views in VIEWS:
            had = [planes[name] for name in views.split() if name in planes] or [planes["x1"]]
            answer = decode(np.mean(had, axis=0, dtype=np.float32), record.target, model.thresholds)
            found[views].append((case.modality, match(labels, answer)))
    for views, scores in found.items():
        of = {kind: np.mean([s.ap(0.5) for k, s in scores if k == kind]) for kind in sorted({k for k, _ in scores})}
        each = [s for _, s in scores]
        print(
            f"{views:<14} work {sum(WORK[name] for name in views.split()):>5.2f}  "
            f"map {np.mean([s.dsb_score for s in each]):.3f}  ap50_mean {np.mean([s.ap(0.5) for s in each]):.3f}  "
            f"dice_mean {np.mean([s.dice for s in each]):.3f}  "
            + "  ".join(f"{kind} {value:.3f}" for kind, value in of.items())
        )


if __name__ == "__main__":
    main()
