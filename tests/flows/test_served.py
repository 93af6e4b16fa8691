"""The whole of it, with real servers: serve, run by hand, run by the clock, stop."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.addresses import addresses_file, read_addresses
from flows.lost import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
BROKEN = {"cut.png": "a PNG that ends early", "text.png": "no image at all", "empty.tif": "nothing"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def environment(place):
    """What a person's terminal would have, with a home of our own and no server named yet."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
    more = {"MASKLINE_HOME": str(place / "home"), "PREFECT_HOME": str(place / "prefect"), "DO_NOT_TRACK": "1"}
    return ours | more | {"OMP_NUM_THREADS": "1", "PREFECT_CLI_PROMPT": "false"}


@pytest.fixture(scope="module")
def model(place):
    """A tiny network that was never trained: what it finds does not matter here."""
    import unet
    from pipeline.config import NucleiUNet, PrepareConfig, SeparatedTarget
    from pipeline.model.bundle import ModelRecord, describe_network, save_model
    from pipeline.model.targets import channel_names

    network = NucleiUNet(filters=(4, 8))
    target = SeparatedTarget()
    outputs = channel_names(target)
    network = network.model_copy(update={"out_channels": len(outputs)})
    module = unet.build(network.kind, **network.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(module, 3)
    record = ModelRecord(
        name="tiny", network=network, prepare=PrepareConfig(), target=target, outputs=outputs, stride=stride, halo=halo
    )
    save_model(place / "model", module, record)
    return place / "model"


def write_images(folder, number):
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(number):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a{index}.png")


@pytest.fixture(scope="module")
def images(place):
    """Nine images and three broken files: a quarter is broken, so the run itself would fail at the default fifth."""
    folder = place / "plate7"
    write_images(folder, 9)
    whole = (folder / "a0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image at all")
    (folder / "empty.tif").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def served(place, environment):
    """`maskline serve` in a process of its own, with a nightly run every minute; stopped by SIGTERM at the end."""
    write_images(place / "inbox", 2)
    os.environ["MASKLINE_HOME"] = environment["MASKLINE_HOME"]
    words = ["serve", "--inbox", place / "inbox", "--results", place / "night", "--cron", "* * * * *"]
    log = place / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *map(str, words)], env=environment, stdout=file, stderr=file, cwd=place
        )
    try:
        for _ in range(1200):
            if "Ready" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
        yield read_addresses()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    assert process.returncode == 0, log.read_text()
    assert "stopped" in log.read_text()


def prefect(environment, served, *words):
    named = environment | {"PREFECT_API_URL": served.prefect_api}
    return subprocess.run([str(BIN / "prefect"), *words], env=named, capture_output=True, text=True)


def flow_runs(served, deployment=None):
    begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
    runs = ask(f"{served.prefect_api}/flow_runs/filter", {"flow_runs": begun, "sort": "START_TIME_DESC", "limit": 50})
    if deployment is None:
        return runs
    with urllib.request.urlopen(f"{served.prefect_api}/deployments/name/{deployment}") as reply:
        number = json.load(reply)["id"]
    return [run for run in runs if run["deployment_id"] == number]


@pytest.fixture(autouse=True)
def home_of_the_served(environment, monkeypatch):
    monkeypatch.setenv("MASKLINE_HOME", environment["MASKLINE_HOME"])


def deployed(environment, served, images, out, model, *more):
    words = ["deployment", "run", "segment-folder/segment-folder", "-p", f"folder={images}", "-p", f"out={out}"]
    return prefect(environment, served, *words, "-p", f"model={model}", *more, "--watch")


def test_the_bare_name_is_refused_by_prefect(environment, served):
    """As the README shows it."""
    answer = prefect(environment, served, "deployment", "run", "segment-folder")
    assert answer.returncode != 0
    assert "Expected format: <FLOW_NAME>/<DEPLOYMENT_NAME>" in answer.stdout + answer.stderr


def test_a_deployed_run_does_the_others_and_says_why_three_failed(environment, served, images, model, place):
    """Nine done, three rows with error and hint, state CompletedWithFailures, and what a person looks at in Prefect."""
    out = place / "results"
    answer = deployed(environment, served, images, out, model, "-p", "max_failed_fraction=0.5")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (run,) = flow_runs(served, "segment-folder/segment-folder")
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "CompletedWithFailures")
    assert "9 done, 0 skipped, 3 failed" in run["state"]["message"]
    with (out / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    failed = {row["path"]: row for row in rows if row["status"] == "failed"}
    assert set(failed) == set(BROKEN)
    assert all(row["error"] and row["hint"] for row in failed.values())
    assert len(list((out / "labels").glob("*.tif"))) == 9
    only = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    kinds = {artifact["key"]: artifact for artifact in ask(f"{served.prefect_api}/artifacts/filter", only)}
    assert {"segment-progress-segment", "segment-failures", "segment-result", "segment-mlflow"} <= set(kinds)
    assert len(json.loads(kinds["segment-failures"]["data"])) == 3
    assert served.mlflow in kinds["segment-mlflow"]["data"]


def test_the_command_line_goes_by_the_flow_where_a_server_is_named(environment, served, images, model, place):
    """PREFECT_API_URL is set: the same folder again is a flow run, which has nothing to do and exits 3."""
    before = len(flow_runs(served))
    config = place / "plate.yaml"
    config.write_text("max_failed_fraction: 0.5\n")
    words = ["segment", images, "--out", place / "results", "--model", model, "--config", config]
    named = environment | {"PREFECT_API_URL": served.prefect_api}
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words)], env=named, capture_output=True, text=True
    )
    assert answer.returncode == 3, answer.stdout + answer.stderr
    assert "0 done, 9 skipped, 3 failed" in answer.stdout
    assert len(flow_runs(served)) > before


