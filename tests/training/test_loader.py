"""Batches come epoch by epoch, the same ones from worker processes, which are started once."""

import os

import pytest
import torch

from pipeline.training.loader import EpochLoader, load_for


class Numbers:
    """Five samples: 10 times the epoch plus the index, and the process that made each."""

    def __init__(self) -> None:
        self.epoch, self.begun = -1, 0

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.begun = epoch, self.begun + 1

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.tensor(10 * self.epoch + index), "process": torch.tensor(os.getpid())}


def numbers(loader: EpochLoader, epoch: int) -> list[list[int]]:
    return [batch["image"].tolist() for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_their_epoch(workers: int) -> None:
    """Any epoch in any order, the last batch smaller, also after one that was left in the middle."""
    loader = EpochLoader(Numbers(), 2, workers)
    assert len(loader) == 3
    assert numbers(loader, 0) == [[0, 1], [2, 3], [4]]
    for _ in loader.epoch(1):
        break
    assert numbers(loader, 4) == [[40, 41], [42, 43], [44]]
    assert numbers(loader, 2) == [[20, 21], [22, 23], [24]]


def test_workers_are_started_once_and_draw_nothing_of_ours() -> None:
    """The same two processes serve both epochs, none of them is this one; torch's generator is not touched."""
    loader = EpochLoader(Numbers(), 1, 2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second = ({int(b["process"]) for b in loader.epoch(epoch)} for epoch in (0, 1))
    assert first == second and len(first) == 2 and os.getpid() not in first
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_is_begun_once() -> None:
    """What an epoch draws for all its samples is drawn once, not for each."""
    data = Numbers()
    loader = load_for("cpu", data, 2)
    numbers(loader, 0), numbers(loader, 1)
    assert data.begun == 2
