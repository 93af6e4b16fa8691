"""The flow `evaluate-model`: a model and labelled images in, scores out."""

from pathlib import Path
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed

from flows.artifacts import ShowProgress, show_numbers
from flows.folders import absolute
from flows.names import headline
from pipeline.config import EngineName, EvaluateConfig, build_config
from pipeline.runs.evaluate_model import evaluate_model


@flow(name="evaluate-model", flow_run_name="evaluate {model} on {data}", persist_result=False)
def evaluate_model_flow(
    data: Path,
    out: Path,
    model: str = "shipped:nuclei",
    split: Literal["train", "val", "test", "all"] = "test",
    diameter: float | str = "auto",
    pixel_size: float | None = None,
    channel: int | None = None,
    tta: bool = False,
    pages: Literal["refuse", "stack", "channels"] = "refuse",
    series: str = "",
    time: int | None = None,
    device: str = "auto",
    engine: EngineName = "auto",
    threads: int | None = None,
    skip: bool = True,
    whole_megapixels: float = 64.0,
    bootstrap: int = 1000,
) -> State[Any]:
    """Predict labelled images that the model has not seen, and score the predictions.

    Args:
        data: A manifest CSV, or a labelled folder. A whole path, as the machine that does the work sees it.
        out: The folder for the scores. A whole path.
        model: shipped:nuclei, a registered model (nuclei, nuclei@champion, nuclei/3) or a path of one.
        split: Which part of the manifest to score on; the test part was kept out of training.
        diameter: How large the objects are, in pixels or as a length (8um); auto goes by the pixel size where the model
            has one and else finds it, native takes images as they are.
        pixel_size: Size of a pixel of the full image in micrometres, where the files do not say it or are wrong.
        channel: Which channel to segment, counted from 0. None takes all that the model can.
        tta: Take the mean over eight flips and quarter turns, for eight times the work.
        pages: What the pages of a multi-page TIFF are: slices of a stack, channels, or nothing we may guess (refuse).
        series: Number or name of the image to take where files hold several (scenes, positions).
        time: Which time point to take where there are several, counted from 0.
        device: auto, cpu, cuda, cuda:1, mps, or cuda:0,cuda:1 to share the work.
        engine: What runs the network on a CPU; auto is OpenVINO in float32 where it is installed, else torch.
        threads: Threads of the CPU that predict; None takes as many as there are.
        skip: Leave background out, where the model says how to know it.
        whole_megapixels: Refuse images that would be magnified beyond this: nothing is streamed here.
        bootstrap: How many resamplings the intervals are made of.
    """
    settings = {
        "data": absolute("data", data),
        "out": absolute("out", out),
        "model": model,
        "split": split,
        "diameter": diameter,
        "pixel_size": pixel_size,
        "channel": channel,
        "tta": tta,
        "pages": pages,
        "series": series or None,
        "time": time,
        "device": device,
        "engine": engine,
        "threads": threads,
        "skip": skip,
        "whole_megapixels": whole_megapixels,
        "bootstrap": bootstrap,
    }
    scores = evaluate_model(build_config(EvaluateConfig, settings, "evaluate-model"), ShowProgress("evaluate"))
    numbers = headline(scores)
    show_numbers("evaluate", f"Scores of {model}", numbers)
    return Completed(message=", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
