"""What `maskline status` tells."""

from flows import status
from flows.status import look, tell


def test_nothing_runs():
    """Without servers it says how to start them."""
    lines = tell(look())
    assert lines[1] == "Prefect   not running (maskline serve starts it)"
    assert lines[2] == "MLflow    not running (maskline serve starts it)"


def test_a_results_folder_is_counted(tmp_path):
    """Done and failed images are counted from images.csv, below its format line."""
    (tmp_path / "images.csv").write_text("# maskline images format_version=1\nimage,status\na,done\nb,failed\nc,done\n")
    assert tell(look(tmp_path))[-1] == f"{tmp_path}: 2 done, 1 failed"


def test_a_folder_without_results(tmp_path):
    """Nothing there is no error."""
    assert tell(look(tmp_path))[-1] == f"{tmp_path}: no images.csv yet"


def test_runs_are_told_and_a_silent_server_is_noticed(monkeypatch):
    """A server that is named and does not answer is shouted; runs are told with their state and message."""
    monkeypatch.setenv("PREFECT_API_URL", "http://p/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m")
    monkeypatch.setattr(status, "answers", lambda url: url == "http://p/api/health")
    row = {
        "name": "segment x",
        "state_name": "Completed",
        "state": {"message": "1 done\nmore"},
        "start_time": "2026-11-21T05:37:33.1Z",
    }
    monkeypatch.setattr(status, "ask", lambda url, body: [] if body["sort"].startswith("NEXT") else [row])
    lines = tell(look())
    assert lines[1] == "Prefect   http://p/api  answers"
    assert lines[2] == "MLflow    http://m  DOES NOT ANSWER"
    assert lines[3] == "  2026-11-21T05:37:33  Completed              segment x  1 done"
