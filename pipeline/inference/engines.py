from typing import Protocol, Any
from collections.abc import Iterable, Iterator


class Engine(Protocol):
    name: str
    outputs: int
    core: int

    def map(self, tiles: Iterable[Any], preparation: Any) -> Iterator[Any]: ...
