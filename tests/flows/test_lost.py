"""Prefect's records are put right: nothing stays Running for ever, and missed nights are caught up once."""

from flows import lost
from flows.lost import close_lost_runs, drop_missed_runs


def run(number, deployment="d1", pool=None, auto=True):
    return {"id": str(number), "deployment_id": deployment, "work_pool_name": pool, "auto_scheduled": auto}


def server(monkeypatch, runs):
    """A stand-in for Prefect's API; answers the state changes it was asked for."""
    changes = []

    def ask(url, body):
        if url.endswith("/filter"):
            return runs
        changes.append((url.split("/")[-2], body["state"]["type"]))
        return {}

    monkeypatch.setattr(lost, "ask", ask)
    return changes


def test_what_our_runner_had_begun_is_called_crashed(monkeypatch):
    """Runs of the command line and of work pools have a process of their own and are left alone."""
    changes = server(monkeypatch, [run(1), run(2, deployment=None), run(3, pool="gpu")])
    assert close_lost_runs("http://a/api") == 1
    assert changes == [("1", "CRASHED")]


def test_only_the_newest_missed_run_of_a_deployment_is_caught_up(monkeypatch):
    """After a week away one nightly run does the work of seven; what a person scheduled stays."""
    changes = server(monkeypatch, [run(1), run(2), run(3, auto=False), run(4, deployment="d2"), run(5)])
    assert drop_missed_runs("http://a/api") == 2
    assert changes == [("2", "CANCELLED"), ("5", "CANCELLED")]
