"""The flows as Prefect shows them: names, forms, deployments."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from flows.deployments import NAMES, Nightly, make_deployments
from flows.evaluate import evaluate_model_flow
from flows.ingest import ingest_folder_flow
from flows.segment import segment_folder_flow
from flows.train import train_nuclei_flow
from pipeline.config import EvaluateConfig, IngestConfig, SegmentConfig
from pipeline.errors import UsageError

FLOWS = [ingest_folder_flow, train_nuclei_flow, segment_folder_flow, evaluate_model_flow]
PREFECT_YAML = Path(__file__).parents[2] / "prefect.yaml"
SIMPLE = {"string", "number", "integer", "boolean", "array", "null"}


def schema(flow):
    return flow.parameters.model_dump()["properties"]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_form_is_flat_and_every_field_is_explained(flow):
    """Each parameter is a text, a number, a switch, a choice or a list, and says what it is for."""
    assert flow.description
    for name, field in schema(flow).items():
        kinds = {part["type"] for part in field.get("anyOf", [field])}
        assert kinds <= SIMPLE, name
        assert field.get("description", "").endswith("."), name


@pytest.mark.parametrize(
    ("flow", "config", "more", "less"),
    [
        (segment_folder_flow, SegmentConfig, {"chunks_at_once", "may_be_empty"}, set()),
        (
            ingest_folder_flow,
            IngestConfig,
            {"train_fraction", "validation_fraction", "test_fraction"},
            {"fractions", "cache"},
        ),
        (evaluate_model_flow, EvaluateConfig, set(), {"track"}),
    ],
    ids=["segment", "ingest", "evaluate"],
)
def test_parameters_are_the_fields_of_the_config_with_the_same_defaults(flow, config, more, less):
    """The form and the config do not drift apart."""
    parameters = inspect.signature(flow.fn).parameters
    assert set(parameters) == (set(config.model_fields) - less) | more
    for name, field in config.model_fields.items():
        if name in parameters and not field.is_required():
            assert parameters[name].default == ("" if name in ("group", "series") else field.default), name


@pytest.mark.parametrize(
    ("flow", "arguments"),
    [
        (segment_folder_flow, {"folder": "plate7", "out": "/o"}),
        (segment_folder_flow, {"folder": "/plate7", "out": "o"}),
        (ingest_folder_flow, {"folder": "plate7", "manifest": "/m.csv"}),
        (ingest_folder_flow, {"folder": "/plate7", "manifest": "m.csv"}),
        (train_nuclei_flow, {"data": "m.csv", "out": "/o"}),
        (train_nuclei_flow, {"data": "/m.csv", "out": "o"}),
        (evaluate_model_flow, {"data": "m.csv", "out": "/o"}),
        (evaluate_model_flow, {"data": "/m.csv", "out": "o"}),
    ],
)
def test_relative_folders_are_refused(flow, arguments):
    """A worker's current folder is nobody's choice."""
    paths = {name: Path(value) for name, value in arguments.items()}
    with pytest.raises(UsageError, match="the relative path"):
        flow.fn(**paths)


def test_five_deployments_and_one_of_them_on_schedule(tmp_path):
    """The names are the contract's; only the nightly one has a schedule, never two runs at once, and is not paused."""
    made = make_deployments(Nightly(tmp_path / "in", tmp_path / "out", "0 3 * * *", "Europe/Berlin"))
    assert tuple(f"{d.flow_name}/{d.name}" for d in made) == NAMES
    scheduled = [d for d in made if d.schedules]
    assert [d.name for d in scheduled] == ["nightly"]
    (nightly,) = scheduled
    assert (nightly.schedules[0].schedule.cron, nightly.schedules[0].schedule.timezone) == (
        "0 3 * * *",
        "Europe/Berlin",
    )
    assert nightly.parameters == {"folder": str(tmp_path / "in"), "out": str(tmp_path / "out"), "may_be_empty": True}
    assert nightly.concurrency_limit == 1
    assert not any(d.paused for d in made)


def test_prefect_yaml_offers_the_same_deployments():
    """Work pools get what `serve` offers; every entrypoint is a flow that is there, with its name."""
    tree = yaml.safe_load(PREFECT_YAML.read_text())
    names = []
    for deployment in tree["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        names.append(f"{flow.name}/{deployment['name']}")
        assert set(deployment.get("parameters", {})) <= set(inspect.signature(flow.fn).parameters)
        assert "MASKLINE_HOME" in deployment["work_pool"]["job_variables"]["env"]
    assert sorted(names) == sorted(NAMES)
