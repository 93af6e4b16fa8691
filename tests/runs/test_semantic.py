"""Class maps of pictures from folder to results: trained with ignored pixels, written with palette, scored, shown."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

from pipeline.config import EvaluateConfig, IngestConfig, SegmentConfig, TrainConfig, build_config
from pipeline.data.ingest import ingest
from pipeline.data.labels import write_labels
from pipeline.data.manifest import load_data, read_manifest, write_manifest
from pipeline.data.palettes import write_class_png
from pipeline.model.bundle import load_model
from pipeline.results.lock import STATE
from pipeline.runs.cross_validate import cross_validate
from pipeline.runs.evaluate_model import evaluate_model, score_folder
from pipeline.runs.segment_folder import segment_folder
from pipeline.runs.train_model import train_model, with_palette
from pipeline.types import Geometry

NAMES, PALETTE = ["sky", "road", "car"], [[90, 150, 220], [128, 64, 128], [200, 0, 0]]
VOID = 11
CONFIG = {
    "name": "scenes",
    "network": {"kind": "nuclei_unet", "out_channels": 3, "filters": [4, 8]},
    "prepare": {"normalise": {"kind": "divide"}, "size": {"kind": "fixed", "height": 24, "width": 32}},
    "target": {"kind": "classes", "names": NAMES, "palette": PALETTE, "ignore": VOID},
    "loss": {"kind": "cross_entropy"},
    "optimiser": {"kind": "adam", "lr": 0.02},
    "schedule": {"kind": "constant"},
    "sampling": {"kind": "whole"},
    "augmentation": {"kind": "scene", "brightness": 0.0, "contrast": 0.1},
    "validation": {"kind": "last_fraction", "fraction": 0.2},
    "batch_size": 2,
    "epochs": 60,
    "ema": 0.0,
}
ROAD = {"kind": "classes", "names": ["other", "road"], "merge": {"road": [1]}, "ignore": VOID, "head": "sigmoid"}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blue above, grey below, a red box on it; a strip at the right is void, and looks like a car."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 32), np.uint8)
    labels[12 + seed % 3 :] = 1
    left = int(rng.integers(2, 16))
    labels[14:20, left : left + 8] = 2
    colours = np.array([[90, 150, 220], [100, 100, 100], [200, 30, 30]])
    labels[:, 28:] = 2
    pixels = np.clip(colours[labels] + rng.normal(0, 8, (24, 32, 1)), 0, 255).astype(np.uint8)
    labels[:, 28:] = VOID
    return pixels, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three drives of three frames in train/ and trainannot/, val/ and valannot/; two drives are held out."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(9):
        split = "val" if number == 8 else "train"
        name = f"drive{number // 3}_{number}.png"
        pixels, labels = scene(number)
        for inner, values in ((split, pixels), (f"{split}annot", labels)):
            (folder / "data" / inner).mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(values).save(folder / "data" / inner / name)
    options = {"masks": "classes", "group": r"([^/_]+)_[^/]*$", "cache": folder / "cache"}
    manifest = ingest(IngestConfig(folder=folder / "data", manifest=folder / "m.csv", **options)).manifest
    assert {case.group for case in manifest.cases} == {"drive0", "drive1", "drive2"}
    cases = [replace(c, split="train" if c.group == "drive0" else "test") for c in manifest.cases]
    write_manifest(folder / "m.csv", replace(manifest, cases=tuple(cases)))
    return folder / "m.csv"


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    return train_model(build_config(TrainConfig, CONFIG, "test"), data, data.parent / "run", track=False).model


def test_label_pngs_hold_classes_colours_and_names(data: Path, model: Path, tmp_path: Path) -> None:
    """labels/train/x.png is indexed in the palette of the config; run.json says what the numbers mean; done is done."""
    config = SegmentConfig(folder=data.parent / "data", out=tmp_path / "out", model=str(model), track=False)
    assert segment_folder(config).failed == 0
    images = {case.relative: case for case in read_manifest(data).cases}
    written = {path.relative_to(tmp_path / "out/labels").as_posix() for path in (tmp_path / "out/labels").rglob("*.*")}
    assert written == set(images)
    with Pillow.open(tmp_path / "out/labels/train/drive0_0.png") as picture:
        assert picture.mode == "P" and set(np.unique(np.asarray(picture))) <= {0, 1, 2}
        assert picture.getpalette()[:9] == [value for colour in PALETTE for value in colour]
        assert json.loads(picture.text["maskline"])["names"] == NAMES
    told = json.loads((tmp_path / "out/run.json").read_text())["classes"]
    assert told[1] == {"value": 1, "name": "road", "colour": PALETTE[1]}
    table = pd.read_csv(tmp_path / "out/images.csv")
    assert set(table["labels"]) == {f"labels/{name}" for name in images}
    for row in table.to_dict("records"):
        with Pillow.open(tmp_path / "out" / row["labels"]) as picture:
            counted = np.bincount(np.asarray(picture).ravel(), minlength=3) / (24 * 32)
        np.testing.assert_allclose([row[f"fraction_{name}"] for name in NAMES], counted, rtol=1e-5)
    assert table[["objects", "area", "density", "intensity"]].isna().all(axis=None)
    again = segment_folder(config)
    assert (again.done, again.skipped, again.objects) == (0, 9, None)


def test_the_report_shows_classes_in_their_colours(data: Path, model: Path, tmp_path: Path) -> None:
    """A legend of all classes with their colours; nothing is counted as objects; pictures are tinted."""
    from pipeline.results.pictures import split_preview

    config = SegmentConfig(folder=data.parent / "data", out=tmp_path, model=str(model), track=False)
    segment_folder(config)
    html = (tmp_path / "report.html").read_text()
    for name, colour in zip(NAMES, PALETTE, strict=True):
        assert f'<li><span style="background: rgb({" ".join(map(str, colour))})"></span>{name}</li>' in html
    assert "</b> objects" not in html and "<dt>classes</dt><dd>3</dd>" in html
    _, tints = split_preview((tmp_path / STATE / "pictures/train/drive0_0.jpg").read_bytes())
    assert tints.startswith(b"\x89PNG")


def test_labels_of_a_model_of_objects_do_not_stay_beside_class_maps(data: Path, model: Path, tmp_path: Path) -> None:
    """What another model wrote for the same image as TIFF is taken away."""
    config = SegmentConfig(folder=data.parent / "data", out=tmp_path / "out", model=str(model), track=False, limit=1)
    segment_folder(config)
    old = tmp_path / "out/labels/train/drive0_0.tif"
    write_labels(old, np.ones((24, 32), np.uint32), Geometry.pixels())
    segment_folder(config.model_copy(update={"force": True}))
    assert not old.exists() and old.with_suffix(".png").exists()


def test_void_counts_in_no_score_and_scores_agree(data: Path, model: Path, tmp_path: Path) -> None:
    """24 x 28 of 24 x 32 pixels count; evaluate and score agree; intervals are over the two drives; a row an image."""
    scores = evaluate_model(EvaluateConfig(data=data, out=tmp_path, model=str(model), bootstrap=50, track=False))
    assert scores["images"] == 6 and np.sum(scores["confusion"]) == 6 * 24 * 28
    assert scores["miou"] > 0.5 and scores["miou_low"] <= scores["miou"] <= scores["miou_high"]
    assert scores["intervals"]["over"] == "groups" and scores["classes"]["road"]["iou_low"] is not None
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and {"group", "miou", "accuracy", "dice_car", "iou_sky"} <= set(rows[0])
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert (tmp_path / "labels/train/drive1_3.png").exists()


@pytest.mark.slow
def test_folds_of_a_target_of_classes(data: Path, tmp_path: Path) -> None:
    """Every frame is scored once, by the model that never saw its drive; the ensemble's logits are the folds' mean.

    The colours come from the label images, or none; --resume trains nothing again.
    """
    target = {key: value for key, value in CONFIG["target"].items() if key != "palette"}
    config = build_config(TrainConfig, CONFIG | {"epochs": 4, "target": target}, "test")
    crossed = cross_validate(config, data, tmp_path, 3, track=False, device="cpu")
    assert crossed.scores["images"] == 9 and crossed.scores["split"] == "out of fold" and crossed.scores["failed"] == 0
    assert np.sum(crossed.scores["confusion"]) == 9 * 24 * 28 and set(crossed.scores["classes"]) == set(NAMES)
    tested = [
        {case.group for case in read_manifest(tmp_path / f"fold-{n}/manifest.csv").split("test")} for n in range(3)
    ]
    assert sorted(group for groups in tested for group in groups) == ["drive0", "drive1", "drive2"]
    again = score_folder(tmp_path, data, masks="classes", ignore=VOID)
    assert again["confusion"] == crossed.scores["confusion"]
    assert any("mIoU" in line for line in crossed.lines())
    models = [load_model(tmp_path / name) for name in ("fold-0/model", "fold-1/model", "fold-2/model", "model")]
    image = torch.rand(1, 3, 24, 32)
    with torch.inference_mode():
        *folds, mean = (model.network(image) for model in models)
    torch.testing.assert_close(mean, torch.stack(folds).mean(0), atol=0.02, rtol=0.01)
    assert models[-1].record.target.names == tuple(NAMES)
    weights = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("fold-*/model/weights.safetensors"))]
    resumed = cross_validate(config, data, tmp_path, 3, resume=True, track=False, device="cpu")
    assert weights == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("fold-*/model/weights.safetensors"))]
    assert resumed.scores["confusion"] == crossed.scores["confusion"]


@pytest.mark.slow
def test_a_binary_scene_has_one_channel(data: Path, tmp_path: Path) -> None:
    """Road against all else by BCE: learned, written as 0 and 1, scored against the merged truth."""
    changes = {"target": ROAD, "loss": {"kind": "bce"}, "network": CONFIG["network"] | {"out_channels": 1}}
    trained = train_model(build_config(TrainConfig, CONFIG | changes, "test"), data, tmp_path / "run", track=False)
    record = load_model(trained.model).record
    assert record.outputs == ("other", "road") and record.network.out_channels == 1
    config = EvaluateConfig(data=data, out=tmp_path / "test", model=str(trained.model), bootstrap=20, track=False)
    scores = evaluate_model(config)
    assert scores["classes"]["road"]["iou"] > 0.6
    truth = sum(int((scene(number)[1] == 1).sum()) for number in range(3, 9))
    assert scores["classes"]["road"]["pixels_true"] == truth


def test_a_palette_of_the_label_images_is_the_models(tmp_path: Path) -> None:
    """A config without one takes the colours of the label PNGs, which come out again; one that has its own keeps it."""
    for number in range(6):
        pixels, labels = scene(number)
        labels[labels == VOID] = 0
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels).save(tmp_path / f"data/images/{number}.png")
        write_class_png(tmp_path / f"data/labels/{number}.png", labels.astype(np.uint32), NAMES, ((1, 2, 3),) * 3)
    tree = CONFIG | {"target": {"kind": "classes", "names": NAMES}, "epochs": 1, "sample_pictures": 0}
    trained = train_model(build_config(TrainConfig, tree, "test"), tmp_path / "data", tmp_path / "run", track=False)
    assert load_model(trained.model).record.target.palette == ((1, 2, 3),) * 3
    own = build_config(TrainConfig, CONFIG, "test")
    assert with_palette(own, load_data(tmp_path / "data", "classes").cases) is own


@pytest.mark.slow
@pytest.mark.parametrize("border", [2, 0])
def test_trimaps_are_learned_of_instance_masks(tmp_path: Path, border: int) -> None:
    """A Data Science Bowl folder trains and evaluates as nucleus, border and background.

    Without a border it is two classes by softmax, with the weight map of 2015 between the objects, and a film.
    """
    for number in range(4):
        rng = np.random.default_rng(number)
        folder = tmp_path / "data" / f"case{number}"
        top, left = rng.integers(4, 12, 2)
        mask = np.zeros((32, 32), np.uint8)
        mask[top : top + 14, left : left + 14] = 255
        pixels = np.clip(mask * 0.6 + rng.normal(40, 5, mask.shape), 0, 255).astype(np.uint8)
        for inner, values in (("images", pixels), ("masks", mask)):
            (folder / inner).mkdir(parents=True)
            Pillow.fromarray(values).save(folder / inner / f"case{number}.png")
    target = {"kind": "classes", "names": ["background", "nucleus", "border"][: 3 if border else 2], "trimap": border}
    tree = CONFIG | {
        "target": target,
        "prepare": {},
        "sampling": {"kind": "crops", "size": 32, "per_epoch": 8},
        "augmentation": {"kind": "none"},
        "epochs": 2,
        "film": True,
    }
    tree["network"] = CONFIG["network"] | {"out_channels": len(target["names"])}
    tree["loss"] = {"kind": "cross_entropy" if border else "border_weighted"}
    trained = train_model(build_config(TrainConfig, tree, "test"), tmp_path / "data", tmp_path / "run", track=False)
    options = {"data": tmp_path / "data", "model": str(trained.model), "split": "all", "track": False}
    scores = evaluate_model(EvaluateConfig(out=tmp_path / "all", **options))
    pixels = [part["pixels_true"] for part in scores["classes"].values()]
    rings = [4 * 10 * 10, 4 * (14 * 14 - 10 * 10)] if border else [4 * 14 * 14]
    assert pixels == [4 * (32 * 32 - 14 * 14), *rings]


def test_scoring_reads_palette_pngs(data: Path, model: Path, tmp_path: Path) -> None:
    """What segment wrote is scored as class maps, void left out."""
    config = SegmentConfig(folder=data.parent / "data", out=tmp_path, model=str(model), track=False)
    segment_folder(config)
    own = evaluate_model(EvaluateConfig(data=data, out=tmp_path / "test", model=str(model), bootstrap=1, track=False))
    scores = score_folder(tmp_path, data, split="test", bootstrap=1, ignore=VOID)
    assert scores["confusion"] == own["confusion"] and scores["miou"] == own["miou"]
