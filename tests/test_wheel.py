"""What is in the wheel: our packages, each belonging to the distribution `maskline`, and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = {"flows", "pipeline", "unet"}
pytestmark = pytest.mark.slow  # builds a wheel


def run(*words, **more):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True, **more).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that MASKLINE_WHEEL names, else one built here, by way of the source distribution."""
    if os.environ.get("MASKLINE_WHEEL"):
        return Path(os.environ["MASKLINE_WHEEL"])
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY)
    (built,) = folder.glob("maskline-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel installed into a folder of its own, in front of everything else on the path."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def outside(site, *words):
    """Run the installed packages from a folder that knows nothing of the repository."""
    environment = {**os.environ, "PYTHONPATH": str(site), "MASKLINE_HOME": str(site / "home")}
    return run(sys.executable, *words, cwd=site, env=environment)


def test_only_our_packages_are_installed(names):
    """tests, bench, data_manifests, docs and configs stay where they are, at the top level at least."""
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "test_" in name]


def test_every_module_of_the_tree_is_in_the_wheel(names):
    """A new sub-package that pyproject.toml does not list would be missing."""
    modules = {
        path.relative_to(REPOSITORY).as_posix() for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
    }
    assert len(modules) > 30
    assert modules <= names


def test_configs_travel_as_package_data(names):
    """`maskline train nuclei` works by name after installation."""
    configs = {f"pipeline/shipped/configs/{path.name}" for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert "pipeline/shipped/configs/nuclei.yaml" in configs
    assert configs <= names


def test_data_files_travel(names):
    """Templates, styles, scripts, models: every file that is no module is in the wheel too."""
    data = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("pipeline/results", "pipeline/shipped")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".html", ".css", ".js", ".json", ".safetensors", ".md"}
    }
    assert data <= names


def test_each_package_belongs_to_the_distribution_maskline(site):
    """The public index has other packages of these names: ours have to be the ones that are imported."""
    code = "import importlib, importlib.metadata as m; d = m.packages_distributions(); "
    code += (
        "print(*[(n, d[n][0], importlib.import_module(n).__file__) for n in ('flows', 'pipeline', 'unet')], sep='\\n')"
    )
    lines = outside(site, "-c", code).splitlines()
    assert len(lines) == len(PACKAGES)
    for line in lines:
        _, owner, file = eval(line)
        assert owner == "maskline"
        assert Path(file).is_relative_to(site)


def test_the_console_script_runs(site):
    """`maskline --help` and `--version` work from the wheel alone."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    script = site / "bin" / "maskline"
    assert "segment" in run(script, "--help", cwd=site, env=environment)
    assert run(script, "--version", cwd=site, env=environment).startswith("maskline ")


def test_configs_are_found_by_name_from_the_wheel(site):
    """The installed package finds its own configs, not those of a working tree."""
    found = Path(outside(site, "-c", "from flows.names import config_path; print(config_path('nuclei'))").strip())
    assert found.is_relative_to(site)
    assert found.read_bytes() == (REPOSITORY / "configs" / "nuclei.yaml").read_bytes()
