"""What ingesting, segmenting and evaluating are told."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.strict import Fraction, Strict


class IngestConfig(Strict):
    folder: Path
    manifest: Path
    layout: Literal["auto", "dsb", "paired", "paired-nifti", "unlabelled"] = "auto"
    masks: Literal["instances", "classes"] = "instances"  # what the numbers of label images are
    pages: Literal["refuse", "stack", "channels"] = "refuse"  # as in ImageOptions; the manifest keeps it
    group: str | None = (
        None  # a regular expression; its first bracket (or the whole match) on the relative path is the group
    )
    fractions: tuple[Fraction, Fraction, Fraction] = (0.7, 0.15, 0.15)  # train, val, test
    seed: int = 0
    contiguous: bool = False  # cases are slices of a stack: train, val and test are runs of it
    strict: bool = False
    cache: Path | None = None  # default: MASKLINE_HOME/cache


def as_micrometres(text: str) -> str:
    """A length with its unit (um, µm, mm), always written the same way; raises ValueError for anything else.

    >>> as_micrometres("8 µm"), as_micrometres("8.50um"), as_micrometres("0.1mm")
    ('8um', '8.5um', '100um')
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([uµμm]m)", text.strip())
    length = float(found[1]) * (1000 if found[2] == "mm" else 1) if found else 0.0
    if not length > 0:
        raise ValueError(f"{text!r} is no length above 0 with its unit, such as 8um")
    return f"{length:.12g}um"


class ImageOptions(Strict):
    """How each image is looked at: what decides its labels besides the model.

    `pixel_size` (um) is what the image is opened with, in place of what its file says. `diameter` is the objects' in
    px, or with a unit ("8um"); auto: by the pixel size where the model has one, else found where the image leaves
    doubt; native: the image as it is.
    """

    pixel_size: PositiveFloat | None = None
    diameter: PositiveFloat | Literal["auto", "native"] | Annotated[str, AfterValidator(as_micrometres)] = "auto"
    channel: int | None = None  # 0-based; None takes all the model can
    pages: Literal["refuse", "stack", "channels"] = "refuse"  # what the pages of a multi-page TIFF, or time points, are
    series: str | None = None  # number or name of the image to take where a file holds several
    time: NonNegativeInt | None = None  # 0-based; which time point where there are several
    tta: bool = False  # mean over the eight flips and quarter turns
    whole_megapixels: PositiveFloat = 64.0  # of 2-D images, the file's or magnified; larger ones are not held in memory

    @property
    def diameter_um(self) -> float | None:
        """The diameter, where it was given as a length.

        >>> ImageOptions(diameter="8 um").diameter_um, ImageOptions(diameter=8.0).diameter_um
        (8.0, None)
        """
        if not isinstance(self.diameter, str) or self.diameter in ("auto", "native"):
            return None
        return float(self.diameter.removesuffix("um"))


EngineName = Literal["auto", "torch", "torch-bfloat16", "openvino", "openvino-int8"]


class EngineOptions(Strict):
    """What runs the network. Labels do not depend on it but for rounding, where engines differ."""

    device: str = "auto"  # cpu, cuda, cuda:1, mps, or several with commas that share the work
    engine: EngineName = "auto"
    threads: PositiveInt | None = None  # of the CPU; None: as many as torch takes
    skip: bool = True  # leave background tiles out, where the model says how to know them


class SegmentConfig(ImageOptions, EngineOptions):
    folder: Path
    out: Path
    model: str = "shipped:nuclei"  # shipped:NAME | a folder | an MLflow registry NAME[@alias|/version]
    level: NonNegativeInt = 0  # pyramid level to segment; the labels have its shape
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    group: str | None = None
    limit: PositiveInt | None = None
    force: bool = False
    geojson: bool = False
    chunk_seconds: PositiveFloat = 30.0
    max_failed_fraction: Fraction = 0.2
    max_megapixels: PositiveFloat = 400.0  # of what must be decoded at once; images read by windows may be larger
    whole_megapixels: PositiveFloat = 16.0  # larger images are streamed: read, predicted and written by parts
    track: bool = True


class EvaluateConfig(ImageOptions, EngineOptions):
    data: Path
    out: Path
    model: str = "shipped:nuclei"
    split: Literal["train", "val", "test", "all"] = "test"
    bootstrap: PositiveInt = 1000
    track: bool = True
