"""maskline's engines against MONAI's SlidingWindowInferer: same weights, same 2048 x 2048 image, one ratio each.

    python bench/inference.py [--side 2048] [--repeats 5] [--threads 2] [--networks guide,nuclei]

MONAI gets the float image, prepared beforehand, in the layout and window batch (1 or 4) that are quickest for it (tried
first); what it takes in its own layout, as tutorials have it, is printed too. maskline gets the uint8 image, normalises
it and gives probabilities, by tiles. The error is the largest difference of logits from the whole image's forward, in
standard deviations of the logits (int8 graphs give no logits), and that of probabilities, largest and mean. Everything
interleaved, in one process; the last line is int8 over MONAI at its best. The guide's network has drawn weights, and so
its int8 form shows speed alone; the shipped one's passed the gate of `maskline models quantise`.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

import unet
from pipeline.config import GuideUNet, MaskTarget, PrepareConfig
from pipeline.data.simulate import simulate_image
from pipeline.inference import forward
from pipeline.inference.engines import Engine, make_engine
from pipeline.inference.forward import on_grid
from pipeline.inference.openvino_engine import OpenVinoEngine, convert, int8_file
from pipeline.inference.predict import predict
from pipeline.inference.quantise import calibrate
from pipeline.model.bundle import ModelRecord, TrainedModel, describe_network, find_model, load_model
from pipeline.model.prepare import fit
from pipeline.model.targets import activate
from pipeline.types import Array
from unet.folding import processor_has_bfloat16

WINDOW = 256
AS_IT_COMES = ", as it comes"
IN_FLOATS = ("torch", *(["torch-bfloat16"] if processor_has_bfloat16() else []), "openvino")
MODES = ((0.25, "constant"), (0.5, "gaussian"))


@dataclass(frozen=True)
class Took:
    """Seconds of one run."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Sample:
    """What quantising calibrates on."""

    pixels: Array
    labels: Array
    preparation: Any


def guide() -> TrainedModel:
    """The guide's network as its config has it, with weights drawn from seed 0."""
    torch.manual_seed(0)
    config = GuideUNet()
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(network, 3)
    record = ModelRecord(
        name="guide",
        network=config,
        prepare=PrepareConfig(),
        target=MaskTarget(),
        outputs=("foreground",),
        stride=stride,
        halo=halo,
    )
    return TrainedModel(unet.channels_last(network), record, "guide-drawn-seed-0")


def shipped() -> TrainedModel:
    """The nuclei model of the package."""
    return load_model(find_model("shipped:nuclei"))


NETWORKS: Mapping[str, Callable[[], TrainedModel]] = {"guide": guide, "nuclei": shipped}


