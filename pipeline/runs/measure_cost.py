"""What an evaluation took: parameters, speed and memory, for the record that stands beside the scores."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.runs.record_run import hardware

NUMBERS = ("parameters", "megapixels_per_second", "images_per_second", "peak_memory_mb", "accelerator_memory_mb")


def peak_memory() -> int:
    """The most memory (bytes) that this process has held at once so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, `getrusage` begins with what the starting process had
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if peak:
            return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _accelerator_memory() -> int:
    """The most (bytes) that torch has held at once on all CUDA devices together."""
    torch = sys.modules.get("torch")  # not loaded only to say so
    if torch is None or not torch.cuda.is_available():
        return 0
    return sum(int(torch.cuda.max_memory_reserved(number)) for number in range(torch.cuda.device_count()))


@dataclass
class Cost:
    """Begin it before the model is loaded, segment through it, and ask for the `record`.

    The first image pays for what happens once (compiling, choosing kernels, filling caches): speed is that of the
    others, where there are others. Reading files is left out of it.
    """

    before: int = field(default_factory=peak_memory)
    timed: list[tuple[float, int]] = field(default_factory=list)  # seconds, pixels
    engine: str = ""

    def segment(self, segmenter: Any, source: Any, options: Any) -> Any:
        """What `segmenter` answers, with its time."""
        began = time.perf_counter()
        answer = segmenter.segment(source, options)
        seconds = time.perf_counter() - began - answer.seconds.get("read", 0.0)
        self.timed.append((seconds, int(answer.labels.size)))
        self.engine = str(answer.statistics.get("engine", ""))
        return answer

    def record(self, segmenter: Any, device: str) -> dict[str, Any]:
        """Ready for JSON; what is not known is None.

        `peak_memory_mb` is the most the process held, model included; None where it had held more before.
        """
        import unet
        from pipeline.inference.engines import choose_device

        known = self.timed[1:] or self.timed
        seconds, megapixels = sum(one for one, _ in known), sum(pixels for _, pixels in known) / 1e6
        peak, accelerator = peak_memory(), _accelerator_memory()
        return {
            "parameters": unet.count_parameters(segmenter.model.network),
            "timed_images": len(known),
            "megapixels_per_second": round(megapixels / seconds, 4) if seconds > 0 else None,
            "images_per_second": round(len(known) / seconds, 4) if seconds > 0 else None,
            "peak_memory_mb": round(peak / 1e6, 1) if peak > self.before else None,
            "accelerator_memory_mb": round(accelerator / 1e6, 1) if accelerator else None,
            "engine": self.engine,
            "device": choose_device(device) if device == "auto" else device,
            "hardware": hardware(),
        }


def cost_numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the record for MLflow; none where there is no record."""
    cost = scores.get("cost", {})
    return {name: float(cost[name]) for name in NUMBERS if cost.get(name) is not None}