def write_labelled(folder, number):
    """Bright boxes on dark noise in images/, their numbers in labels/."""
    import numpy as np
    from PIL import Image

    for index in range(number):
        rng = np.random.default_rng(index)
        labels = np.zeros((64, 80), np.uint8)
        for box, (top, left) in enumerate(zip((4, 36), rng.integers(4, 50, 2), strict=True), start=1):
            labels[top : top + 18, left : left + 20] = box
        pixels = ((labels > 0) * 150 + rng.integers(0, 60, labels.shape)).astype(np.uint8)
        for place, values in (("images", pixels), ("labels", labels)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / place / f"b{index}.png")


KINDS = {"residual": "residual_unet, filters: [8, 16]", "attention": "attention_unet, filters: [8, 16]"}
TRAINING = """
name: {name}
network: {{kind: {network}, out_channels: 1}}
target: {{kind: mask}}
loss: {{kind: bce}}
optimiser: {{kind: adam, lr: 0.01}}
schedule: {{kind: constant}}
sampling: {{kind: crops, size: 48, per_epoch: 16}}
augmentation: {{kind: none}}
batch_size: 4
epochs: 10
ema: 0.5
"""


@pytest.mark.parametrize("name", sorted(KINDS))
def test_two_kinds_are_trained_by_one_deployment_and_segment_by_the_other(environment, served, place, name):
    """Tiles that are exact and tiles that are blended: trained and registered, found by name, every box labelled."""
    import pandas as pd

    data, config, out = place / "boxes", place / f"{name}.yaml", place / f"{name}-results"
    if not data.exists():
        write_labelled(data, 8)
    config.write_text(TRAINING.format(name=name, network=KINDS[name]))
    words = ["-p", f"data={data}", "-p", f"out={place / name}", "-p", f"config={config}", "--watch"]
    answer = prefect(environment, served, "deployment", "run", "train-nuclei/train-nuclei", *words)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    answer = deployed(environment, served, data / "images", out, f"{name}/1")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    run = flow_runs(served, "segment-folder/segment-folder")[0]
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Completed")
    record = json.loads((out / "run.json").read_text())
    assert (record["model"]["name"], record["objects"]) == (f"{name}/1", 16)
    assert len(list((out / "labels").glob("*.tif"))) == 8
    assert pd.read_csv(out / "images.csv", comment="#")["objects"].min() >= 2


def test_too_many_failed_fails_the_flow(environment, served, images, model, place):
    """A quarter failed and a fifth is allowed: the others are done all the same, but the state is Failed."""
    answer = deployed(environment, served, images, place / "strict", model)
    assert answer.returncode != 0
    run = flow_runs(served, "segment-folder/segment-folder")[0]
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Failed")
    assert "too many failed: 9 done" in run["state"]["message"]
    assert len(list((place / "strict" / "labels").glob("*.tif"))) == 9


def test_a_relative_folder_fails_with_a_message(environment, served, model):
    """Refused before anything is done."""
    answer = deployed(environment, served, "plate7", "results", model)
    assert answer.returncode != 0
    run = flow_runs(served, "segment-folder/segment-folder")[0]
    assert run["state_type"] == "FAILED"
    assert "the relative path plate7" in run["state"]["message"]


def test_the_clock_runs_the_nightly_deployment(served, place):
    """Within two minutes the cron deployment has begun at least one run of the inbox."""
    for _ in range(240):
        states = [run["state_name"] for run in flow_runs(served, "segment-folder/nightly")]
        if any(state in {"Completed", "CompletedWithFailures", "Failed", "Running"} for state in states):
            break
        time.sleep(0.5)
    else:
        pytest.fail(f"no nightly run: {states}")


def test_status_tells_what_runs(environment, served):
    """`maskline status` finds the servers without being told where they are, and lists the last runs that began."""
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--json"], env=environment, capture_output=True, text=True
    )
    seen = json.loads(answer.stdout)
    assert seen["servers"]["serve"] and seen["servers"]["prefect_answers"] and seen["servers"]["mlflow_answers"]
    assert {run["state"] for run in seen["runs"]} & {"Completed", "CompletedWithFailures", "Failed", "Running"}


def test_a_second_serve_is_refused(environment, served):
    """One home, one serve."""
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", "serve"], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert "another `maskline serve`" in answer.stderr
    assert addresses_file().is_file()


def test_what_can_pass_is_tried_again_and_what_cannot_is_not(served, place):
    """A share that is away once costs one more try; a wrong file ends the job at once."""
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.chunks import submit_chunks
    from pipeline.types import Chunk, Skipped

    tries = []

    def work(chunk):
        tries.append(chunk.number)
        if tries == [0]:
            raise ConnectionResetError("the share was away")
        if chunk.number == 2:
            raise FileNotFoundError("gone.png")
        return [Skipped(str(chunk.number), "")]

    @flow
    def job():
        seen = []
        with pytest.raises(FileNotFoundError):
            for outcomes in submit_chunks()(work, [Chunk(number, ()) for number in range(4)]):
                seen.extend(outcome.case for outcome in outcomes)
        return seen

    with temporary_settings({PREFECT_API_URL: served.prefect_api}):
        assert job() == ["0", "1"]
    assert tries == [0, 0, 1, 2]
