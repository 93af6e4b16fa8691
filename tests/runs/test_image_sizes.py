"""How large pixels and objects are, from `maskline segment` to the tables: told, stated, known to the model."""

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from squares import rows_of

import unet
from flows.cli import run
from pipeline.config import ClassesTarget, FixedSize, ImageOptions, MaskTarget, NucleiUNet, PrepareConfig, build_config
from pipeline.config import SegmentConfig as Settings
from pipeline.errors import ConfigError, ImageError, UsageError
from pipeline.model.bundle import ModelRecord, describe_network, save_model
from pipeline.model.told_size import KnownSize
from pipeline.types import Geometry

SIDE = 64


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def network():
    """Drawn weights that find something in the squares below."""
    torch.manual_seed(3)
    config = NucleiUNet(filters=(4, 6), in_channels=1, out_channels=1)
    return config, unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()


@pytest.fixture
def model(tmp_path, network):
    """Write a model; keywords go into its record."""

    def make(**known):
        config, weights = network
        stride, halo = describe_network(weights, 1)
        about = {"name": "tiny", "network": config, "prepare": PrepareConfig(channels=1), "target": MaskTarget()}
        about |= {"outputs": ("foreground",), "stride": stride, "halo": halo}
        save_model(tmp_path / "model", weights, ModelRecord(**(about | known)))
        return tmp_path / "model"

    return make


def squares() -> np.ndarray:
    image = np.full((SIDE, SIDE), 20, np.uint8)
    for top in range(6, SIDE - 10, 16):
        image[top : top + 8, top : top + 8] = 220
    return image


@pytest.fixture
def images(tmp_path):
    """`micro.tif` has pixels of 0.5 um, `plain.png` says nothing."""
    folder = tmp_path / "images"
    folder.mkdir()
    stated(folder / "micro.tif", 0.5, 0.5)
    (folder / "plain.png").write_bytes(cv2.imencode(".png", squares())[1].tobytes())
    return folder


def stated(path, y: float, x: float) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": x, "PhysicalSizeY": y}
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, squares(), ome=True, metadata=metadata | units)


@pytest.fixture
def segment(tmp_path, images):
    """Run the command; its exit code, the rows of images.csv, and the objects."""

    def start(model, *options):
        out = tmp_path / "out"
        code = run(["segment", str(images), "--out", str(out), "--model", str(model), "--no-track", *options])
        if not (out / "images.csv").is_file():
            return code, {}, None
        return code, rows_of(out), pd.read_parquet(out / "objects.parquet")

    return start


def test_a_told_pixel_size_is_the_image_s(model, segment, tmp_path):
    """A model that knows no pixel size: nothing is rescaled, and the tables have um, whatever the files say."""
    code, rows, objects = segment(model(diameter=20.0), "--pixel-size", "0.25", "--diameter", "native")
    assert code == 0 and len(objects)
    assert {row["model_zoom"] for row in rows.values()} == {"1"}
    np.testing.assert_allclose(objects["area_um2"], objects["area_px2"] / 16)
    with tifffile.TiffFile(tmp_path / "out/labels/plain.tif") as tiff:
        assert '"spacing": [0.25, 0.25], "unit": "um"' in tiff.pages[0].description


def test_images_are_brought_to_the_model_s_pixel_size(model, segment):
    """By the file's own, by what is told instead, and with what to do where there is neither."""
    code, rows, _ = segment(model(diameter=20.0, pixel_size=0.25))
    assert code == 4 and rows["micro.tif"]["model_zoom"] == "2"
    assert rows["plain.png"]["status"] == "failed" and "no pixel size" in rows["plain.png"]["error"]
    assert "--pixel-size" in rows["plain.png"]["hint"]
    code, rows, _ = segment(model(diameter=20.0, pixel_size=0.25), "--pixel-size", "0.125")
    assert code == 0 and {row["model_zoom"] for row in rows.values()} == {"0.5"}


