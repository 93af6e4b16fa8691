"""What a model's name means."""

from types import SimpleNamespace

import pytest

from pipeline.errors import ModelError
from pipeline.runs.find_model import find_any_model, parse_model_name


@pytest.fixture
def registry(tmp_path):
    """A registry that answers with what it was asked for."""
    return SimpleNamespace(
        resolve=lambda name, which: tmp_path / name / which,
        models=lambda: [{"name": "nuclei", "aliases": ["champion"]}, {"name": "my-model.v2", "aliases": []}],
    )


@pytest.mark.parametrize(
    ("name", "which"),
    [("nuclei", "champion"), ("nuclei@gpu", "gpu"), ("nuclei/3", "3"), ("my-model.v2@x", "x")],
)
def test_registered_names(tmp_path, monkeypatch, registry, name, which):
    """NAME is its champion, NAME@alias and NAME/version say which."""
    monkeypatch.chdir(tmp_path)
    assert find_any_model(name, registry) == tmp_path / name.split("@")[0].split("/")[0] / which


@pytest.mark.parametrize("name", ["a/b", "nuclei@", "/no/such/folder", "", "a b"])
def test_what_can_be_no_name_is_none(name):
    """Paths and half names are not looked up in the registry."""
    assert parse_model_name(name) is None


@pytest.mark.parametrize("name", ["/no/such/folder", "shipped:no-such-model"])
def test_nothing_there_is_refused(registry, name):
    """Never another model than the one that was named."""
    with pytest.raises(ModelError):
        find_any_model(name, registry)


def test_a_folder_goes_before_a_registered_name(tmp_path, monkeypatch, registry):
    """A model folder called like a registered model is that folder; a folder that is no model is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()
    with pytest.raises(ModelError, match="a model folder"):
        find_any_model("nuclei", registry)
    (tmp_path / "nuclei" / "model.json").write_text("{}")
    assert find_any_model("nuclei", registry) == tmp_path / "nuclei"


def test_a_shipped_name_means_the_shipped_model_until_one_is_registered(tmp_path, monkeypatch):
    """On a fresh machine `--from nuclei` needs no registry; other names, and aliases, are looked up as they are."""
    monkeypatch.chdir(tmp_path)
    empty = SimpleNamespace(resolve=lambda name, which: tmp_path / name / which, models=list)
    assert (find_any_model("nuclei", empty) / "model.json").is_file()
    assert find_any_model("nuclei@gpu", empty) == tmp_path / "nuclei" / "gpu"
    assert find_any_model("other", empty) == tmp_path / "other" / "champion"


def test_a_version_without_champion_does_not_hide_the_shipped_model(tmp_path, monkeypatch):
    """One's own training registers nuclei/1 with no alias: `nuclei` stays the shipped one until that is promoted."""
    monkeypatch.chdir(tmp_path)
    versions = [{"name": "nuclei", "version": "1", "aliases": []}, {"name": "other", "aliases": ["champion"]}]
    registry = SimpleNamespace(resolve=lambda name, which: tmp_path / name / which, models=lambda: versions)
    assert (find_any_model("nuclei", registry) / "model.json").is_file()
    assert find_any_model("nuclei/1", registry) == tmp_path / "nuclei" / "1"
    versions[0]["aliases"].append("champion")
    assert find_any_model("nuclei", registry) == tmp_path / "nuclei" / "champion"


def test_a_training_s_folder_is_its_model(tmp_path, monkeypatch, registry):
    """`--from runs/first` takes runs/first/model; a record in the folder itself goes before it."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "runs" / "first" / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    assert find_any_model("runs/first", registry) == model
    (model.parent / "model.json").write_text("{}")
    assert find_any_model("runs/first", registry) == model.parent
