"""The flow `train-nuclei`: a manifest or a labelled folder in, a registered model out."""

from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.artifacts import ShowProgress, show_link, show_numbers
from flows.folders import absolute
from flows.names import config_path
from pipeline.config import TrainConfig, load_config
from pipeline.runs.train_model import train_model


@flow(name="train-nuclei", flow_run_name="train {config} on {data}", persist_result=False)
def train_nuclei_flow(
    data: Path,
    out: Path,
    config: str = "nuclei",
    settings: tuple[str, ...] = (),
    time_budget_minutes: float | None = None,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "auto",
) -> State[Any]:
    """Train a nuclei model, track it in MLflow and register it. Only `maskline models promote` makes it the champion.

    Args:
        data: A manifest CSV, or a labelled folder. A whole path, as the machine that does the work sees it.
        out: The folder for the model and the training's state. A whole path.
        config: The name of a config that ships with maskline (nuclei), or the whole path of a YAML file.
        settings: Fields to change in the config, like optimiser.lr=0.001.
        time_budget_minutes: Stop after this many minutes and keep the best model. None sets no limit.
        start_from: A model folder whose weights to start from. None starts afresh.
        resume: Go on with the training that stopped in `out`.
        device: auto, cpu, cuda, cuda:1 or mps.
    """
    trained = train_model(
        load_config(TrainConfig, config_path(config), settings),
        absolute("data", data),
        absolute("out", out),
        resume=resume,
        start=absolute("start_from", start_from) if start_from else None,
        time_budget=60.0 * time_budget_minutes if time_budget_minutes else None,
        device=device,
        watch=ShowProgress("train"),
    )
    show_numbers("train", f"Trained into {out}", trained.numbers)
    show_link("train", trained.run_url)
    return Completed(message=f"model in {trained.model}, {trained.ended}")
