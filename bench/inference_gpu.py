"""maskline's accelerator path against MONAI's SlidingWindowInferer on one GPU: the table of bench/inference.py.

    python bench/inference_gpu.py [--device cuda] [--side 4096] [--repeats 5] [--batches 1,4,16] [--compile]

Peers: eager float32 (TF32 as torch has it by default) and bfloat16 under autocast, both channels_last, windows of 256
in batches of each size, image and result on the GPU; ratios are of the quickest. maskline gets the uint8 image in host
memory and gives probabilities in host memory, copies included; batches of each size, bfloat16 and float32.
Without MONAI only our own rows are printed. `--device cpu --side 256` runs the whole of it anywhere.
"""

import argparse
import copy
import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from inference import MODES, NETWORKS, Took, error, logits_instead, made_image, ratios, timed

import unet
from pipeline.inference.device_engine import DeviceEngine
from pipeline.inference.forward import on_grid
from pipeline.inference.predict import predict
from pipeline.model.bundle import TrainedModel
from pipeline.model.prepare import fit
from pipeline.types import Array

Work = Callable[[], Any]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def waited(work: Work, device: str) -> Work:
    """The same, until the device is done."""

    def whole() -> Any:
        answer = work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return answer

    return whole


def peers(model: TrainedModel, image: torch.Tensor, device: str, batches: Sequence[int]) -> dict[str, Work]:
    """Logits on the device, by overlap and mode, precision and batch."""
    if importlib.util.find_spec("monai") is None:
        return {}
    from monai.inferers import SlidingWindowInferer

    network = unet.channels_last(copy.deepcopy(model.network).to(device))
    pixels = image.to(device).contiguous(memory_format=torch.channels_last)

    def run(batch: int, overlap: float, mode: str, precision: torch.dtype) -> Any:
        half = torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == torch.bfloat16)
        with torch.inference_mode(), half:
            return SlidingWindowInferer((256, 256), batch, overlap, mode)(pixels, network)

    return {
        f"MONAI {overlap} {mode}, {name}, batch {batch}": waited(
            lambda b=batch, o=overlap, m=mode, p=precision: run(b, o, m, p), device
        )
        for overlap, mode in MODES
        for name, precision in PRECISIONS.items()
        for batch in batches
    }


def own(
    model: TrainedModel, pixels: Array, device: str, batches: Sequence[int], compiled: bool
) -> tuple[dict[str, Work], dict[str, float]]:
    """Probabilities on the host, by precision and batch; errors of logits against the whole image in float32."""
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    tile, how = on_grid(pixels, preparation)
    with torch.inference_mode():
        prepared = torch.from_numpy(preparation.apply(pixels))[None]
        whole = model.network.to("cpu")(prepared)[0].numpy()
    works: dict[str, Work] = {}
    far: dict[str, float] = {}
    for name, precision in PRECISIONS.items():
        with logits_instead():
            found = predict(
                DeviceEngine(model, device, precision=precision), tile, how, core=min(1024, pixels.shape[1] // 2)
            )
        for batch in batches:
            engine = DeviceEngine(model, device, batch=batch, precision=precision, compiled=compiled)
            engine.core = min(engine.core, max(engine.stride, pixels.shape[1] // 2 // engine.stride * engine.stride))
            kind = f"maskline {name}, batch {batch}"
            works[kind] = lambda engine=engine: predict(engine, tile, how, core=engine.core)
            far[kind] = error(found, whole)
    return works, far


def best(took: Mapping[str, Sequence[Took]], begins: str) -> str:
    return min((kind for kind in took if kind.startswith(begins)), key=lambda kind: min(t.wall for t in took[kind]))


def compare(name: str, arguments: argparse.Namespace, batches: Sequence[int]) -> list[str]:
    """The table of one network; returns the lines with the ratios of the best against the best of each peer."""
    model, pixels = NETWORKS[name](), made_image(arguments.side)
    works, far = own(model, pixels, arguments.device, batches, arguments.compile)
    preparation = fit(pixels, model.record.prepare, stride=model.record.stride)
    works |= peers(model, torch.from_numpy(preparation.apply(pixels))[None], arguments.device, batches)
    for work in works.values():
        work()
    took: dict[str, list[Took]] = {kind: [] for kind in works}
    for _ in range(arguments.repeats):
        for kind, work in works.items():
            took[kind].append(timed(work))
    for kind, each in took.items():
        wall = statistics.median(one.wall for one in each)
        told = f"  error {far[kind]:.1e}" if kind in far else ""
        print(f"  {kind:<44} {wall * 1e3:9.1f} ms {arguments.side**2 / 1e6 / wall:8.1f} Mpx/s{told}")
    chosen = {best(took, f"maskline {precision}") for precision in PRECISIONS}
    if importlib.util.find_spec("monai") is not None:
        chosen |= {best(took, f"MONAI {overlap} {mode}, {p}") for overlap, mode in MODES for p in PRECISIONS}
    return list(ratios(name, {kind: took[kind] for kind in took if kind in chosen}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--networks", default="guide,nuclei")
    parser.add_argument("--compile", action="store_true", help="kernels and CUDA graphs of torch.compile")
    arguments = parser.parse_args()
    what = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else arguments.device
    lines = []
    for name in arguments.networks.split(","):
        print(f"{name}, {arguments.side} x {arguments.side} px, {what}, torch {torch.__version__}")
        lines += compare(name, arguments, [int(batch) for batch in arguments.batches.split(",")])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
