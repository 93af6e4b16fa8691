"""Ingest: every image and every mask is accounted for, once cold and in no time when warm."""

import os
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from pipeline.config import IngestConfig
from pipeline.data import ingest as module
from pipeline.data.cache import labels_path
from pipeline.data.geojson import write_geojson
from pipeline.data.images import open_image
from pipeline.data.ingest import ingest, load_case
from pipeline.data.labels import write_labels
from pipeline.data.layouts import discover
from pipeline.data.masks import merge_masks
from pipeline.data.simulate import simulate_dataset, simulate_image
from pipeline.errors import ConfigError, LayoutError, ManifestError
from pipeline.types import Event, Geometry


def configured(folder, tmp_path, **options):
    return IngestConfig(folder=folder, manifest=tmp_path / "m.csv", cache=tmp_path / "cache", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve small images, the last without a nucleus, and four broken cases."""
    folder = tmp_path_factory.mktemp("made") / "data"
    simulate_dataset(folder, images=12, mosaic=False, broken=True)
    return folder


def paired(folder, count=3, shape=(64, 64)):
    """images/N.png beside labels/N.tif."""
    for n in range(count):
        image, labels = simulate_image(np.random.default_rng(n), "fluorescence", shape, density=0.15)
        path = folder / "images" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imagecodecs.png_encode(image))
        write_labels(folder / "labels" / f"{n}.tif", labels, Geometry.pixels())
    return folder


def test_every_image_and_every_mask_is_accounted_for(made, tmp_path):
    """Each mask file is an object of a kept case, or has a row of its own, or belongs to an image that has one."""
    answer = ingest(configured(made, tmp_path))
    found = discover(made)
    kept = {case.id: case for case in answer.manifest.cases}
    assert {case.id for case in found.cases} - set(kept) == {"broken_truncated", "broken_not_an_image"}
    rows = Counter((f.case, f.code) for f in answer.findings)
    assert rows["broken_truncated", "image_unreadable"] == rows["broken_truncated", "masks_left_out"] == 1
    assert rows["broken_not_an_image", "image_unreadable"] == 1
    assert rows["broken_mask_size", "mask_wrong_size"] == 1
    assert rows["broken_mask_empty", "mask_empty"] == 1
    lost = ("mask_wrong_size", "mask_empty", "mask_unreadable", "mask_hidden")
    for case in kept.values():
        assert case.objects is not None
        assert len(case.masks) == case.objects + sum(f.case == case.id and f.code in lost for f in answer.findings)
    assert answer.manifest.layout == "dsb"
    assert kept["tissue_011"].objects == 0


def test_every_case_has_a_split_and_what_it_is(made, tmp_path):
    """Split, modality, shape and digest are set; with the default fractions all three splits occur."""
    cases = ingest(configured(made, tmp_path)).manifest.cases
    assert {case.split for case in cases} == {"train", "val", "test"}
    assert {case.modality for case in cases} >= {"fluorescence", "stained"}
    assert all(len(case.sha256) == 64 and case.shape == open_image(case.image).shape[1:] for case in cases)


def test_a_second_ingest_reads_nothing(made, tmp_path, monkeypatch):
    """Warm: the same manifest, findings and groups, though no case may be read any more."""
    cold = ingest(configured(made, tmp_path))
    monkeypatch.setattr(module, "audit_case", lambda case: pytest.fail("it was read again"))
    warm = ingest(configured(made, tmp_path))
    assert (cold.warm, warm.warm) == (False, True)
    assert warm.manifest == cold.manifest
    assert warm.manifest.digest == cold.manifest.digest
    assert (warm.findings, warm.merged_groups) == (cold.findings, cold.merged_groups)


@pytest.mark.parametrize("options", [{"seed": 1}, {"fractions": (0.5, 0.25, 0.25)}, {"group": "^(.)"}])
def test_other_settings_are_another_ingest(tmp_path, options):
    """What is kept for one set of settings does not answer for another."""
    folder = paired(tmp_path / "data")
    ingest(configured(folder, tmp_path))
    assert not ingest(configured(folder, tmp_path, **options)).warm


def test_a_changed_mask_is_read_again(tmp_path):
    """Same name, size and time, but another file: the change time tells, and the manifest's digest follows."""
    folder = paired(tmp_path / "data")
    before = ingest(configured(folder, tmp_path))
    path = folder / "labels" / "0.tif"
    stat = path.stat()
    labels = np.zeros((64, 64), np.uint32)
    labels[5:20, 5:20] = 1
    write_labels(path, labels, Geometry.pixels())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = ingest(configured(folder, tmp_path))
    assert not after.warm
    assert after.manifest.cases[0].objects == 1
    assert after.manifest.digest != before.manifest.digest


def test_a_damaged_summary_is_made_again(tmp_path):
    """One flipped bit in what was kept: cold again, with the same result."""
    folder = paired(tmp_path / "data")
    before = ingest(configured(folder, tmp_path))
    (path,) = (tmp_path / "cache" / "ingest").iterdir()
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))
    after = ingest(configured(folder, tmp_path))
    assert not after.warm
    assert after.manifest == before.manifest
    assert ingest(configured(folder, tmp_path)).warm


