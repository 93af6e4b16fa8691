"""Volumes whose 4th axis is channels: told to the ingest, kept for training and scores, told to segment."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.config import EvaluateConfig, IngestConfig, SegmentConfig, TrainConfig, build_config
from pipeline.data.ingest import ingest
from pipeline.data.manifest import load_data, read_manifest, write_manifest
from pipeline.errors import LayoutError
from pipeline.runs.evaluate_model import evaluate_model, score_folder
from pipeline.runs.ingest_folder import ingest_folder
from pipeline.runs.segment_folder import segment_folder
from pipeline.runs.train_model import train_model

SHAPE, AFFINE = (12, 14, 10), np.array([[-0.9, 0, 0, 10], [0, 0.8, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1.0]])
CONFIG = {
    "name": "channels",
    "network": {"kind": "nuclei_unet", "dimensions": 3, "in_channels": 2, "out_channels": 2, "filters": [4, 6]},
    "prepare": {"channels": 2, "normalise": {"kind": "zscore"}},
    "target": {"kind": "classes", "names": ["none", "box"]},
    "sampling": {"kind": "patches", "size": [8, 8, 8], "per_epoch": 8},
    "augmentation": {"kind": "none"},
    "optimiser": {"kind": "adam", "lr": 0.02},
    "batch_size": 4,
    "schedule": {"kind": "constant"},
    "epochs": 12,
    "ema": 0.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four volumes of two channels: noise, and a bright box; one validates, one tests."""
    folder = tmp_path_factory.mktemp("channels")
    for name in ("images", "labels"):
        (folder / "data" / name).mkdir(parents=True)
    for number in range(4):
        rng = np.random.default_rng(number)
        labels = np.zeros(SHAPE, np.uint8)
        labels[3:8, 4:9, 2 + number : 6 + number] = 1
        voxels = np.stack([rng.normal(50, 3, SHAPE), labels * 100 + rng.normal(50, 3, SHAPE)], axis=-1)
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), AFFINE), folder / f"data/images/{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, AFFINE), folder / f"data/labels/{number}.nii.gz")
    told = {"masks": "classes", "pages": "channels", "cache": folder / "cache"}
    manifest = ingest_folder(IngestConfig(folder=folder / "data", manifest=folder / "m.csv", **told)).manifest
    splits = ("train", "train", "val", "test")
    cases = [replace(c, split=s, group="") for c, s in zip(manifest.cases, splits, strict=True)]
    write_manifest(folder / "m.csv", replace(manifest, cases=tuple(cases)))
    return folder / "m.csv"


def test_the_manifest_says_it(data: Path) -> None:
    """In its title, for every case; without the word the same folder has no case that can be used."""
    assert " layout=paired-nifti pages=channels root=./data" in data.read_text().splitlines()[0]
    assert {case.pages for case in read_manifest(data).cases} == {"channels"}
    assert {case.pages for case in load_data(data, pages="stack").cases} == {"stack"}
    config = IngestConfig(folder=data.parent / "data", manifest=data, masks="classes", cache=data.parent / "cache")
    with pytest.raises(LayoutError, match="4 cases, none of which can be used"):
        ingest(config)


def test_such_volumes_train_evaluate_score_and_segment(data: Path, tmp_path: Path) -> None:
    """The box is in the second channel alone, and is found; labels have three axes and the volume's affine."""
    model = str(train_model(build_config(TrainConfig, CONFIG, "test"), data, tmp_path / "run", track=False).model)
    options = {"model": model, "bootstrap": 20, "track": False}
    scores = evaluate_model(EvaluateConfig(data=data, out=tmp_path / "scores", split="all", **options))
    assert scores["failed"] == 0 and scores["dice_mean"] > 0.5
    told = {"data": data.parent / "data", "out": tmp_path / "of the folder", "pages": "channels"}
    again = evaluate_model(EvaluateConfig(**told, split="all", **options))
    assert again["confusion"] == scores["confusion"]
    folder = data.parent / "data/images"
    segment = SegmentConfig(folder=folder, out=tmp_path / "out", model=model, pages="channels", track=False)
    assert segment_folder(segment).failed == 0
    for path in folder.iterdir():
        labels = nibabel.load(tmp_path / "out/labels" / path.name)
        np.testing.assert_array_equal(labels.affine, nibabel.load(path).affine)
        assert labels.shape == SHAPE
    assert score_folder(tmp_path / "scores", data, bootstrap=0)["confusion"] == scores["confusion"]
