"""How long until a validation Dice of 0.80: maskline's recipe against the guide's, in one process; prints one ratio.

    python bench/time_to_dice.py [--data MANIFEST] [--seeds 0 1 2] [--device auto]

Dice is the mean over the manifest's whole validation images, at native resolution, of the prediction above .5 against
the true merged masks; both recipes are asked after every epoch (ours are made short for that). The clock runs while
they train, not while they are asked. A recipe that ends without reaching it counts with its whole time.

Ours is `configs/nuclei.yaml` as one would set it for a first look (QUICK): smaller crops, a higher rate that warms up
sooner, an average of shorter memory.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.config import TrainConfig, load_config
from pipeline.data.manifest import Manifest, load_data
from pipeline.inference.engines import choose_device
from pipeline.runs.train_model import split_for_training
from pipeline.training.dataset import Example, load_examples
from pipeline.training.train import Training, run_training, start_training
from pipeline.training.validate import answers

QUICK = (
    "epochs=60",
    "sampling.size=128",
    "sampling.per_epoch=128",
    "batch_size=8",
    "optimiser.lr=0.003",
    "schedule.warmup_steps=16",
    "ema=0.97",
)


def dice(training: Training, examples: Sequence[Example]) -> float:
    """Mean Dice over whole images, on the file's grid; both empty is 1."""
    network = training.average if training.config.ema else training.network
    values = []
    for answer in answers(network, examples, training.config, training.loss, training.device):
        found, truth = answer.probabilities[0] > 0.5, answer.truth > 0
        both = int(found.sum() + truth.sum())
        values.append(2 * int((found & truth).sum()) / both if both else 1.0)
    return float(np.mean(values))


def walk(config: TrainConfig, manifest: Manifest, device: str) -> Iterator[tuple[float, float]]:
    """(seconds of training so far, Dice) after every epoch, until the recipe itself would stop."""
    training = start_training(config, device)
    stride = int(training.network.stride)  # type: ignore[arg-type]
    learn, check = split_for_training(manifest, config)
    examples, own = load_examples(learn, config, stride), load_examples(check, config, stride)
    judged = load_examples(manifest.split("val"), config, stride)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for result in run_training(training, examples, own, Path(folder), "bench"):
            seconds += result.metrics["train_seconds"]
            yield seconds, dice(training, judged)


def seconds_to(wanted: float, config: TrainConfig, manifest: Manifest, device: str) -> tuple[float, float]:
    """Seconds until `wanted` is reached, or all of them; and the best Dice seen."""
    seconds, best = 0.0, 0.0
    for so_far, value in walk(config, manifest, device):
        seconds, best = so_far, max(best, value)
        if value >= wanted:
            break
    return seconds, best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data_manifests/dsb2018.csv"))
    parser.add_argument("--wanted", type=float, default=0.80)
    parser.add_argument("--guide", type=Path, default=Path("configs/guide-literal.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device, manifest = choose_device(arguments.device), load_data(arguments.data)
    print(f"{len(manifest.split('val'))} validation images, {torch.get_num_threads()} threads, {device}")
    ratios = []
    for seed in arguments.seeds:
        ours = load_config(TrainConfig, Path("configs/nuclei.yaml"), (f"seed={seed}", *QUICK))
        guide = load_config(TrainConfig, arguments.guide, (f"seed={seed}",))
        mine, reached = seconds_to(arguments.wanted, ours, manifest, device)
        other, best = seconds_to(arguments.wanted, guide, manifest, device)
        ratios.append(other / mine)
        print(
            f"seed {seed}: the guide {other:.0f} s (best Dice {best:.3f}), maskline {mine:.0f} s ({reached:.3f}), "
            f"{ratios[-1]:.1f}x",
            flush=True,
        )
    span = f"range {min(ratios):.1f}-{max(ratios):.1f}, {len(ratios)} seeds"
    print(f"time to Dice {arguments.wanted:.2f}: {statistics.median(ratios):.1f}x over the guide's recipe ({span})")


if __name__ == "__main__":
    main()
