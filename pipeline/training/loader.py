"""Batches, epoch by epoch. On a GPU crops are made there, of images that stay in its memory (`batched`); other samples,
and crops of images that do not fit, come from worker processes that live as long as the training.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.training.batched import BatchAugmentd, ResidentLoader
from pipeline.training.dataset import CropDataset

WORKERS = 4  # of a training on a GPU; on a CPU they would take the cores that train
RESIDENT = 0.5  # of a GPU's free memory may be taken by the images


class Samples(Protocol):
    """The samples of an epoch: each depends on (seed, epoch, index) alone."""

    def start_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


class _InOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of each sample in turn: how workers that live on learn that another epoch has begun."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in range(self.length))

    def __len__(self) -> int:
        return self.length


class _OfEpoch(Dataset[dict[str, Tensor]]):
    """Sample `(epoch, index)` of `data`, which is told when an epoch begins."""

    def __init__(self, data: Samples) -> None:
        self.data, self.epoch = data, -1

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = at
        if epoch != self.epoch:
            self.data.start_epoch(epoch)
            self.epoch = epoch
        return self.data[index]


class EpochLoader:
    """Batches of `data` as dictionaries of tensors, the last one as small as it comes.

    With `workers` they are made in as many processes, which are started once; what they make is the same.
    """

    def __init__(self, data: Samples, batch_size: int, workers: int = 0, pin: bool = False) -> None:
        self._order = _InOrder(len(data))
        self._batches: DataLoader[Any] = DataLoader(
            _OfEpoch(data),
            batch_size,
            sampler=self._order,
            num_workers=workers,
            pin_memory=pin,
            persistent_workers=workers > 0,
            generator=torch.Generator() if workers else None,  # of the workers' seeds, which no sample looks at
        )

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int) -> Iterable[dict[str, Tensor]]:
        """The batches of epoch `number`."""
        self._order.epoch = number
        return self._batches


def load_for(device: str, data: Samples, batch_size: int) -> EpochLoader | ResidentLoader:
    """The loader of a training on `device`."""
    if not device.startswith("cuda"):
        return EpochLoader(data, batch_size)
    if isinstance(data, CropDataset) and BatchAugmentd.can(data):
        free, _ = torch.cuda.mem_get_info(device)
        if BatchAugmentd.bytes_needed(data) < free * RESIDENT:
            return ResidentLoader(data, batch_size, device)
    return EpochLoader(data, batch_size, WORKERS, pin=True)
