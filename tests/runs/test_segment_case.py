"""One image: its stages, the model it needs, and what is nobody's fault but the folder's."""

import time
from pathlib import Path

import numpy as np
import pytest
from squares import draw, make_model

from pipeline.config import GuideUNet, MaskTarget, PrepareConfig, SegmentConfig
from pipeline.errors import ImageError, ModelError, OutputError
from pipeline.runs.case_products import label_paths
from pipeline.runs.segment_case import ChunkJob, load_segmenter, segment_case
from pipeline.runs.stages import Stages, Watched
from pipeline.types import Case, Geometry, Image


def job_of(tmp_path: Path, model: Path, digest: str, **changes: object) -> ChunkJob:
    config = SegmentConfig(folder=tmp_path, out=tmp_path / "out", model=str(model), device="cpu", **changes)  # type: ignore[arg-type]
    return ChunkJob(config, model, digest, "settings", "000001")


def case_of(path: Path) -> Case:
    return Case(path.stem, path, path.name)


def test_stages_take_their_own_time_only():
    """What passes in an inner stage is not the outer one's; the same stage twice adds up."""
    stages = Stages()
    with stages.stage("outer"):
        for _ in range(2):
            with stages.stage("inner"):
                time.sleep(0.02)
        assert stages.at == "outer"
    assert stages.seconds["inner"] >= 0.04
    assert stages.seconds["outer"] < 0.02
    assert stages.at == ""


def test_stage_of_a_failure_is_the_innermost():
    """It stays where it was when the error came."""
    stages = Stages()
    with pytest.raises(ValueError), stages.stage("segment"), stages.stage("read"):
        raise ValueError
    assert stages.at == "read"


def test_loading_the_model_is_no_image_s_time():
    """It is told of nowhere among an image's seconds."""
    stages = Stages(seconds={"load": 3.0, "read": 0.12345678})
    assert stages.rounded == {"read": 0.123457}


def test_reading_is_watched_whoever_reads():
    """An image that breaks while a segmenter reads it has failed at "read"."""

    class Source:
        path, shape, dtype, axes, channels = Path("a"), (1, 2, 2), np.dtype("uint8"), "CYX", ("grey",)
        geometry, levels, block = Geometry.pixels(), ((2, 2),), (2, 2)

        def read(self, window=None, level=0):
            if window is not None:
                raise ImageError("a", "damage", "pixels", "copy it again")
            return Image(np.zeros((1, 2, 2), np.uint8), self.geometry)

    stages = Stages()
    watched = Watched(Source(), stages)
    assert watched.read().pixels.shape == watched.shape
    assert "read" in stages.seconds
    with pytest.raises(ImageError), stages.stage("segment"):
        watched.read("a window")  # type: ignore[arg-type]
    assert stages.at == "read"


def test_label_paths():
    """TIFF for pictures, NIfTI for NIfTI; outlines beside them where asked for."""
    assert label_paths(Case("p/a", Path("a"), "p/a.png"), False) == ("labels/p/a.tif",)
    assert label_paths(Case("a", Path("a"), "a.nii"), True) == ("labels/a.nii.gz", "geojson/a.geojson")


@pytest.fixture
def real_model(tmp_path):
    import torch

    import unet
    from pipeline.model.bundle import ModelRecord, describe_network, save_model

    torch.manual_seed(0)
    config = GuideUNet(in_channels=3, filters=(2, 2, 2, 2, 2))
    network = unet.build("guide_unet", **config.model_dump(exclude={"kind"})).eval()
    stride, halo = describe_network(network, 3)
    about = {"network": config, "prepare": PrepareConfig(), "target": MaskTarget(), "outputs": ("foreground",)}
    record = ModelRecord(name="tiny", stride=stride, halo=halo, **about)
    return tmp_path / "model", save_model(tmp_path / "model", network, record)


def test_a_real_model_segments_and_its_stages_are_told(tmp_path, real_model):
    """The product's own segmenter behind the same border: prepare, predict and decode are stages of their own."""
    folder, digest = real_model
    image = draw(tmp_path / "a.png")
    worked = segment_case(case_of(image), job_of(tmp_path, folder, digest))
    assert worked.entry.status == "done", worked.entry.error
    assert {"read", "open", "prepare", "predict", "decode", "measure", "write"} <= set(worked.entry.seconds)
    assert (tmp_path / "out/labels/a.tif").is_file()


def test_model_that_changed_since_the_run_began(tmp_path, real_model):
    """Results must be of the model that is on record."""
    with pytest.raises(ModelError, match="as the run began; let the model be"):
        load_segmenter(job_of(tmp_path, real_model[0], "0" * 64))


def test_model_that_does_not_load_is_no_image_s_fault(tmp_path):
    """The error passes the border."""
    model = make_model(tmp_path / "model")
    with pytest.raises(ModelError):
        segment_case(case_of(draw(tmp_path / "a.png")), job_of(tmp_path, model, "x"))


def test_folder_that_cannot_be_written_is_no_image_s_fault(tmp_path, segmenter):
    """A file where labels/ should be: OutputError, not a row."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").write_text("in the way")
    with pytest.raises(OutputError, match=r"output folder .*out"):
        segment_case(case_of(draw(tmp_path / "a.png")), job_of(tmp_path, make_model(tmp_path / "model"), "x"))


def test_image_that_vanished(tmp_path, segmenter):
    """Deleted between planning and doing: a row that says so."""
    entry = segment_case(case_of(tmp_path / "gone.png"), job_of(tmp_path, tmp_path, "x")).entry
    assert (entry.status, entry.stage) == ("failed", "read")
    assert "check that the file is there" in entry.hint
    assert str(tmp_path) not in entry.error