def made_image(side: int) -> Array:
    """`(3, side, side)` uint8: made nuclei, a field of at most 1024 px repeated."""
    field = min(side, 1024)
    grey, _ = simulate_image(np.random.default_rng(0), "fluorescence", (field, field))
    times = -(-side // field)
    return np.repeat(np.tile(grey, (times, times))[None, :side, :side], 3, axis=0)


def timed(work: Callable[[], Any]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def monai_run(network: torch.nn.Module, image: torch.Tensor, batch: int, overlap: float, mode: str) -> torch.Tensor:
    """Logits by the peer."""
    from monai.inferers import SlidingWindowInferer

    with torch.inference_mode():
        answer = SlidingWindowInferer((WINDOW, WINDOW), batch, overlap, mode)(image, network)
    assert isinstance(answer, torch.Tensor)
    return answer


def monai_best(
    model: TrainedModel, image: torch.Tensor, overlap: float, mode: str
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], str]:
    """The peer at its best, the peer as it comes (NCHW, batch 1), and what its best is: measured on a corner."""
    plain: torch.nn.Module = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    last = unet.channels_last(copy.deepcopy(model.network))
    layouts = {
        "NCHW": (plain, image),
        "channels_last": (last, image.contiguous(memory_format=torch.channels_last)),
    }
    corner, took = min(768, image.shape[-1]), {}
    for name, (network, pixels) in layouts.items():
        for batch in (1, 4):
            part = pixels[:, :, :corner, :corner]
            monai_run(network, part, batch, overlap, mode)
            took[name, batch] = timed(lambda n=network, p=part, b=batch: monai_run(n, p, b, overlap, mode)).wall
    name, batch = min(took, key=lambda key: took[key])
    best_network, best_image = layouts[name]
    return (
        lambda: monai_run(best_network, best_image, batch, overlap, mode),
        lambda: monai_run(plain, image, 1, overlap, mode),
        f"{name}, windows in batches of {batch}",
    )


@contextmanager
def logits_instead() -> Iterator[None]:
    """Engines made inside answer logits, so that errors can be measured where probabilities have saturated."""
    with mock.patch.object(forward, "activate", lambda logits, target: logits):
        yield


def engines(model: TrainedModel, threads: int, pixels: Array) -> dict[str, Engine]:
    """Torch, OpenVINO, and OpenVINO in int8: the shipped file, or one calibrated here where none belongs to it."""
    found = {name: make_engine(model, "cpu", name, threads) for name in IN_FLOATS}
    if int8_file(model).is_file():
        found["openvino-int8"] = make_engine(model, "cpu", "openvino-int8", threads)
    else:
        part = pixels[:, :512, :512]
        sample = Sample(part, part[0], fit(part, model.record.prepare, stride=model.record.stride))
        found["int8, not gated"] = OpenVinoEngine(
            model, threads, calibrate(convert(model), [sample], model.record.stride)
        )
    return found


def error(found: Array, whole: Array) -> float:
    return float(np.abs(found - whole).max() / whole.std())


def told_error(found: Array, whole: Array) -> str:
    """Of probabilities, for a person."""
    difference = np.abs(found - whole)
    return f"{difference.max():.1e} (mean {difference.mean():.1e})"


def errors(model: TrainedModel, threads: int, pixels: Array, whole: Array) -> dict[str, float]:
    """Of our engines' logits against the whole image's forward."""
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    found = {}
    with logits_instead():
        for name in IN_FLOATS:
            engine = make_engine(replace(model, digest=f"{model.digest[:12]}-log"), "cpu", name, threads)
            found[name] = error(predict(engine, *on_grid(pixels, preparation), core=1024), whole)
    return found


def compare(name: str, side: int, repeats: int, threads: int) -> list[str]:
    """The table of one network; returns the lines with the ratios."""
    model, pixels = NETWORKS[name](), made_image(side)
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    image = torch.from_numpy(preparation.apply(pixels))[None]
    with torch.inference_mode():
        whole = model.network(image)[0].numpy()
    answer = activate(torch.from_numpy(whole)[None], model.record.target)[0].numpy()
    far, told = errors(model, threads, pixels, whole), {}
    works: dict[str, Callable[[], Any]] = {}
    for kind, engine in engines(model, threads, pixels).items():
        works[kind] = lambda engine=engine: predict(engine, *on_grid(pixels, preparation))
        told[kind] = told_error(works[kind](), answer)
        print(f"  {kind}: cores of {engine.core} px")
    for overlap, mode in MODES:
        best, plain, how = monai_best(model, image, overlap, mode)
        print(f"  MONAI {overlap} {mode}, at its best: {how}")
        peer = f"MONAI {overlap} {mode}"
        works[peer + AS_IT_COMES], works[peer] = plain, best
        logits = best()
        far[peer] = error(logits[0].numpy(), whole)
        told[peer] = told_error(activate(logits, model.record.target)[0].numpy(), answer)
    took: dict[str, list[Took]] = {kind: [] for kind in works}
    for _ in range(repeats):
        for kind, work in works.items():
            took[kind].append(timed(work))
        print("  " + ", ".join(f"{each[-1].wall:.2f}" for each in took.values()) + " s", flush=True)
    for kind, each in took.items():
        wall, cpu = (statistics.median(getattr(one, what) for one in each) for what in ("wall", "cpu"))
        line = f"  {kind:<32} {wall:7.3f} s wall {cpu:7.3f} s CPU {side * side / 1e6 / wall:6.2f} Mpx/s"
        logits_far = f"{far[kind]:.1e}" if kind in far else "-"
        print(f"{line}  error {logits_far}, of probabilities {told.get(kind, '-')}")
    return list(ratios(name, took))


def ratios(name: str, took: Mapping[str, list[Took]]) -> Iterator[str]:
    """How many times quicker, repeat by repeat: median and range of wall, median of CPU time."""
    ours = [kind for kind in took if not kind.startswith("MONAI")]
    for peer in sorted(
        (kind for kind in took if kind.startswith("MONAI")), key=lambda kind: kind.count(AS_IT_COMES) == 0
    ):
        for kind in ours:
            wall = [b.wall / a.wall for a, b in zip(took[kind], took[peer], strict=True)]
            cpu = statistics.median(b.cpu / a.cpu for a, b in zip(took[kind], took[peer], strict=True))
            yield (
                f"{name}: {kind} {statistics.median(wall):.2f}x over {peer} "
                f"(range {min(wall):.2f}-{max(wall):.2f}; CPU time {cpu:.2f}x)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", default="guide,nuclei")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = []
    for name in arguments.networks.split(","):
        print(f"{name}, {arguments.side} x {arguments.side} px, {arguments.threads} threads")
        lines += compare(name, arguments.side, arguments.repeats, arguments.threads)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
