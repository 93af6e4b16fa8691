"""What is running, for `maskline status`: servers, the last flow runs, the state of a results folder."""

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.addresses import running_addresses
from flows.lost import ask
from flows.serve import answers
from pipeline.data.files import maskline_home

MOST_RUNS = 10


def _servers() -> dict[str, Any]:
    found = running_addresses()
    prefect_api = os.environ.get("PREFECT_API_URL") or (found.prefect_api if found else "")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or (found.mlflow if found else "")
    return {
        "home": str(maskline_home()),
        "serve": found is not None,
        "prefect_api": prefect_api,
        "prefect_answers": bool(prefect_api) and answers(f"{prefect_api}/health"),
        "mlflow": mlflow,
        "mlflow_answers": mlflow.startswith("http") and answers(f"{mlflow}/health"),
    }


def _runs(prefect_api: str, state: dict[str, list[str]], sort: str, limit: int) -> list[dict[str, str]]:
    body = {"flow_runs": {"state": {"type": state}}, "sort": sort, "limit": limit}
    return [
        {
            "name": str(run["name"]),
            "state": str(run["state_name"]),
            "message": ((run["state"] or {}).get("message") or "").partition("\n")[0],
            "time": str(run["start_time"] or run["expected_start_time"])[:19],
        }
        for run in ask(f"{prefect_api}/flow_runs/filter", body)
    ]


def _last_runs(prefect_api: str) -> list[dict[str, str]]:
    """The runs that began, the newest first, after the one that comes next."""
    scheduled = ["SCHEDULED"]
    coming = _runs(prefect_api, {"any_": scheduled}, "NEXT_SCHEDULED_START_TIME_ASC", 1)
    return coming + _runs(prefect_api, {"not_any_": scheduled}, "START_TIME_DESC", MOST_RUNS)


def _results(folder: Path) -> dict[str, Any]:
    """Counts of a results folder, from images.csv and run.json as they stand."""
    counts: Counter[str] = Counter()
    table = folder / "images.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            lines = (line for line in file if not line.startswith("#"))
            counts = Counter(row["status"] for row in csv.DictReader(lines))
    record = folder / "run.json"
    run = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return {
        "folder": str(folder),
        "images": dict(counts),
        "run": {key: run[key] for key in ("model", "seconds", "finished") if key in run},
    }


def look(folder: Path | None = None) -> dict[str, Any]:
    """Everything that is to be told, as plain values."""
    servers = _servers()
    seen: dict[str, Any] = {"servers": servers, "runs": []}
    if servers["prefect_answers"]:
        seen["runs"] = _last_runs(servers["prefect_api"])
    if folder is not None:
        seen["results"] = _results(folder)
    return seen


def _server_line(name: str, address: str, alive: bool) -> str:
    if not address:
        return f"{name:<9} not running (maskline serve starts it)"
    return f"{name:<9} {address}  {'answers' if alive else 'DOES NOT ANSWER'}"


def tell(seen: Mapping[str, Any]) -> list[str]:
    """The same in lines for a person."""
    servers = seen["servers"]
    mlflow_alive = servers["mlflow_answers"] or not servers["mlflow"].startswith("http")
    lines = [f"{'home':<9} {servers['home']}"]
    lines += [_server_line("Prefect", servers["prefect_api"], servers["prefect_answers"])]
    lines += [_server_line("MLflow", servers["mlflow"], mlflow_alive)]
    lines += [f"  {run['time']}  {run['state']:<22} {run['name']}  {run['message']}" for run in seen["runs"]]
    if "results" in seen:
        counts = ", ".join(f"{number:,} {status}" for status, number in sorted(seen["results"]["images"].items()))
        lines.append(f"{seen['results']['folder']}: {counts or 'no images.csv yet'}")
    return lines
