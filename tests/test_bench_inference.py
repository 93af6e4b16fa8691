"""The benchmarks of inference run to their end, on the CPU and a small image; what they time is not asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("inference.py", "--side", "256", "--repeats", "1", "--threads", "1", "--networks", "nuclei"),
        (
            "inference_gpu.py",
            "--device",
            "cpu",
            "--side",
            "256",
            "--repeats",
            "1",
            "--batches",
            "1,2",
            "--networks",
            "nuclei",
        ),
    ],
)
def test_the_benchmark_ends_with_its_ratios(command: tuple[str, ...]) -> None:
    """The last line is a ratio with its range, over MONAI."""
    run = subprocess.run(
        [sys.executable, str(BENCH / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCH.parent,
    )
    assert run.returncode == 0, run.stderr
    last = run.stdout.strip().splitlines()[-1]
    assert last.startswith("nuclei: ") and "x over MONAI" in last and "(range " in last and "as it comes" not in last
