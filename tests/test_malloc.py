"""Large arrays are made of memory that the process has already, on every thread."""

import subprocess
import sys

import pytest

MAKE = """
import threading
from pipeline.malloc import keep_memory  # `pipeline` itself says that threads share the arena
import resource
import numpy as np

def together(work, count=2):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def work():
    for _ in range(4):
        np.ones(2**26, np.uint8)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    together(work)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

together(lambda: [bytes(1000) for _ in range(1000)], 4)  # threads that came and went before
first = faults()
if not keep_memory():
    print("elsewhere")
else:
    faults()
    print(first, faults())
"""


def test_what_is_freed_is_used_again() -> None:
    """Four arrays of 64 MB on each of two threads: before, each page of each is fetched anew; afterwards, few are."""
    said = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, check=True).stdout.split()
    if said == ["elsewhere"]:
        pytest.skip("the system has another malloc than glibc's")
    before, after = map(int, said)
    assert after < before / 20
