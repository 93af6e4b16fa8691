"""Every kind of network that can be had for volumes goes the whole way: a step, kept, loaded, volumes segmented."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import nibabel
import numpy as np
import pytest

from pipeline.config import IngestConfig, SegmentConfig, SingleNetwork, TrainConfig, build_config
from pipeline.data.ingest import ingest
from pipeline.data.manifest import write_manifest
from pipeline.model.bundle import load_model
from pipeline.runs.segment_folder import segment_folder
from pipeline.runs.train_model import train_model

SHAPE, AFFINE = (20, 24, 34), np.array([[0, -0.9, 0, 10], [0.8, 0, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1.0]])
SLIM: dict[str, dict[str, Any]] = {
    "nuclei_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "dense_unet": {"layers": (1, 1), "growth": 4, "stem": 4},
    "v_net": {},
    "unet_plus_plus": {"filters": (4, 4, 4, 4, 4, 4), "deep_supervision": True},
    "attention_unet": {"filters": (4, 4, 4)},
    "residual_unet": {"filters": (4, 4, 4)},
    "dynamic_unet": {"filters": (4, 4, 4), "deep_supervision": True},
    "seg_res_net": {"filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    "swin_unetr": {"filters": 12},
}
SIDE = {"swin_unetr": 64}  # at 32 its deepest level is one voxel, of which InstanceNorm has no statistics
EXACT = {"nuclei_unet", "dense_unet", "v_net", "unet_plus_plus", "residual_unet"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of a volume to learn from and one to check with."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("images", "labels"):
        (folder / "data" / name).mkdir(parents=True)
    for number in range(2):
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:15, 6:16, 3 + number : 12] = 1
        voxels = labels * 100 + np.random.default_rng(number).normal(50, 5, SHAPE)
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), AFFINE), folder / f"data/images/{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, AFFINE), folder / f"data/labels/{number}.nii.gz")
    config = IngestConfig(folder=folder / "data", manifest=folder / "m.csv", masks="classes", cache=folder / "cache")
    manifest = ingest(config).manifest
    cases = [replace(c, split=s, group="") for c, s in zip(manifest.cases, ("train", "val"), strict=True)]
    write_manifest(folder / "m.csv", replace(manifest, cases=tuple(cases)))
    return folder / "m.csv"


def test_these_are_all_that_there_are() -> None:
    """A kind that is new has to be added here."""
    kinds = {config.model_fields["kind"].default: config for config in get_args(get_args(SingleNetwork)[0])}
    assert set(SLIM) == {kind for kind, config in kinds.items() if "dimensions" in config.model_fields}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", sorted(SLIM))
def test_it_trains_is_kept_and_segments(kind: str, data: Path, tmp_path: Path) -> None:
    """One step from its config; the record knows whether tiles are exact; labels lie where their volumes lie."""
    side = SIDE.get(kind, 32)
    tree = {
        "network": {"kind": kind, "dimensions": 3, "in_channels": 1, "out_channels": 2, **SLIM[kind]},
        "prepare": {"channels": 1, "normalise": {"kind": "zscore"}},
        "target": {"kind": "classes", "names": ["none", "box"]},
        "sampling": {"kind": "patches", "size": [side] * 3, "per_epoch": 1},
        "augmentation": {"kind": "none"},
        "batch_size": 1,
        "epochs": 1,
    }
    model = train_model(build_config(TrainConfig, tree, "test"), data, tmp_path / "run", track=False).model
    record = load_model(model).record
    assert record.volume is not None and (record.volume.halos is not None) == (kind in EXACT)
    folder = data.parent / "data/images"
    assert segment_folder(SegmentConfig(folder=folder, out=tmp_path / "out", model=str(model), track=False)).failed == 0
    for path in folder.iterdir():
        labels = nibabel.load(tmp_path / "out/labels" / path.name)
        np.testing.assert_array_equal(labels.affine, nibabel.load(path).affine)
        assert labels.shape == SHAPE and set(np.unique(labels.dataobj)) <= {0, 1}
