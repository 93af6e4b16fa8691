"""The flow `train-nuclei`: a manifest or a labelled folder in, a registered model out."""

from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Cancelled, Completed

from flows.artifacts import ShowProgress, show_link, show_numbers
from flows.folders import absolute
from flows.names import config_path, headline
from pipeline.config import TrainConfig, load_config
from pipeline.runs.cross_validate import FoldsStopped, cross_validate
from pipeline.runs.train_model import train_model


@flow(name="train-nuclei", flow_run_name="train {config} on {data}", persist_result=False)
def train_nuclei_flow(
    data: Path,
    out: Path,
    config: str = "nuclei",
    settings: tuple[str, ...] = (),
    time_budget_minutes: float | None = None,
    start_from: str | None = None,
    resume: bool = False,
    folds: int | None = None,
    device: str = "auto",
) -> State[Any]:
    """Train a nuclei model, track it in MLflow and register it. Only `maskline models promote` makes it the champion.

    Args:
        data: A manifest CSV, or a labelled folder. A whole path, as the machine that does the work sees it.
        out: The folder for the model and the training's state. A whole path.
        config: The name of a config that ships with maskline (nuclei), or the whole path of a YAML file.
        settings: Fields to change in the config, like optimiser.lr=0.001.
        time_budget_minutes: Stop after this many minutes and keep the best model. None sets no limit.
        start_from: A model to start from: nuclei, nuclei@champion, nuclei/3 or the path of a model or of its training.
        resume: Go on with the training that stopped in `out`.
        folds: Train so many models, each tested on what it never saw. The time limit is each one's.
        device: auto, cpu, cuda, cuda:1 or mps.
    """
    how: dict[str, Any] = {
        "resume": resume,
        "start": start_from,
        "time_budget": 60.0 * time_budget_minutes if time_budget_minutes else None,
        "device": device,
        "watch": ShowProgress("train"),
    }
    settings_read = load_config(TrainConfig, config_path(config), settings)
    where = absolute("data", data), absolute("out", out)
    if folds:
        crossed = cross_validate(settings_read, *where, folds, **how)
        if isinstance(crossed, FoldsStopped):
            return Cancelled(message="; ".join(crossed.lines()))
        show_numbers("train", f"Scores of {folds} folds", headline(crossed.scores))
        show_link("train", crossed.run_url)
        return Completed(message=f"model in {crossed.model}, the mean of {folds} folds")
    trained = train_model(settings_read, *where, **how)
    show_numbers("train", f"Trained into {out}", trained.numbers)
    show_link("train", trained.run_url)
    return Completed(message=f"model in {trained.model}, {trained.ended}")
