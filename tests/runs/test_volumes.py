"""Volumes from folder to results: trained, segmented, measured and scored, their headers untouched."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import EvaluateConfig, IngestConfig, SegmentConfig, TrainConfig, build_config
from pipeline.data.ingest import ingest
from pipeline.data.manifest import load_data, write_manifest
from pipeline.errors import ModelError
from pipeline.inference import volumes
from pipeline.model.bundle import load_model
from pipeline.runs.evaluate_classes import publish_classes
from pipeline.runs.evaluate_model import evaluate_model, score_folder, score_table
from pipeline.runs.export_model import export_model
from pipeline.runs.quantise_model import quantise_model
from pipeline.runs.segment_folder import segment_folder
from pipeline.runs.train_model import train_model

SPLITS = ("train", "train", "val", "test")
SHAPE, SPACING = (12, 14, 10), (0.8, 0.9, 2.0)  # x, y, z as NIfTI has them
CONFIG = {
    "name": "boxes",
    "network": {"kind": "nuclei_unet", "dimensions": 3, "in_channels": 1, "out_channels": 2, "filters": [4, 6]},
    "prepare": {"channels": 1, "normalise": {"kind": "zscore"}, "size": {"kind": "spacing", "spacing": [1, 1, 1]}},
    "target": {"kind": "classes", "names": ["none", "box"]},
    "sampling": {"kind": "patches", "size": [8, 8, 8], "per_epoch": 8},
    "augmentation": {"kind": "none"},
    "optimiser": {"kind": "adam", "lr": 0.02},
    "schedule": {"kind": "constant"},
    "batch_size": 4,
    "epochs": 12,
    "ema": 0.0,
}


def affine() -> np.ndarray:
    """Oblique, with anisotropic voxels and an offset."""
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ np.diag(SPACING), (-30.5, 12.25, 7)
    return matrix


def write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine())
    image.header["descrip"] = b"made for a test"
    image.header.set_xyzt_units("mm")
    image.header.set_intent("estimate")
    nibabel.save(image, path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A manifest of four volumes with a bright box each, of which one tests and one validates."""
    folder = tmp_path_factory.mktemp("volumes")
    for number in range(4):
        rng = np.random.default_rng(number)
        labels = np.zeros(SHAPE, np.uint8)
        labels[3:8, 4:9, 2 + number : 6 + number] = 1
        write(folder / "data/images" / f"{number}.nii.gz", (labels * 100 + rng.normal(50, 3, SHAPE)).astype(np.float32))
        write(folder / "data/labels" / f"{number}.nii.gz", labels)
    config = IngestConfig(folder=folder / "data", manifest=folder / "m.csv", masks="classes", cache=folder / "cache")
    manifest = ingest(config).manifest
    cases = [replace(c, split=s, group="") for c, s in zip(manifest.cases, SPLITS, strict=True)]
    write_manifest(folder / "m.csv", replace(manifest, cases=tuple(cases)))
    return folder / "m.csv"


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    return train_model(build_config(TrainConfig, CONFIG, "test"), data, data.parent / "run", track=False).model


def test_a_training_of_volumes_leaves_a_model_and_its_numbers(data: Path, model: Path) -> None:
    """The record says that it is of volumes, on which grid, with which classes; the score is the Dice."""
    record = load_model(model).record
    assert record.volume is not None and record.volume.strides == (2, 2, 2) and record.volume.window == (8, 8, 8)
    assert record.halo == max(record.volume.halos) and record.outputs == ("none", "box")
    assert record.diameter is None and "val_dice" in record.provenance and "val_map" not in record.provenance
    numbers = json.loads((model.parent / "train.json").read_text())["numbers"]
    assert numbers["val_dice"] > 0.5 and numbers["val_dice_box"] == numbers["val_dice"]


