"""The house: which way imports point, how large a module and a function may be, and what nobody may do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("flows", "pipeline", "unet") for path in (REPOSITORY / package).rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 300, 60
VAGUE = {"utils", "helpers", "common", "base", "core", "manager", "misc"}
BROAD_IN = {"pipeline/results/tracking.py", "pipeline/runs/segment_case.py"}  # the tracker's and the per-image border
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}


def names(paths):
    return [path.relative_to(REPOSITORY).as_posix() for path in paths]


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def statements(function):
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if documented else 0)


def test_the_import_contracts_hold():
    """flows -> pipeline -> unet, one way; Prefect, MLflow and torch only where they belong."""
    command = ["from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    # a process of its own: the linter's logging configuration switches off every logger there is
    checked = subprocess.run([sys.executable, "-c", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_modules_and_functions_stay_small(path):
    """A module is read in one sitting, a function on one screen; parameters' own docs do not count."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    long = {f.name: statements(f) for f in functions(ast.parse(text)) if statements(f) > LONGEST_FUNCTION}
    assert not long


def test_no_module_has_a_vague_name():
    """A name says what is in it."""
    assert SOURCES
    assert not [path for path in SOURCES if path.stem in VAGUE]


def catches_everything(handler):
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return handler.type is None or any(
        isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"} for kind in kinds
    )


def test_only_two_places_catch_everything():
    """One bad image must not stop the batch, a failing tracker must not stop the job; nothing else is swallowed."""
    found = [
        name
        for name, path in zip(names(SOURCES), SOURCES, strict=True)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not isinstance(node.body[-1], ast.Raise)
    ]
    assert sorted(found) == sorted(set(found))
    assert set(found) <= BROAD_IN


def test_no_benchmark_hides_a_package():
    """A script's own folder comes first on the path: a bench/pipeline.py would be imported in place of `pipeline`."""
    scripts = {path.stem for path in (REPOSITORY / "bench").glob("*.py")}
    assert scripts
    assert scripts.isdisjoint({"flows", "pipeline", "unet"})


def test_nobody_pickles():
    """Models and state are safetensors, JSON, CSV and parquet."""
    imported = {
        alias.name.partition(".")[0]
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported
    assert PICKLES.isdisjoint(imported)


def test_segmenting_does_without_monai():
    """Its import takes seconds; only training and networks of MONAI's pay for it."""
    code = "import sys, pipeline.inference.segment, pipeline.runs.segment_case; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
