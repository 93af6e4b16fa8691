"""Score Otsu + distance watershed, and any models, on the same images: one table each, then the comparison.

    python bench/baselines.py --data data_manifests/dsb2018.csv --split test --out runs/baselines \
        --model runs/nuclei/model --model runs/guide-literal/model --model runs/guide-clean/model

The first model is ours; the last line of each comparison says how far it is ahead of each of the others. Labels and
scores of every method stay below --out.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import EvaluateConfig
from pipeline.data.images import open_image
from pipeline.data.labels import write_labels
from pipeline.errors import MasklineError
from pipeline.runs.evaluate_model import evaluate_model
from pipeline.runs.score_labels import find_truth, score_folder
from pipeline.scoring.classical import otsu_watershed, separate_by_distance
from pipeline.scoring.present import score_table

OTSU = "Otsu + distance watershed"
BROAD = "public U-Net (broad) + watershed"
COMPARED = ("map", "ap50", "ap75", "f1_50", "dice_mean", "pq", "aji")


def score_otsu(data: Path, split: str, out: Path) -> tuple[dict[str, Any], float]:
    """The scores of the classical baseline, and its seconds an image without reading and writing."""
    spent = 0.0
    cases = find_truth(data, split)
    for case in cases:
        image = open_image(case.image).read()
        start = time.perf_counter()
        labels = otsu_watershed(image)
        spent += time.perf_counter() - start
        write_labels(out / "labels" / f"{case.id}.tif", labels, image.geometry)
    return score_folder(out, data, out=out, split=split), spent / len(cases)


def score_broad(data: Path, split: str, folder: Path, out: Path) -> dict[str, Any]:
    """The public nuclei U-Net of the bioimage.io collection + watershed: `weights.pt` of its folder (TorchScript).

    As its description has it: one channel of zero mean and unit variance, sigmoid after, foreground above .5. Its
    training images are not listed, so it may know some of these.
    """
    network = torch.jit.load(folder / "weights.pt").eval()
    for case in find_truth(data, split):
        image = open_image(case.image).read()
        grey = image.pixels.mean(axis=0, dtype=np.float32)
        grey = (grey - grey.mean()) / max(float(grey.std()), 1e-6)
        height, width = grey.shape
        padded = np.pad(grey, ((0, -height % 16), (0, -width % 16)), mode="symmetric")
        with torch.inference_mode():
            answer = torch.sigmoid(network(torch.from_numpy(padded)[None, None]))[0, 0, :height, :width].numpy()
        labels = separate_by_distance(answer > 0.5)
        write_labels(out / "labels" / f"{case.id}.tif", labels, image.geometry)
    return score_folder(out, data, out=out, split=split)


def compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a method; below it how far the first is ahead of the others."""
    width = max(map(len, results)) + 2
    first, *others = results
    lines = [" " * width + "".join(f"{name:>10}" for name in COMPARED)]
    for name, scores in results.items():
        lines.append(f"{name:<{width}}" + "".join(f"{scores[key]:>10.4f}" for key in COMPARED))
    for other in others:
        ahead = (results[first][key] - results[other][key] for key in COMPARED)
        lines.append(
            f"{first} ahead of {other}: " + ", ".join(f"{k} {v:+.4f}" for k, v in zip(COMPARED, ahead, strict=True))
        )
    return "\n".join(lines)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("data_manifests/dsb2018.csv"), help="manifest CSV or labelled folder"
    )
    parser.add_argument("--split", default="test", help="train, val, test or all (a folder has only all)")
    parser.add_argument("--model", action="append", default=[], help="a model to score as well; ours first")
    parser.add_argument("--broad", type=Path, help="folder of the public U-Net unet2d_nuclei_broad, to score as well")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    args = parse(words)
    results: dict[str, Mapping[str, Any]] = {}
    try:
        for number, model in enumerate(args.model):
            config = EvaluateConfig(
                data=args.data, out=args.out / f"model-{number}", model=model, split=args.split, track=False
            )
            results[model] = evaluate_model(config)
            print(f"{model}\n{score_table(results[model])}\n")
        results[OTSU], seconds = score_otsu(args.data, args.split, args.out / "otsu")
    except MasklineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{OTSU} ({1000 * seconds:.0f} ms an image)\n{score_table(results[OTSU])}")
    if args.broad:
        results[BROAD] = score_broad(args.data, args.split, args.broad, args.out / "broad")
        print(f"\n{BROAD}\n{score_table(results[BROAD])}")
    if len(results) > 1:
        print(f"\n{compare(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
