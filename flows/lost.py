"""Flow runs that nobody works on any more, put right in Prefect's records: the final state is the truth.

The server keeps a run as Running for ever when its process was killed together with `maskline serve`, and keeps every
missed night for later.
"""

import json
import urllib.request
from datetime import UTC, datetime
from typing import Any

STOPPED = "maskline serve was stopped; another run of the same folder goes on from here"
MISSED = "missed while maskline serve was down; the newest missed run does the same work"
MOST = 200


def ask(url: str, body: dict[str, Any]) -> Any:
    """POST JSON, answer JSON. `url` is our own server's, on loopback."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310
        return json.load(reply)


def _find(api: str, states: list[str], **more: Any) -> list[dict[str, Any]]:
    body = {
        "flow_runs": {"state": {"type": {"any_": states}}, **more},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": MOST,
    }
    runs: list[dict[str, Any]] = ask(f"{api}/flow_runs/filter", body)
    return [run for run in runs if run["deployment_id"] and not run["work_pool_name"]]


def _set_state(api: str, run: dict[str, Any], kind: str, message: str) -> None:
    ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": {"type": kind, "message": message}, "force": True})


def close_lost_runs(api: str) -> int:
    """Call Crashed what a runner that is gone had begun; answers how many. Only call it while no runner is there."""
    lost = _find(api, ["RUNNING", "PENDING", "CANCELLING"])
    for run in lost:
        _set_state(api, run, "CRASHED", STOPPED)
    return len(lost)


def drop_missed_runs(api: str) -> int:
    """Of each deployment's scheduled runs that are in the past, keep the newest; answers how many were cancelled."""
    before = {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    seen: set[str] = set()
    dropped = 0
    for run in _find(api, ["SCHEDULED"], **before):
        if not run["auto_scheduled"]:
            continue
        if run["deployment_id"] in seen:
            _set_state(api, run, "CANCELLED", MISSED)
            dropped += 1
        seen.add(run["deployment_id"])
    return dropped
