"""The ingest that `data get` prints is run on a made archive of every way a set is arranged, and finds its cases."""

import re
import shlex
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from flows.cli import cli
from pipeline.data.ingest import load_case
from pipeline.data.manifest import read_manifest
from pipeline.data.public_sets import SETS
from pipeline.runs.get_data import get_data

COUNT = 6


def noise(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).integers(60, 250, shape).astype(np.uint8)


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def bowl(folder: Path) -> None:
    for number in range(COUNT):
        case = folder / "stage1_train" / f"case{number}"
        picture(case / "images" / f"case{number}.png", noise(number, 40, 48, 3))
        for mask, rows in enumerate((slice(2, 12), slice(20, 30))):
            one = np.zeros((40, 48), np.uint8)
            one[rows, 5:25] = 255
            picture(case / "masks" / f"{mask}.png", one)


def pairs(image: str, label: str, value: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(COUNT):
            labels = np.full((40, 48, 3), 1, np.uint8)
            labels[5:20, 5:30] = value
            picture(folder / image.format(number), noise(number, 40, 48, 3))
            picture(folder / label.format(number), labels if "Seg" in label else labels[..., 0])

    return write


def slices(folder: Path) -> None:
    folder.mkdir(parents=True)
    labels = np.zeros((COUNT, 40, 48), np.uint8)
    labels[:, 5:20, 5:30], labels[:, 24:38, 8:40] = 255, 255
    for name, stack in (("volume", noise(0, *labels.shape)), ("labels", labels)):
        tifffile.imwrite(folder / f"train-{name}.tif", stack, photometric="minisblack")
    tifffile.imwrite(folder / "test-volume.tif", noise(1, *labels.shape), photometric="minisblack")


def decathlon(task: str, *channels: int) -> Callable[[Path], None]:
    """With what a Mac leaves in an archive, and an image without labels."""

    def write(folder: Path) -> None:
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / task / name).mkdir(parents=True)
        for number in range(COUNT + 1):
            voxels = noise(number, 14, 12, 10, *channels).astype(np.float32)
            labels = np.zeros((14, 12, 10), np.float32)
            labels[3:8, 3:8, 3:8] = 1 + number % 2
            at = "imagesTs" if number == COUNT else "imagesTr"
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / task / at / f"part_{number:03d}.nii.gz")
            if at == "imagesTr":
                nibabel.save(
                    nibabel.Nifti1Image(labels, np.eye(4)), folder / task / f"labelsTr/part_{number:03d}.nii.gz"
                )
        (folder / task / "imagesTr/._part_000.nii.gz").write_bytes(b"x")
        (folder / task / "dataset.json").write_text("{}")

    return write


MADE = {
    "dsb2018": bowl,
    "dsb2018-corrected": bowl,
    "pets": pairs("images/Cat_{}.jpg", "annotations/trimaps/Cat_{}.png", 3),
    "isbi2012": slices,
    "camvid": pairs("camvid/images/000{}TP_00.png", "camvid/labels/000{}TP_00_P.png", 17),
    "camvid-11": pairs("s/CamVid/train/000{}TP_00.png", "s/CamVid/trainannot/000{}TP_00.png", 3),
    "carla": pairs("dataA/CameraRGB/{}.png", "dataA/CameraSeg/{}.png", 7),
    "flood": pairs("Image/{}.jpg", "Mask/{}.png", 255),
    "hippocampus": decathlon("Task04_Hippocampus"),
    "brain-tumour": decathlon("Task01_BrainTumour", 4),
    "prostate": decathlon("Task05_Prostate", 2),
}


@pytest.mark.parametrize("name", MADE)
def test_the_ingest_that_is_printed_finds_the_cases(name, tmp_path, monkeypatch):
    """The very line, from archive to manifest; every labelled case is read back, its channels with it."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    MADE[name](tmp_path / "made")
    wanted, files = SETS[name], []
    for number, archive in enumerate(wanted.archives):
        files.append(tmp_path / f"{number}.zip")
        with zipfile.ZipFile(files[-1], "w") as made:
            for path in sorted((tmp_path / "made").rglob("*") if number == 0 else ()):
                made.write(path, path.relative_to(tmp_path / "made"))
            made.writestr(f"note{number}.txt", archive.name)
    unchecked = tuple(replace(archive, checksum=None, vouched="") for archive in wanted.archives)
    got = get_data(replace(wanted, archives=unchecked), tmp_path / "the set", accepted=True, files=files)
    (line,) = [line.removeprefix("next").strip() for line in got.lines() if line.startswith("next ")]
    tool, *words = shlex.split(line)
    done = CliRunner().invoke(cli, words)
    assert (tool, done.exit_code) == ("maskline", 0), done.output
    cases = [case for case in read_manifest(Path(words[-1])).cases if case.split != "unlabelled"]
    assert len(cases) == COUNT
    image, labels = load_case(cases[0])
    told = re.search(r"(\d) channels", wanted.holds)
    assert image.pixels.shape[0] == (int(told[1]) if told else image.pixels.shape[0])
    assert labels.any() and labels.shape == image.spatial_shape
