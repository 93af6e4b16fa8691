"""Every test of the flows has a MASKLINE_HOME of its own, and no server to talk to."""

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("MASKLINE_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return home