def test_load_case_gives_image_and_labels(made, tmp_path):
    """From the cache the same labels as merged from the files; an image without nuclei has all-zero ones."""
    for case in ingest(configured(made, tmp_path)).manifest.cases:
        image, labels = load_case(case, tmp_path / "cache")
        assert (image.pixels == open_image(case.image).read().pixels).all()
        assert (labels == merge_masks(case.masks, image.spatial_shape, case.id).labels).all()
        assert labels.max(initial=0) == case.objects


@pytest.mark.parametrize("harm", ["missing", "damaged", "another shape"])
def test_load_case_makes_lost_labels_again(tmp_path, harm):
    """Missing, damaged or not of the image's shape: made again from the files, and kept again."""
    from pipeline.data.cache import read_labels_cache, write_labels_cache

    case = ingest(configured(paired(tmp_path / "data"), tmp_path)).manifest.cases[0]
    path = labels_path(tmp_path / "cache", case.sha256)
    _, before = load_case(case, tmp_path / "cache")
    if harm == "missing":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        write_labels_cache(path, np.zeros((3, 3), np.uint32))
    _, after = load_case(case, tmp_path / "cache")
    assert (after == before).all()
    again = read_labels_cache(path)
    assert again is not None
    assert (again == before).all()


def test_load_case_notices_files_that_changed(tmp_path):
    """The labels are gone, and the mask is not the one that was ingested: no silent replacement."""
    case = ingest(configured(paired(tmp_path / "data"), tmp_path)).manifest.cases[0]
    labels_path(tmp_path / "cache", case.sha256).unlink()
    write_labels(case.masks[0], np.ones((64, 64), np.uint32), Geometry.pixels())
    with pytest.raises(ManifestError, match="changed since they were ingested"):
        load_case(case, tmp_path / "cache")


def test_unlabelled_images_have_zero_labels(tmp_path):
    """Any folder of images can be ingested; there is no split to draw."""
    folder = paired(tmp_path / "data") / "images"
    answer = ingest(configured(folder, tmp_path))
    assert answer.manifest.layout == "unlabelled"
    assert {(case.split, case.mask_kind, case.objects) for case in answer.manifest.cases} == {
        ("unlabelled", "none", None)
    }
    assert not load_case(answer.manifest.cases[0], tmp_path / "cache")[1].any()
    assert not (tmp_path / "cache" / "labels").exists()


def test_identical_images_are_a_warning_and_stay_together(tmp_path):
    """A copy under another name: a row that says so, one group, one split."""
    folder = paired(tmp_path / "data", count=6)
    (folder / "images" / "copy.png").write_bytes((folder / "images" / "0.png").read_bytes())
    (folder / "labels" / "copy.tif").write_bytes((folder / "labels" / "0.tif").read_bytes())
    answer = ingest(configured(folder, tmp_path))
    rows = [f for f in answer.findings if f.code == "duplicate_exact"]
    assert [(f.case, f.file, f.severity) for f in rows] == [("images/0", "images/0.png", "warning")]
    assert "images/copy" in rows[0].what
    (group,) = [g for g in answer.merged_groups if "images/copy" in g["cases"]]
    assert group["evidence"][0]["kind"] == "exact"
    members = [case for case in answer.manifest.cases if case.id in group["cases"]]
    assert len({case.split for case in members}) == len({case.group for case in members}) == 1


def test_groups_come_from_the_path(tmp_path):
    """The first bracket of the expression; one plate is never split apart."""
    folder = tmp_path / "data"
    for plate in ("p1", "p2", "p3"):
        paired(folder / plate, count=2, shape=(64, 60 + int(plate[1])))
    answer = ingest(configured(folder, tmp_path, group="^([^/]+)/", fractions=(0.34, 0.33, 0.33)))
    for plate in ("p1", "p2", "p3"):
        cases = [case for case in answer.manifest.cases if case.relative.startswith(plate)]
        assert {case.group for case in cases} == {plate}
        assert len({case.split for case in cases}) == 1


def test_images_that_differ_by_suffix_get_names_of_their_own(tmp_path):
    """a.bmp and a.png are two cases; the later one keeps its suffix, and a row says so."""
    paired(tmp_path / "data", count=1)
    image = open_image(tmp_path / "data" / "images" / "0.png").read().pixels[0]
    import cv2

    cv2.imwrite(str(tmp_path / "data" / "images" / "0.bmp"), image[:, ::-1].copy())
    answer = ingest(configured(tmp_path / "data" / "images", tmp_path))
    assert [case.id for case in answer.manifest.cases] == ["0", "0.png"]
    assert [f.case for f in answer.findings if f.code == "same_stem"] == ["0.png"]
    assert ingest(configured(tmp_path / "data" / "images", tmp_path)).manifest == answer.manifest


