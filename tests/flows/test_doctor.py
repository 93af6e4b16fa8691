"""What `maskline doctor` says about good and bad installations."""

from collections import namedtuple

import pytest

from flows import doctor
from flows.cli import run
from flows.doctor import GIB, check_disk, check_floor, check_names, check_range, check_rights, check_server


@pytest.mark.parametrize(
    ("name", "version", "verdict"),
    [
        ("torch", "2.13.0+cpu", "ok"),
        ("torch", "2.10", "ok"),
        ("torch", "2.9.1", "bad"),
        ("mlflow", "3.9.0", "bad"),
        ("monai", "1.5.1", "bad"),
        ("monai", "1.5.2", "ok"),
        ("monai", "", "bad"),
    ],
)
def test_known_vulnerable_versions_are_bad(name, version, verdict):
    """2.9 is before 2.10, and what is missing is bad too; a hint says what to install."""
    check = check_floor(name, version)
    assert check.verdict == verdict
    assert bool(check.hint) == (verdict == "bad")


@pytest.mark.parametrize(
    ("name", "version", "verdict"),
    [
        ("fastapi", "0.150.0", "ok"),
        ("fastapi", "0.165.0", "bad"),
        ("prefect", "3.9.0", "bad"),
        ("sqlalchemy", "2.1.9", "bad"),
    ],
)
def test_versions_that_do_not_work_together_are_bad(name, version, verdict):
    """The server of this Prefect neither starts nor schedules with later ones of these."""
    assert check_range(name, version).verdict == verdict


def test_foreign_packages_of_our_names_are_bad():
    """The public `unet` overwrites our files."""
    assert check_names(frozenset({"maskline", "torch"})) == []
    assert check_names(frozenset({"maskline", "unet"}))[0].verdict == "bad"


@pytest.mark.parametrize(("free", "verdict"), [(100, "ok"), (5, "note"), (0.5, "bad")])
def test_free_disk(monkeypatch, tmp_path, free, verdict):
    """Looks at the disk of the nearest folder that exists."""
    usage = namedtuple("usage", "total used free")(0, 0, int(free * GIB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    assert check_disk(tmp_path / "not" / "yet").verdict == verdict


def test_a_home_that_cannot_be_written_is_bad(monkeypatch, tmp_path):
    """Said before a job fails on it."""
    assert check_rights(tmp_path) == []
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    assert check_rights(tmp_path)[0].verdict == "bad"


def test_a_named_server_has_to_answer():
    """No server is fine, a sqlite address is fine, a server that is named and silent is not."""
    assert check_server("MLflow", "", "").verdict == "ok"
    assert check_server("MLflow", "sqlite:////a/b.db", "").verdict == "ok"
    assert check_server("MLflow", "http://127.0.0.1:9", "http://127.0.0.1:9/health").verdict == "bad"


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("note", 0), ("bad", 1)])
def test_something_bad_exits_1(monkeypatch, capsys, verdict, code):
    """So that a script notices."""
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Check("torch", verdict, "2.13.0", "")])
    assert run(["doctor"]) == code
    assert "torch" in capsys.readouterr().out
    assert run(["doctor", "--json"]) == code
    assert f'"verdict": "{verdict}"' in capsys.readouterr().out
