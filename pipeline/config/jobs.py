"""What ingesting, segmenting and evaluating are told."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from pipeline.config.strict import Fraction, Strict


class IngestConfig(Strict):
    folder: Path
    manifest: Path
    layout: Literal["auto", "dsb", "paired", "paired-nifti", "unlabelled"] = "auto"
    masks: Literal["instances", "classes"] = "instances"  # what the numbers of label images are
    group: str | None = (
        None  # a regular expression; its first bracket (or the whole match) on the relative path is the group
    )
    fractions: tuple[Fraction, Fraction, Fraction] = (0.7, 0.15, 0.15)  # train, val, test
    seed: int = 0
    strict: bool = False
    cache: Path | None = None  # default: MASKLINE_HOME/cache


class ImageOptions(Strict):
    """How each image is looked at: what decides its labels besides the model."""

    pixel_size: PositiveFloat | None = None  # um
    diameter: PositiveFloat | Literal["auto", "native"] = "auto"  # px; auto: found where the image leaves doubt
    channel: int | None = None  # 0-based; None takes all the model can
    tta: bool = False  # mean over the eight flips and quarter turns


class SegmentConfig(ImageOptions):
    folder: Path
    out: Path
    model: str = "shipped:nuclei"  # shipped:NAME | a folder | an MLflow registry NAME[@alias|/version]
    pages: Literal["refuse", "stack", "channels"] = "refuse"  # what the pages of a multi-page TIFF are
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    group: str | None = None
    limit: PositiveInt | None = None
    force: bool = False
    geojson: bool = False
    device: str = "auto"
    chunk_seconds: PositiveFloat = 30.0
    max_failed_fraction: Fraction = 0.2
    max_megapixels: PositiveFloat = 400.0
    track: bool = True


class EvaluateConfig(ImageOptions):
    data: Path
    out: Path
    model: str = "shipped:nuclei"
    split: Literal["train", "val", "test", "all"] = "test"
    device: str = "auto"
    bootstrap: PositiveInt = 1000
    track: bool = True
