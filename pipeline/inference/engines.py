"""Stand-in until the engines land."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch

from pipeline.model.targets import activate


class Engine(Protocol):
    name: str
    outputs: int
    core: int

    def map(self, tiles: Iterable[Any], preparation: Any) -> Iterator[Any]: ...


class Simple:
    name = "torch"
    core = 512

    def __init__(self, model: Any) -> None:
        self.model, self.outputs = model, len(model.record.outputs)

    def map(self, tiles: Iterable[Any], preparation: Any) -> Iterator[Any]:
        for tile in tiles:
            x = torch.from_numpy(preparation.normalise(tile))[None]
            with torch.inference_mode():
                yield activate(
                    self.model.network(x.contiguous(memory_format=torch.channels_last)).float(),
                    self.model.record.target,
                )[0].numpy()


def make_engine(model: Any, device: str = "auto", engine: str = "auto", threads: int | None = None) -> Any:
    return Simple(model)
