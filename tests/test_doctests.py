"""Every example in a docstring is true."""

import doctest
import pkgutil
from importlib import import_module

import pytest

PACKAGES = ("flows", "pipeline", "unet")


def modules():
    for name in PACKAGES:
        package = import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if "shipped" not in found.name:
                yield found.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples_are_true(name):
    """The examples of one module, run as they stand."""
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples():
    """The test above has something to look at."""
    finder = doctest.DocTestFinder()
    examples = [test for name in modules() for test in finder.find(import_module(name)) if test.examples]
    assert len(examples) >= 10
