"""`maskline models`: what it lists, shows, promotes and copies."""

import json
from types import SimpleNamespace

import pytest

from flows import cli_models
from flows.cli import run
from pipeline.errors import TrackingError

RECORD = {
    "name": "nuclei",
    "network": {"kind": "nuclei_unet"},
    "prepare": {"channels": 3},
    "outputs": ["foreground", "border", "distance"],
    "halo": 96,
    "stride": 16,
    "diameter": 21.4,
    "thresholds": {"foreground": 0.5, "seed": 0.6},
    "provenance": {"manifest_digest": "abc", "config": {"epochs": 3}},
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model folder that every name leads to."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(RECORD))
    (folder / "weights.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(cli_models, "_find", lambda name: folder)
    return folder


@pytest.fixture
def registry(monkeypatch):
    rows = [{"name": "nuclei", "version": "2", "aliases": ["champion"], "created": 1_790_000_000_000, "run_id": "r"}]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab")
    monkeypatch.setattr(cli_models, "_open", lambda: SimpleNamespace(models=lambda: rows))


def test_list(registry, capsys):
    """Registered versions are listed with aliases and time, for a person and for a program."""
    assert run(["models", "list"]) == 0
    assert "nuclei/2                 2026-09-21 14:13 UTC  @champion" in capsys.readouterr().out
    assert run(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][-1]["version"] == "2"


def test_list_without_a_store_makes_none(own_home, capsys):
    """Where nothing was registered yet, only what ships is listed, and no database is made to say so."""
    assert run(["models", "list"]) == 0
    assert "nuclei/" not in capsys.readouterr().out
    assert not (own_home / "mlflow").exists()


def test_show_prints_the_record(model, capsys):
    """The record comes out as it is."""
    assert run(["models", "show", "nuclei"]) == 0
    assert json.loads(capsys.readouterr().out) == RECORD


def test_describe_prints_the_card_or_the_main_points(model, capsys):
    """The card goes first; without one, network, tiles, size and thresholds in words."""
    assert run(["models", "describe", "nuclei"]) == 0
    said = capsys.readouterr().out
    assert "nuclei_unet, 3 channels in" in said and "halo 96 px, tiles are exact" in said and "21 px" in said
    assert "manifest_digest abc" in said and "epochs" not in said
    (model / "CARD.md").write_text("# The nuclei model\n")
    assert run(["models", "describe", "nuclei"]) == 0
    assert capsys.readouterr().out == "# The nuclei model\n"


def test_describe_a_config_layer_by_layer(tmp_path, capsys):
    """A YAML file is a training's config: its network at the asked size, and a size that does not fit is refused."""
    config = tmp_path / "mine.yaml"
    config.write_text("network: {kind: nuclei_unet, filters: [4, 8]}\n")
    assert run(["models", "describe", str(config), "--shape", "32x48"]) == 0
    said = capsys.readouterr().out
    assert "down.1.0   Conv2d" in said and "4 x 32 x 48" in said and "exact, halo" in said and "GFLOP per Mpx" in said
    assert run(["models", "describe", str(config), "--shape", "33x48"]) == 2
    assert "divisible by 2 x 2" in capsys.readouterr().err
    assert run(["models", "describe", str(config), "--shape", "big"]) == 2


def test_describe_finds_the_card_that_ships_and_configs_by_name(own_home, capsys):
    """As `train` takes them; what is neither a model nor a config is said to be none."""
    assert run(["models", "describe", "shipped:nuclei"]) == 0
    assert capsys.readouterr().out.startswith("# nuclei\n")
    assert run(["models", "describe", "two-level-unet", "--shape", "32x32"]) == 0
    assert "297,025" in capsys.readouterr().out
    assert run(["models", "describe", "no-such-thing"]) != 0
    assert "no-such-thing" in capsys.readouterr().err


def test_describe_takes_no_config_for_a_model_that_may_exist(registry, monkeypatch, capsys):
    """Where a model of the name cannot be used, or nobody can tell, the config of that name is not what was meant."""

    def fail(*_):
        raise TrackingError("registry", "broken", "a model", "mend it")

    monkeypatch.setattr(cli_models, "_find", fail)
    assert run(["models", "describe", "two-level-unet", "--shape", "32x32"]) == 0
    assert run(["models", "describe", "nuclei"]) != 0  # a config's name too, but registered
    assert "broken" in capsys.readouterr().err
    monkeypatch.setattr(cli_models, "_open", fail)
    assert run(["models", "describe", "two-level-unet", "--shape", "32x32"]) != 0


def test_export_copies_to_a_new_place_only(tmp_path, capsys):
    """The copy is whole; what exists is never written into."""
    out = str(tmp_path / "copy")
    assert run(["models", "export", "shipped:nuclei", "--out", out]) == 0
    assert {p.name for p in (tmp_path / "copy").iterdir()} >= {"model.json", "weights.safetensors"}
    assert run(["models", "export", "shipped:nuclei", "--out", out]) == 1
    assert "give another --out" in capsys.readouterr().err


def test_quantise_tells_what_was_kept(monkeypatch, tmp_path, capsys):
    """The lines of the job, one after the other."""
    from pipeline.runs import quantise_model

    monkeypatch.setattr(quantise_model, "quantise_model", lambda name, data, watch: [f"kept {name}", f"of {data.name}"])
    (tmp_path / "data.csv").write_text("")
    assert run(["models", "quantise", "shipped:nuclei", "--data", str(tmp_path / "data.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == ["kept shipped:nuclei", "of data.csv"]


def test_tune_tells_what_was_chosen(monkeypatch, tmp_path, capsys):
    """The lines of the job, which is given the model, the images and where the copy goes."""
    from pipeline.runs import tune_model

    monkeypatch.setattr(tune_model, "tune_model", lambda name, data, out, watch: [f"{name} {data.name} {out.name}"])
    (tmp_path / "data.csv").write_text("")
    told = ["--data", str(tmp_path / "data.csv"), "--out", str(tmp_path / "mine")]
    assert run(["models", "tune", "shipped:nuclei", *told]) == 0
    assert capsys.readouterr().out.splitlines() == ["shipped:nuclei data.csv mine"]
    assert run(["models", "tune", "shipped:nuclei", *told[:2]]) == 2
    assert "--out" in capsys.readouterr().err
