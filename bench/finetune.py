"""What fine-tuning on a few images of another kind brings: AP@.5 on unseen ones before and after.

    maskline train nuclei --data runs/others.csv --out runs/others --time-budget 20m     # see --write-base
    python bench/finetune.py --base runs/others/model --kind stained --images 12

The base never saw the kind: --write-base FILE writes the manifest without it and stops. Each seed draws other images to
learn from out of the kind's training split, whole groups; all of its validation and test images are judged. The
interval is a paired bootstrap over groups of the difference of pooled AP@.5.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config import EvaluateConfig, TrainConfig, load_config
from pipeline.data.ingest import load_case
from pipeline.data.labels import read_labels
from pipeline.data.manifest import Manifest, load_data, write_manifest
from pipeline.runs.evaluate_model import evaluate_model
from pipeline.runs.train_model import train_model
from pipeline.scoring.metrics import Scores, match
from pipeline.types import Case


def others(manifest: Manifest, kind: str) -> Manifest:
    return replace(manifest, cases=tuple(case for case in manifest.cases if case.modality != kind), path=None)


def few(manifest: Manifest, kind: str, images: int, seed: int) -> Manifest:
    """At most `images` of the kind's training images in whole groups, the last of them to validate; others judge."""
    groups = by_group(case for case in manifest.split("train") if case.modality == kind)
    names = sorted(groups)
    chosen: list[list[Case]] = []
    for number in np.random.default_rng(seed).permutation(len(names)):
        group = groups[names[number]]
        if sum(map(len, chosen)) + len(group) <= images:
            chosen.append(group)
    *learn, last = chosen
    cases = [replace(case, split="train") for group in learn for case in group]
    cases += [replace(case, split="val") for case in last]
    cases += [replace(c, split="test") for c in manifest.cases if c.modality == kind and c.split in ("val", "test")]
    return replace(manifest, cases=tuple(cases), path=None)


def by_group(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by their group; one without stands alone."""
    groups = defaultdict(list)
    for case in cases:
        groups[case.group or case.id].append(case)
    return groups


def scores_of(model: Path, data: Path, out: Path) -> dict[str, Scores]:
    """Each test image's counts."""
    evaluate_model(EvaluateConfig(data=data, out=out, model=str(model), track=False))
    cases = load_data(data).split("test")
    return {c.id: match(load_case(c)[1], read_labels(out / "labels" / f"{c.id}.tif")[0]) for c in cases}


def pooled(scores: Sequence[Scores]) -> float:
    return sum(scores, Scores()).ap(0.5)


def interval(before: dict[str, Scores], after: dict[str, Scores], cases: Sequence[Case]) -> tuple[float, float]:
    """The middle 95 % of the difference over 1,000 resamples of groups."""
    groups = by_group(cases)
    names, generator, found = sorted(groups), np.random.default_rng(0), []
    for _ in range(1000):
        drawn = [case.id for name in generator.choice(names, len(names)) for case in groups[name]]
        found.append(pooled([after[k] for k in drawn]) - pooled([before[k] for k in drawn]))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--kind", default="stained")
    parser.add_argument("--write-base", type=Path, help="write the manifest without the kind, and stop")
    parser.add_argument("--base", help="the model that never saw the kind")
    parser.add_argument("--config", type=Path, default=Path("configs/finetune.yaml"))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    manifest = load_data(arguments.data)
    if arguments.write_base:
        write_manifest(arguments.write_base, others(manifest, arguments.kind))
        return
    if not arguments.base:
        parser.error("--base is needed")
    gains = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as temporary:
            home = Path(temporary)
            data = few(manifest, arguments.kind, arguments.images, seed)
            write_manifest(home / "few.csv", data)
            config = load_config(TrainConfig, arguments.config, (f"seed={seed}",))
            began = time.perf_counter()
            trained = train_model(config, home / "few.csv", home / "tuned", start=arguments.base, track=False)
            minutes = (time.perf_counter() - began) / 60
            before = scores_of(Path(arguments.base), home / "few.csv", home / "before")
            after = scores_of(trained.model, home / "few.csv", home / "after")
            low, high = interval(before, after, data.split("test"))
            first, second = pooled(list(before.values())), pooled(list(after.values()))
            gains.append(second - first)
            print(
                f"seed {seed}: {len(data.split('train'))} + {len(data.split('val'))} images, {minutes:.1f} min; "
                f"AP@.5 on {len(before)} {first:.3f} -> {second:.3f}, {gains[-1]:+.3f} ({low:+.3f}, {high:+.3f})",
                flush=True,
            )
    print(f"fine-tuning: {np.mean(gains):+.3f} AP@.5 (range {min(gains):+.3f} to {max(gains):+.3f})")


if __name__ == "__main__":
    main()
