"""What a network is, before or after it is trained: layers, size, reach, work and memory.

Shapes, operations and memory come from one forward pass on torch's `meta` device: nothing is computed, so that any
input size can be asked about on any machine.
"""

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

import unet
from pipeline.config import SingleNetwork, TrainConfig, build_config, read_tree, single_network
from pipeline.errors import UsageError
from pipeline.model.halo import FARTHEST, Sight, probe_sight


@dataclass(frozen=True)
class Layer:
    """A module without modules inside: its name, kind, output shape `(C, (Z,) Y, X)` and parameters."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Description:
    """What `maskline models describe` says of a network at an input `(C, (Z,) Y, X)`."""

    kind: str
    input: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: int
    as_keras: int
    answer: tuple[int, ...]  # (K, (Z,) Y, X)
    stride: tuple[int, ...]
    sides: tuple[unet.Side, ...]
    sight: Sight
    flops: int  # two for each multiplication with addition
    statistics: bool  # whether it takes some of the whole image
    weight_bytes: int
    peak_bytes: int  # activations that live at the same time, input included

    def lines(self) -> list[str]:
        """A table of layers, and what matters about the whole."""
        voxels, unit = prod(self.input[1:]), "Mpx" if len(self.input) == 3 else "Mvoxel"
        width = max(len(layer.name) for layer in self.layers)
        kinds = max(len(layer.kind) for layer in self.layers)
        rows = [
            f"{layer.name:<{width}}  {layer.kind:<{kinds}}  {_times(layer.shape):>20}  {layer.parameters:>12,}"
            for layer in self.layers
        ]
        return [
            f"{'layer':<{width}}  {'kind':<{kinds}}  {'output':>20}  {'parameters':>12}",
            *rows,
            "",
            f"network     {self.kind}",
            f"parameters  {self.parameters:,} ({self.as_keras:,} with moving statistics)",
            f"input       {_times(self.input)}; sides {_words(self.sides)}",
            f"answer      {_times(self.answer)}",
            f"tiles       {self._tiles()}",
            f"field       {self._field()}",
            f"work        {self.flops / 1e9 / (voxels / 1e6):,.1f} GFLOP per {unit}",
            f"memory      {self.weight_bytes / 2**20:,.1f} MiB of weights, {self.peak_bytes / 2**20:,.1f} MiB of "
            "activations at once when predicting (float32)",
        ]

    @property
    def halos(self) -> tuple[int, ...] | None:
        """What tiles are exact with, `((Z,) Y, X)` in pixels; None where none is."""
        return self.sight.halos

    def _tiles(self) -> str:
        if self.answer[1:] != self.input[1:]:
            return "none: the answer is smaller than the image"
        if self.halos is not None:
            return f"exact, halo {_times(self.halos)} px"
        if self.statistics:
            return "blended: InstanceNorm or GroupNorm takes statistics of the whole image"
        return f"blended: it sees farther than {FARTHEST} px"

    def _field(self) -> str:
        if self.sight.fields is None:
            return f"more than {self.sight.limit} px on each side of an answer"
        besides = ", besides those statistics" if self.statistics else ""
        about = "" if self.sight.regular else "about "
        return f"{about}{_times(self.sight.fields)} px for the answer of one{besides} (found by a NaN probe)"


def _words(sides: Sequence[unet.Side]) -> str:
    """What sides may be: `divisible by 16 x 16` where that is all, else as the network says."""
    plain = all(side == unet.Side(side.step) for side in sides)
    return f"divisible by {_times([side.step for side in sides])}" if plain else str(sides[0])


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that live at the same time, by their storages; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until it is gone."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for value in tree_flatten(answer)[0]:
            if isinstance(value, Tensor):
                self.see(value)
        return answer


def _shape_of(answer: Any) -> tuple[int, ...]:
    first = answer[0] if isinstance(answer, tuple | list) else answer
    return tuple(first.shape[1:]) if isinstance(first, Tensor) else ()


def _watch_layers(network: nn.Module, found: list[Layer]) -> None:
    for name, module in network.named_modules():
        if any(True for _ in module.children()) or not name:
            continue

        def note(module: nn.Module, _: Any, answer: Any, name: str = name) -> None:
            found.append(Layer(name, type(module).__name__, _shape_of(answer), unet.count_parameters(module)))

        module.register_forward_hook(note)


def _first_answer(network: nn.Module, image: Tensor) -> Any:
    """The network's answer; raises UsageError where the image is too small for it (one pixel to take statistics of)."""
    try:
        return network(image)
    except (RuntimeError, ValueError) as error:
        came, first = _times(image.shape[2:]), str(error).splitlines()[0]
        raise UsageError("--shape", came, f"an image that the network takes ({first})", "give a larger one") from None


def describe_network(config: SingleNetwork, network: nn.Module, shape: Sequence[int] = ()) -> Description:
    """Describe a network of `config` at an image of `shape` `((Z,) Y, X)`; without one, 8 strides or 256 px a side.

    Raises UsageError for a shape that does not fit the network.
    """
    grid = unet.sides_of(network, config.dimensions)
    strides = tuple(side.step for side in grid)
    usual = (each * max(2, 256 // each if config.dimensions == 2 else 4) for each in strides)
    sides = tuple(shape) or tuple(side.above(each) for side, each in zip(grid, usual, strict=True))
    if len(sides) != len(grid) or any(side.above(each) != each for side, each in zip(grid, sides, strict=False)):
        fitting = [side.above(each) for side, each in zip(grid, (*sides, *sides[-1:] * len(grid)), strict=False)]
        raise UsageError(
            "--shape", _times(sides), f"{len(grid)} sides {_words(grid)}", "give it as " + "x".join(map(str, fitting))
        )
    drawn = copy.deepcopy(network).eval().to("meta")
    image = torch.empty(1, config.in_channels, *sides, device="meta")
    layers: list[Layer] = []
    with torch.no_grad():
        with PeakMemory() as memory:
            memory.see(image)
            answer = _first_answer(drawn, image)
        with FlopCounterMode(display=False) as counter:
            drawn(image)
        _watch_layers(drawn, layers)
        drawn(image)
    tensors = [*network.parameters(), *network.buffers()]
    return Description(
        kind=config.kind,
        input=(config.in_channels, *sides),
        layers=tuple(layers),
        parameters=unet.count_parameters(network),
        as_keras=unet.count_as_keras(network),
        answer=_shape_of(answer),
        stride=strides,
        sides=grid,
        sight=probe_sight(network, config.in_channels, config.dimensions),
        statistics=unet.has_global_statistics(network),
        flops=counter.get_total_flops(),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        peak_bytes=memory.peak,
    )


def describe_config(path: Path, shape: Sequence[int] = ()) -> Description:
    """The network of a training's YAML config, before any training."""
    config = build_config(TrainConfig, read_tree(path), str(path)).network
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"}))
    return describe_network(config, network, shape)


def describe_model(folder: Path, shape: Sequence[int] = ()) -> Description:
    """The network of a trained model; of an ensemble one member, as all are alike."""
    from pipeline.model.bundle import load_model

    model = load_model(folder)
    config = single_network(model.record.network)
    members = getattr(model.network, "members", None)
    return describe_network(config, members[0] if members is not None else model.network, shape)