def test_files_that_no_case_uses_have_a_row(tmp_path):
    """A mask without an image, an image outside the layout, an image without a mask."""
    folder = paired(tmp_path / "data")
    (folder / "images" / "1.png").unlink()
    (folder / "labels" / "2.tif").unlink()
    (folder / "overview.png").write_bytes((folder / "images" / "0.png").read_bytes())
    rows = {(f.code, f.file) for f in ingest(configured(folder, tmp_path)).findings}
    assert {
        ("mask_without_image", "labels/1.tif"),
        ("file_unused", "overview.png"),
        ("image_without_masks", "images/2.png"),
    } <= rows


def test_nothing_usable_is_an_error(tmp_path):
    """A folder whose only image cannot be read: the message says which and why."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"no image")
    with pytest.raises(LayoutError, match=r"none of which can be used.*a\.png"):
        ingest(configured(tmp_path / "data", tmp_path))


def test_a_bad_group_is_refused(tmp_path):
    """Before anything is read."""
    with pytest.raises(ConfigError, match="regular expression"):
        ingest(configured(tmp_path, tmp_path, group="("))


def test_progress_counts_images_and_masks(made, tmp_path):
    """One event an image, in order, the last with every mask."""
    events: list[Event] = []
    ingest(configured(made, tmp_path), events.append)
    found = discover(made)
    total = len(found.cases)
    assert [event.done for event in events] == [*range(1, total + 1), total]
    assert events[-2].fields["masks"] == sum(len(case.masks) for case in found.cases)


def test_an_ingest_that_is_stopped_leaves_no_summary(tmp_path):
    """Ctrl-C while reading: nothing passes for a finished ingest afterwards."""
    folder = paired(tmp_path / "data")

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(configured(folder, tmp_path), stop)
    assert not ingest(configured(folder, tmp_path)).warm


def test_an_nnunet_folder_is_ingested(tmp_path):
    """imagesTr/x_0000.nii.gz with labelsTr/x.nii.gz: 3-D, shape (Z, Y, X), labels from the cache."""
    import nibabel

    for kind, name, high in (("imagesTr", "x_0000", 200), ("labelsTr", "x", 3)):
        voxels = np.random.default_rng(0).integers(0, high, (9, 8, 7)).astype(np.uint8)
        (tmp_path / "data" / kind).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / kind / f"{name}.nii.gz")
    answer = ingest(configured(tmp_path / "data", tmp_path))
    (case,) = answer.manifest.cases
    assert answer.manifest.layout == "paired-nifti"
    assert (case.shape, case.objects) == ((7, 8, 9), 2)
    image, labels = load_case(case, tmp_path / "cache")
    assert image.pixels.shape == (1, 7, 8, 9)
    assert (labels == np.asarray(nibabel.load(case.masks[0]).dataobj).T).all()


@pytest.mark.slow
@pytest.mark.data
def test_the_564_real_images_are_accounted_for(tmp_path):
    """Every one of the 24,279 masks is an object; the few odd ones have rows."""
    data = Path(os.environ.get("MASKLINE_DATA", "../shared/data")) / "dsb2018" / "stage1_train"
    if not data.is_dir():
        pytest.skip(f"no real images at {data}; set MASKLINE_DATA")
    answer = ingest(configured(data, tmp_path))
    assert len(answer.manifest.cases) == 564
    assert sum(len(case.masks) for case in answer.manifest.cases) == 24_279
    assert sum(case.objects or 0 for case in answer.manifest.cases) == 24_279
    counted = Counter(f.code for f in answer.findings if not f.code.startswith("duplicate"))
    assert counted == {"mask_holes": 8, "mask_overlap": 6, "mask_pieces": 2, "mask_values": 1}
    assert ingest(configured(data.parent, tmp_path)).manifest.digest == answer.manifest.digest


@pytest.mark.parametrize("folder", ["labels", "geojson"])
def test_corrected_objects_come_back(tmp_path, folder):
    """What maskline writes beside images, as label images or outlines, is ingested as it stands, object by object."""
    drawn = {}
    for n in range(3):
        image, labels = simulate_image(np.random.default_rng(n), "tissue", (64, 70), density=0.2)
        drawn[f"images/plate/{n}"] = labels
        path = tmp_path / "data" / "images" / "plate" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imagecodecs.png_encode(image))
        target = tmp_path / "data" / folder / "plate" / f"{n}"
        if folder == "labels":
            write_labels(target.with_suffix(".tif"), labels, Geometry.pixels())
        else:
            write_geojson(target.with_suffix(".geojson"), labels)
    answer = ingest(configured(tmp_path / "data", tmp_path))
    assert answer.manifest.layout == "paired"
    assert {case.mask_kind for case in answer.manifest.cases} == {"labels" if folder == "labels" else "geojson"}
    assert {case.id for case in answer.manifest.cases} == set(drawn)
    for case in answer.manifest.cases:
        assert (load_case(case, tmp_path / "cache")[1] == drawn[case.id]).all()
        assert case.objects == drawn[case.id].max() > 1