def test_labels_lie_where_their_volume_lies(data: Path, model: Path, tmp_path: Path) -> None:
    """Reloaded by nibabel, labels have the affine and the header of the volume, but for their type and scaling."""
    config = SegmentConfig(folder=data.parent / "data", out=tmp_path / "out", model=str(model), track=False)
    assert segment_folder(config).failed == 0
    for path in sorted((data.parent / "data/images").glob("*.nii.gz")):
        image, labels = nibabel.load(path), nibabel.load(tmp_path / "out/labels/images" / path.name)
        np.testing.assert_array_equal(labels.affine, image.affine)
        kept = set(image.header) - {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_min", "cal_max"}
        for name in kept:
            np.testing.assert_array_equal(labels.header[name], image.header[name], err_msg=name)
        assert labels.shape == image.shape and set(np.unique(labels.dataobj)) <= {0, 1}
    table = pd.read_parquet(tmp_path / "out/objects.parquet")
    assert set(table["class"]) == {"box"} and len(table) == 4
    np.testing.assert_allclose(table["volume_mm3"], table["volume_px3"] * np.prod(SPACING), rtol=1e-5)
    assert (tmp_path / "out/report.html").stat().st_size > 10_000


def test_large_volumes_leave_the_files_of_small_ones(data: Path, model: Path, tmp_path: Path, monkeypatch) -> None:
    """Labels, table and report of a volume that went through in slabs: the same files, byte for byte."""
    found = []
    for most in (volumes.WHOLE, 0):
        monkeypatch.setattr(volumes, "WHOLE", most)
        out = tmp_path / str(most)
        images = {"folder": data.parent / "data", "include": ("images/*",)}
        assert segment_folder(SegmentConfig(**images, out=out, model=str(model), track=False)).failed == 0
        labels = {path.name: path.read_bytes() for path in (out / "labels/images").iterdir()}
        found.append((labels, pd.read_parquet(out / "objects.parquet"), sorted((out / ".maskline").rglob("*.jpg"))))
    (small, rows, pictures), (large, again, others) = found
    assert small == large and len(small) == 4
    pd.testing.assert_frame_equal(again, rows, rtol=1e-5)
    assert [path.read_bytes() for path in pictures] == [path.read_bytes() for path in others]


def test_evaluating_and_scoring_give_the_same_numbers(data: Path, model: Path, tmp_path: Path) -> None:
    """evaluate writes labels, scores and the confusion matrix; score over those labels agrees."""
    config = EvaluateConfig(data=data, out=tmp_path, model=str(model), split="all", bootstrap=50, track=False)
    scores = evaluate_model(config)
    assert scores["kind"] == "classes" and scores["images"] == 4 and scores["dice_mean"] > 0.5
    assert scores["names"] == ["none", "box"] and "mean foreground Dice" in score_table(scores)
    for name in ("scores.json", "scores.csv", "scores.txt", "confusion.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(list((tmp_path / "worst").iterdir())) == 4
    again = score_folder(tmp_path, data, out=tmp_path / "again", bootstrap=50)
    assert again["confusion"] == scores["confusion"] and again["dice_mean_low"] == scores["dice_mean_low"]
    assert score_folder(tmp_path, data.parent / "data", masks="classes")["confusion"] == scores["confusion"]


def test_a_folder_is_evaluated_as_the_model_means_it(data: Path, model: Path, tmp_path: Path) -> None:
    """Without a manifest, the model's target says that label images are classes."""
    config = EvaluateConfig(data=data.parent / "data", out=tmp_path, model=str(model), split="all", track=False)
    assert evaluate_model(config)["images"] == 4


def test_a_case_that_cannot_be_scored_is_named(data: Path, tmp_path: Path) -> None:
    """A class map of another shape is left out; a missing one counts as background."""
    write(tmp_path / "labels/images/0.nii.gz", np.zeros((3, 3, 3), np.uint8))
    write(tmp_path / "labels/images/1.nii.gz", np.zeros(SHAPE, np.uint8))
    scores = score_folder(tmp_path, data, bootstrap=0)
    assert scores["failed"] == 1 and "images/0" in scores["errors"][0]["error"]
    assert sorted(scores["missing"]) == ["images/2", "images/3"] and scores["dice_mean"] == 0


def test_a_header_that_cannot_be_true_is_refused_and_the_others_go_on(data: Path, model: Path, tmp_path: Path) -> None:
    """A spacing of 0 and an affine with NaN are rows with a hint; the good volume beside them is segmented."""
    (tmp_path / "in").mkdir()
    good = data.parent / "data/images/0.nii.gz"
    (tmp_path / "in/good.nii.gz").write_bytes(good.read_bytes())
    raw = bytearray(gzip.decompress(good.read_bytes()))
    zero, unknown = raw.copy(), raw.copy()
    zero[76 + 12 : 76 + 16] = np.float32(0).tobytes()  # pixdim[3]
    unknown[280:284] = np.float32(np.nan).tobytes()  # srow_x
    (tmp_path / "in/zero.nii").write_bytes(zero)
    (tmp_path / "in/nan.nii").write_bytes(unknown)
    options = {"max_failed_fraction": 1.0, "track": False}
    summary = segment_folder(SegmentConfig(folder=tmp_path / "in", out=tmp_path / "out", model=str(model), **options))
    assert (summary.done, summary.failed) == (1, 2)
    rows = pd.read_csv(tmp_path / "out/images.csv").set_index("path")
    assert "spacing" in rows["error"]["zero.nii"] and "NaN" in rows["error"]["nan.nii"]


def test_what_is_of_images_alone_is_refused(data: Path, model: Path) -> None:
    """int8 is not made of volumes."""
    with pytest.raises(ModelError, match="a model of volumes"):
        quantise_model(str(model), data)


@pytest.mark.slow
def test_a_bioimageio_package_of_volumes_is_valid(model: Path, tmp_path: Path) -> None:
    """The validator passes it; its preprocessing, done by hand on the raw test input, gives the test output."""
    spec = pytest.importorskip("bioimageio.spec")
    pytest.importorskip("onnxscript")
    export_model(str(model), "bioimageio", tmp_path / "a.zip", author="A. Author", licence="MIT")
    description = spec.load_description(tmp_path / "a.zip", perform_io_checks=True)
    assert description.validation_summary.status in ("passed", "valid-format") and "3d" in description.tags
    image, answer = description.inputs[0], description.outputs[0]
    assert [str(axis.id) for axis in image.axes] == ["batch", "channel", "z", "y", "x"]
    record = load_model(model).record
    assert record.volume is not None and tuple(axis.halo for axis in answer.axes[2:]) == record.volume.halos
    _, step, clip = image.preprocessing[:3]
    assert (step.id, clip.id) == ("zero_mean_unit_variance", "clip")
    raw, expected = (spec.utils.load_array(tensor.test_tensor) for tensor in (image, answer))
    over = tuple(2 + "zyx".index(axis) for axis in step.kwargs.axes)
    mean, deviation = raw.mean(axis=over, keepdims=True), raw.std(axis=over, keepdims=True)
    prepared = np.clip((raw - mean) / (deviation + step.kwargs.eps), clip.kwargs.min, clip.kwargs.max)
    with torch.inference_mode():
        logits = load_model(model).network(torch.from_numpy(prepared.astype(np.float32)))
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=1e-4)


@pytest.mark.data
def test_two_real_volumes_train_and_segment(tmp_path: Path) -> None:
    """Two MR volumes of the hippocampus: one epoch, labels with their affine."""
    root = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "msd_hippocampus"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in ("001", "003"):
            source = root / name / f"hippocampus_{number}.nii.gz"
            (tmp_path / "data" / name / source.name).write_bytes(source.read_bytes())
    tree = CONFIG | {
        "network": CONFIG["network"] | {"out_channels": 3},
        "target": {"kind": "classes", "names": ["none", "anterior", "posterior"]},
        "epochs": 1,
    }
    manifest = load_data(tmp_path / "data", "classes")
    cases = tuple(replace(c, split=s) for c, s in zip(manifest.cases, ("train", "val"), strict=True))
    write_manifest(tmp_path / "m.csv", replace(manifest, cases=cases))
    trained = train_model(build_config(TrainConfig, tree, "test"), tmp_path / "m.csv", tmp_path / "run", track=False)
    assert "val_dice_posterior" in trained.numbers
    config = SegmentConfig(folder=tmp_path / "data", out=tmp_path / "out", model=str(trained.model), track=False)
    assert segment_folder(config).failed == 0
    for path in (tmp_path / "data/images").iterdir():
        labels = nibabel.load(tmp_path / "out/labels/images" / path.name)
        np.testing.assert_array_equal(labels.affine, nibabel.load(path).affine)


def test_what_a_run_shows_of_class_scores(data: Path, model: Path, tmp_path: Path) -> None:
    """Overall numbers with their intervals, Dice and IoU of each class, the confusion matrix as a picture."""
    config = EvaluateConfig(data=data, out=tmp_path, model=str(model), split="all", bootstrap=20, track=False)
    scores = evaluate_model(config)
    logged: dict[str, float] = {}
    files: list[str] = []
    run = SimpleNamespace(
        set_tags=lambda tags: None,
        log_metrics=logged.update,
        log_file=lambda path, folder="": files.append(path.name),
    )
    publish_classes(run, tmp_path, scores)
    assert logged["dice_mean"] == scores["dice_mean"] and {"dice_mean_low", "dice/box", "iou/none"} <= logged.keys()
    assert "confusion.png" in files and "worst" in files
