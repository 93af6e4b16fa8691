"""The flow `ingest-folder`: a labelled folder in, an audited manifest out."""

from pathlib import Path
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed

from flows.artifacts import ShowProgress, show_numbers
from flows.folders import absolute
from pipeline.config import IngestConfig, build_config
from pipeline.runs.ingest_folder import ingest_folder


@flow(name="ingest-folder", flow_run_name="ingest {folder}", persist_result=False)
def ingest_folder_flow(
    folder: Path,
    manifest: Path,
    layout: Literal["auto", "dsb", "paired", "paired-nifti", "unlabelled"] = "auto",
    masks: Literal["instances", "classes"] = "instances",
    pages: Literal["refuse", "stack", "channels"] = "refuse",
    group: str = "",
    train_fraction: float = 0.7,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    contiguous: bool = False,
    strict: bool = False,
) -> State[Any]:
    """Read and audit every image and mask of a folder, merge instance masks, and write the manifest that training uses.

    Args:
        folder: The data set. A whole path, as the machine that does the work sees it.
        manifest: The CSV file to write. A whole path; the findings go beside it.
        layout: How the folder is laid out; auto detects it.
        masks: What the numbers of label images are: objects (instances), or classes such as organs.
        pages: What the pages of a TIFF, or the 4th axis of a NIfTI, are: slices, channels, or nothing we may guess.
        group: A regular expression on the file's path; images of one group (patient, plate) are never split apart.
        train_fraction: Part of the images to train on (0 to 1).
        validation_fraction: Part of the images that decides when to stop.
        test_fraction: Part of the images that is kept out for the final score.
        seed: Another seed, another split.
        contiguous: The images are slices of a stack: runs of them are held out, by their numbers.
        strict: Fail when the audit finds anything.
    """
    settings = {
        "folder": absolute("folder", folder),
        "manifest": absolute("manifest", manifest),
        "layout": layout,
        "masks": masks,
        "pages": pages,
        "group": group or None,
        "fractions": (train_fraction, validation_fraction, test_fraction),
        "seed": seed,
        "contiguous": contiguous,
        "strict": strict,
    }
    ingested = ingest_folder(build_config(IngestConfig, settings, "ingest-folder"), ShowProgress("ingest"))
    cases, findings = len(ingested.manifest.cases), len(ingested.findings)
    show_numbers("ingest", f"Manifest {manifest}", {"images": cases, "findings": findings, "seconds": ingested.seconds})
    return Completed(message=f"{cases:,} images, {findings:,} findings")
