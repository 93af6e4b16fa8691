"""What a volume will hold in memory is told beforehand."""

import shutil
from math import prod
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from pipeline.config import SegmentConfig
from pipeline.runs import plan_segmentation
from pipeline.runs.plan_large import PROCESS, left_on_disk, stream_cost
from pipeline.runs.plan_volume import AT_HAND, OBJECTS, count_parts, volume_memory
from pipeline.types import Geometry

RECORD = {
    "network": {"filters": [8, 16]},
    "prepare": {"channels": 1},
    "target": {"kind": "classes", "names": ["none", "a", "b"]},
    "outputs": ["none", "a", "b"],
    "volume": {"strides": [4, 4, 4], "halos": None, "window": [64, 64, 64]},
}


def source(shape=(1, 1000, 512, 512), itemsize=1, name="a.nii", spacing=None):
    geometry = Geometry(spacing, "mm") if spacing else Geometry.pixels(3)
    return SimpleNamespace(shape=shape, dtype=np.dtype(f"u{itemsize}"), path=Path(name), geometry=geometry)


def test_classes_hold_the_volume_its_labels_and_a_slab():
    """Twice the depth is two bytes a voxel more (three in a format that is written whole more still), nothing else."""
    one, two = (volume_memory(source((1, depth, 512, 512)), RECORD) for depth in (1000, 2000))
    assert two - one == 2 * 1000 * 512 * 512
    assert one - PROCESS - 2 * 1000 * 512 * 512 == 4 * 3 * (64 * 512 * 512 * 4 // 3) + AT_HAND
    tiff = volume_memory(source(name="a.tif"), RECORD)
    assert tiff - one == 2 * 1000 * 512 * 512


def test_objects_hold_their_probabilities_too():
    """As many bytes a voxel as telling objects apart takes."""
    record = RECORD | {"target": {"kind": "separated"}}
    assert volume_memory(source(), record) == PROCESS + (1 + 4 * 3 + OBJECTS) * 1000 * 512 * 512


def test_exact_boxes_hold_a_layer_of_cores():
    """A layer is as deep as the core that fits the box, and no sums of windows are held."""
    record = RECORD | {"volume": {"strides": [4, 4, 4], "halos": [8, 8, 8], "window": [64, 64, 64]}}
    exact, blended = volume_memory(source(), record), volume_memory(source(), RECORD)
    assert exact > PROCESS + 2 * 1000 * 512 * 512 + AT_HAND and exact != blended


def test_the_grid_is_the_models():
    """A model of coarse voxels has small slabs; a file without a voxel size is taken as it is."""
    coarse = RECORD | {"prepare": {"channels": 1, "size": {"kind": "spacing", "spacing": [4, 4, 4]}}}
    shape = (1, 1000, 512, 512)
    assert volume_memory(source(spacing=(1.0, 1.0, 1.0)), coarse) < volume_memory(source(shape), RECORD)
    assert volume_memory(source(), coarse) == volume_memory(source(), RECORD)
    small = volume_memory(source((1, 16, 16, 16)), RECORD)
    assert small == pytest.approx(PROCESS + AT_HAND, rel=0.01)


def test_a_dry_run_says_it(tmp_path, monkeypatch):
    """The plan's memory is that of both volumes at once, the process counted once."""
    from squares import make_model

    (tmp_path / "in").mkdir()
    for side in (20, 90):
        nibabel.save(nibabel.Nifti1Image(np.zeros((side,) * 3, np.uint8), np.eye(4)), tmp_path / f"in/{side}.nii.gz")
    config = SegmentConfig(folder=tmp_path / "in", out=tmp_path / "out", model=str(make_model(tmp_path / "model")))
    monkeypatch.setattr(plan_segmentation, "read_record", lambda _: RECORD)
    plan = plan_segmentation.plan_segmentation(config)
    memory = {p.case.relative: p.memory for p in plan.todo}
    assert memory["90.nii.gz"] > memory["20.nii.gz"] and plan.memory == sum(memory.values()) - PROCESS
    assert memory["90.nii.gz"] - PROCESS > 2 * prod((90,) * 3)
    assert "1 box, " in str(plan.todo[0]) and "GB of memory, 0.0 GB of disk" in str(plan.todo[0])
    assert plan.disk == left_on_disk(20**3 + 90**3, False) and not plan.refused
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    plan = plan_segmentation.plan_segmentation(config)
    assert plan.refused == 1 and "free on the disk" in next(p.refused for p in plan.todo if p.refused)


@pytest.mark.parametrize("shape", [(200, 150, 170), (16, 160, 1700), (162, 163, 191)])
@pytest.mark.parametrize("halos", [None, (8, 12, 12)])
def test_boxes_and_windows_are_counted_as_they_will_be_predicted(shape, halos):
    """Those that cut the volume: boxes of the core that is chosen, windows that overlap by half as MONAI's do."""
    from monai.data.utils import dense_patch_slices

    from pipeline.inference.boxes import choose_core, plan_boxes

    record = RECORD | {"volume": {"strides": [4, 4, 4], "halos": halos, "window": [64, 48, 64]}}
    grid = tuple(side + -side % 4 for side in shape)
    if halos:
        parts = list(plan_boxes(grid, choose_core(grid, halos, (4, 4, 4)), halos, (4, 4, 4)))
        assert count_parts(source((1, *shape)), record) == (len(parts), "box")
        return
    padded = tuple(map(max, grid, (64, 48, 64)))
    windows = dense_patch_slices(padded, (64, 48, 64), (32, 24, 32))
    assert count_parts(source((1, *shape)), record) == (len(windows), "window")
    assert count_parts(source((1, 64, 64, 64)), record) == (1, "box")


def test_a_grey_image_is_held_in_one_plane():
    """Streamed through a model of three channels, it takes what a model of one would."""
    record = {"outputs": ["foreground"] * 3, "halo": 112, "prepare": {"channels": 3}}
    grey, colour = (stream_cost((channels, 32768, 32768), 1, record).memory for channels in (1, 3))
    assert grey == stream_cost((1, 32768, 32768), 1, record | {"prepare": {"channels": 1}}).memory < colour
