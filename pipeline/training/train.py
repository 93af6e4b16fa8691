"""The training loop, in view: every epoch's numbers leave by `yield`.

Repeatable: the network is initialised from the seed, sample `i` of epoch `e` depends on (seed, e, i) alone, and each
epoch seeds torch's generator (dropout) with (seed, e); so a resumed training equals an undisturbed one bit for bit on
the CPU with the same number of threads, and on a GPU with `deterministic`. Under a time budget the learning rate
follows the clock and is not repeatable.
"""

import copy
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unet
from pipeline.config import TrainConfig, exclusive
from pipeline.errors import TrainingError
from pipeline.model.bundle import ModelRecord
from pipeline.training.answer_shape import check_answer
from pipeline.training.batched import ResidentLoader
from pipeline.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.training.dataset import Example, build_dataset
from pipeline.training.freeze import check_gradients, freeze_for_phase, rest_frozen_statistics
from pipeline.training.loader import EpochLoader, load_for
from pipeline.training.optimise import Stand, build_optimiser, learning_rate
from pipeline.training.precision import choose_precision
from pipeline.training.pretrained import start_from
from pipeline.training.validate import score_name, usual_thresholds, validate
from pipeline.types import Event, Watch, unwatched
from unet.losses import Loss, build_loss


@dataclass(frozen=True)
class EpochResult:
    """One epoch's numbers: `metrics` has train_loss, lr, images_per_second, val_* and epoch_seconds."""

    epoch: int
    metrics: dict[str, float]
    better: bool


@dataclass
class Training:
    """Everything a training carries from epoch to epoch. `best` is the state of the best EMA weights so far."""

    config: TrainConfig
    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    loss: Loss
    device: str
    precision: torch.dtype  # of convolutions
    progress: Progress
    best: dict[str, Tensor]
    budget: float | None = None
    origin: str = ""  # digest of the model whose weights it began with
    base: ModelRecord | None = None  # the record of that model
    pretrained: dict[str, Any] = field(default_factory=dict)  # which published weights it began with
    started: float = 0.0

    @property
    def elapsed(self) -> float:
        return self.progress.elapsed + time.perf_counter() - self.started


def initial_network(config: TrainConfig) -> nn.Module:
    """The network of the config, drawn from its seed, in channels_last."""
    torch.manual_seed(config.seed)
    return unet.channels_last(unet.build(config.network.kind, **config.network.model_dump(exclude={"kind"})))


def start_training(
    config: TrainConfig,
    device: str,
    *,
    weights: dict[str, Tensor] | None = None,
    budget: float | None = None,
    watch: Watch = unwatched,
) -> Training:
    """A training at its beginning: from scratch, pretrained or from `weights` (a state); `budget` in seconds.

    Raises TrainingError where the network's answer is not of its image's size, pretrained weights cannot be had, or a
    pattern to freeze by matches nothing.
    """
    if config.deterministic and device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.use_deterministic_algorithms(True)
    network = initial_network(config)
    check_answer(network, config.network)
    pretrained = start_from(network, config.pretrained, watch) if weights is None else {}
    if weights is not None:
        network.load_state_dict(weights)
    average = copy.deepcopy(network).to(device).eval()
    network.to(device)
    optimiser = build_optimiser(config.optimiser, network.parameters())
    softmax = exclusive(config.target)
    loss = build_loss(config.loss.kind, softmax=softmax, **config.loss.loss_parameters()).to(device)
    precision = choose_precision(config.precision, device)
    training = Training(config, network, average, optimiser, loss, device, precision, Progress(), {}, budget)
    training.pretrained = pretrained
    freeze_for_phase(network, config, 0)
    return training


def resume_training(training: Training, folder: Path, identity: str) -> None:
    """Put a training back where its last checkpoint left it."""
    networks = {"network": training.network, "average": training.average}
    training.progress, training.best = load_checkpoint(
        folder, networks, training.optimiser, identity, training.precision
    )
    freeze_for_phase(training.network, training.config, training.progress.phase)


def write_checkpoint(training: Training, folder: Path, identity: str) -> None:
    """Save where the training stands."""
    states = {"network": training.network.state_dict(), "average": training.average.state_dict(), "best": training.best}
    save_checkpoint(folder, states, training.optimiser, training.progress, identity, training.precision)


def _done(training: Training, steps: int) -> float:
    """How much of the phase is done, in [0, 1]; of the whole training where the time decides."""
    progress = training.progress
    fraction = (progress.step - progress.phase_step) / (steps * training.config.plan[progress.phase].epochs)
    return max(fraction, training.elapsed / training.budget) if training.budget else fraction


def _rate(training: Training, steps: int) -> float:
    progress = training.progress
    stand = Stand(
        progress.step - progress.phase_step,
        _done(training, steps),
        progress.epoch - progress.phase_epoch,
        progress.history[progress.phase_epoch :],
    )
    return learning_rate(training.config.schedule, training.config.plan[progress.phase].lr, stand)