def test_a_diameter_in_micrometres(model, segment):
    """8 um at 0.5 um a pixel are 16 px: the model's 20 are 1.25 times as many. A file without a size needs one."""
    code, rows, _ = segment(model(diameter=20.0), "--diameter", "8um")
    assert code == 4 and rows["micro.tif"]["model_zoom"] == "1.25"
    assert "no pixel size" in rows["plain.png"]["error"] and "--pixel-size" in rows["plain.png"]["hint"]
    code, rows, _ = segment(model(diameter=20.0), "--diameter", "8 µm", "--pixel-size", "1")
    assert code == 0 and {row["model_zoom"] for row in rows.values()} == {"2.5"}


@pytest.mark.parametrize("sides", [(0.5, 1.0), (1.0, 0.5)])
def test_pixels_that_are_not_square_are_refused_where_size_matters(model, segment, images, sides):
    """By name, not rescaled by one of their sides; where size decides nothing they are measured as they are."""
    stated(images / "micro.tif", *sides)
    _, rows, _ = segment(model(diameter=20.0, pixel_size=0.25), "--diameter", "auto")
    assert f"pixels of {sides[0]:g} x {sides[1]:g} um" in rows["micro.tif"]["error"]
    _, rows, objects = segment(model(diameter=20.0), "--diameter", "native")
    mine = objects[objects["image"] == "micro.tif"]
    assert rows["micro.tif"]["status"] == "done"
    np.testing.assert_allclose(mine["area_um2"], mine["area_px2"] / 2)


def test_pixels_nearly_square_count_as_square():
    """4 % apart: a square of the same area; 6 % are refused."""
    known = KnownSize(pixel_size=0.5)
    assert known.zoom(ImageOptions(), Geometry((0.5, 0.52), "um")) == pytest.approx(1.02, abs=1e-3)
    assert known.zoom(ImageOptions(), Geometry((0.0005, 0.0005), "mm")) == 1.0
    with pytest.raises(ImageError, match="square"):
        known.zoom(ImageOptions(), Geometry((0.5, 0.53), "um"))


CLASSES = {"target": ClassesTarget(names=("none", "cell"), head="sigmoid"), "outputs": ("none", "cell")}


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("known", "diameter", "named"),
    [
        ({"diameter": None}, "30", "a model that records none"),
        ({"diameter": None}, "8um", "a model that records none"),
        ({"prepare": PrepareConfig(channels=1, size=FixedSize()), "diameter": 20.0}, "30", "resizes every image"),
        (CLASSES, "30", "a model of classes"),
    ],
)
def test_what_cannot_work_for_the_model_is_refused_at_planning(
    model, segment, tmp_path, capsys, known, diameter, named, dry
):
    """Exit code 2 and one message, before anything is written; not every image by itself."""
    code, rows, _ = segment(model(**known), "--diameter", diameter, *(["--dry-run"] if dry else []))
    assert (code, rows) == (2, {})
    said = " ".join(capsys.readouterr().err.split())
    assert named in said and f"--diameter {diameter}" in said.replace(".0:", ":")
    assert not (tmp_path / "out").exists()


def test_a_model_of_a_fixed_size_takes_the_pixel_size_for_the_tables(model, segment):
    """It rescales by its own rule; the size of a pixel is the image's all the same."""
    code, _, objects = segment(model(prepare=PrepareConfig(channels=1, size=FixedSize())), "--pixel-size", "0.5")
    assert code == 0 and "area_um2" in objects


def test_a_model_of_volumes_knows_no_diameter():
    """Said by its name."""
    with pytest.raises(UsageError, match="a model of volumes"):
        KnownSize.of({"volume": {"strides": [2, 2, 2]}, "diameter": 9.0}).check(ImageOptions(diameter=9.0))


@pytest.mark.parametrize("text", ["8px", "um", "0um", "-3um", "8um2", "8 m", ""])
def test_lengths_without_sense_are_refused(text):
    """A length is a number above 0 and um, µm or mm."""
    with pytest.raises(ConfigError, match="diameter"):
        build_config(Settings, {"folder": "a", "out": "b", "diameter": text}, "test")