def _out_of_time(training: Training, reserve: float = 0.0) -> bool:
    return training.budget is not None and training.elapsed + reserve >= training.budget


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and BatchNorm statistics; short memory in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def train_step(training: Training, batch: dict[str, Tensor]) -> float:
    """One optimiser step on a batch of `image` `(N, C, Y, X)` and `target` `(N, K, Y, X)`; returns the loss."""
    config, device = training.config, training.device
    image = batch["image"].to(device, memory_format=unet.images_layout(batch["image"]), non_blocking=True)
    target = batch["target"].to(device, non_blocking=True)
    pixels = batch["weight"].to(device, non_blocking=True) if "weight" in batch else None
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training.precision is torch.bfloat16):
        logits = training.network(image)
    logits = [level.float() for level in logits] if isinstance(logits, list) else logits.float()
    loss: Tensor = training.loss(logits, target, pixels)
    if not torch.isfinite(loss):
        raise TrainingError(
            f"step {training.progress.step}", f"loss {loss.item()}", "a finite one", "lower optimiser.lr"
        )
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if training.progress.step == training.progress.phase_step:
        check_gradients(training.network, config, training.progress.phase)
    if config.clip:
        nn.utils.clip_grad_norm_(training.network.parameters(), config.clip)
    training.optimiser.step()
    _follow(training.average, training.network, config.ema, training.progress.step)
    training.progress.step += 1
    return float(loss.item())


def _epoch(training: Training, loader: EpochLoader | ResidentLoader, reserve: float, watch: Watch) -> dict[str, float]:
    """One pass; stops early where the time budget ends. `reserve` is what validation will take, in seconds."""
    config, epoch = training.config, training.progress.epoch
    torch.manual_seed(config.seed * 100_003 + epoch)
    steps, losses, images, start = len(loader), 0.0, 0, time.perf_counter()
    rate = 0.0
    training.network.train()
    rest_frozen_statistics(training.network)
    for number, batch in enumerate(loader.epoch(epoch)):
        rate = _rate(training, steps)
        for group in training.optimiser.param_groups:
            group["lr"] = rate
        losses += train_step(training, batch) * len(batch["image"])
        images += len(batch["image"])
        left = _seconds_left(training, steps)
        watch(Event("train", number + 1, steps, {"epoch": epoch + 1, "loss": losses / images, "seconds_left": left}))
        if _out_of_time(training, reserve):
            break
    seconds = time.perf_counter() - start
    return {"train_loss": losses / images, "lr": rate, "images_per_second": images / seconds, "train_seconds": seconds}


def _seconds_left(training: Training, steps: int) -> float:
    done = _done(training, steps)
    by_steps = training.elapsed * (1 - done) / max(done, 1e-6)
    return min(by_steps, training.budget - training.elapsed) if training.budget else by_steps


def run_training(
    training: Training,
    examples: Sequence[Example],
    validation: Sequence[Example],
    folder: Path,
    identity: str,
    watch: Watch = unwatched,
) -> Iterator[EpochResult]:
    """Train until the epochs, the patience or the time are used up, one result an epoch, a checkpoint after each."""
    config, progress = training.config, training.progress
    loader = load_for(training.device, build_dataset(examples, config), config.batch_size)
    thresholds = usual_thresholds(config.target)
    training.started, reserve = time.perf_counter(), 0.0
    while not _out_of_time(training, reserve) and (not phase_over(training) or _next_phase(training)):
        start = time.perf_counter()
        metrics = _epoch(training, loader, reserve, watch)
        network = training.average if config.ema else training.network
        metrics |= validate(network, validation, config, thresholds, training.loss, training.device)
        reserve = time.perf_counter() - start - metrics["train_seconds"]
        metrics["epoch_seconds"] = time.perf_counter() - start
        score = -metrics["val_loss"] if config.stopping.watch == "loss" else metrics[score_name(config.target)]
        better = score > progress.best or config.stopping.watch == "last"
        if better:
            progress.best, progress.best_epoch = score, progress.epoch
            training.best = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
        progress.epoch += 1
        progress.elapsed, training.started = training.elapsed, time.perf_counter()
        progress.history.append({"epoch": float(progress.epoch), **metrics})
        write_checkpoint(training, folder, identity)
        yield EpochResult(progress.epoch, metrics, better)


def epochs_done(training: Training) -> bool:
    """Whether the current phase has had all its epochs."""
    progress = training.progress
    return progress.epoch - progress.phase_epoch >= training.config.plan[progress.phase].epochs


def phase_over(training: Training) -> bool:
    """Whether the current phase has had its epochs, or its patience is used up."""
    phase, progress = training.config.plan[training.progress.phase], training.progress
    since = progress.epoch - 1 - max(progress.best_epoch, progress.phase_epoch - 1)
    tired = progress.epoch - progress.phase_epoch >= phase.minimum_epochs and since >= phase.patience
    return epochs_done(training) or (progress.best_epoch >= 0 and tired)


def _next_phase(training: Training) -> bool:
    """Begin the next phase with the best weights so far and a fresh optimiser; False where there is none."""
    progress = training.progress
    if progress.phase + 1 >= len(training.config.plan):
        return False
    progress.phase, progress.phase_epoch, progress.phase_step = progress.phase + 1, progress.epoch, progress.step
    for network in (training.network, training.average):
        network.load_state_dict(training.best or network.state_dict())
    training.optimiser.state.clear()
    training.optimiser.zero_grad(set_to_none=True)
    freeze_for_phase(training.network, training.config, progress.phase)
    return True
