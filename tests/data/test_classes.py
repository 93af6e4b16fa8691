"""Label images of classes are read as they stand; numbers that are no class are refused."""

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.config import IngestConfig
from pipeline.data.classes import class_indices, read_class_map
from pipeline.data.ingest import ingest, load_case
from pipeline.data.manifest import load_data, read_manifest, write_manifest
from pipeline.errors import ImageError, MaskError

LABELS = np.zeros((12, 16), np.uint8)
LABELS[2:5, 2:5] = LABELS[8:10, 9:14] = 1  # one class in two pieces


def write_pairs(folder, labels=LABELS, count=3):
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, labels.shape).astype(np.uint8)
        Pillow.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Pillow.fromarray(labels).save(folder / "labels" / f"{number}.png")
    return folder


def test_a_palette_png_holds_its_indices(tmp_path):
    """Colours are for the eye: the class numbers are the indices."""
    picture = Pillow.fromarray(LABELS * 2).convert("L")
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    picture.save(tmp_path / "a.png")
    assert (read_class_map(tmp_path / "a.png", LABELS.shape) == LABELS * 2).all()
    Pillow.fromarray(LABELS).save(tmp_path / "b.png")
    assert (read_class_map(tmp_path / "b.png", LABELS.shape) == LABELS).all()


def test_a_palette_png_that_ends_early_is_refused(tmp_path):
    """Pillow would fill the rest with zeros."""
    picture = Pillow.fromarray(np.random.default_rng(0).integers(0, 3, (64, 64)).astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-200])
    with pytest.raises(ImageError, match="damaged"):
        read_class_map(tmp_path / "a.png", (64, 64))


def test_another_shape_is_refused(tmp_path):
    """A class map belongs to one image."""
    Pillow.fromarray(LABELS).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match="re-export"):
        read_class_map(tmp_path / "a.png", (3, 3))


def test_a_number_that_is_no_class_is_refused():
    """3 and 4 are neither classes nor ignored; 255 is."""
    labels = np.array([[0, 1, 255, 4, 3]], np.uint32)
    with pytest.raises(MaskError, match="class numbers 3, 4"):
        class_indices(labels, ("a", "b"), 255, "x.png")
    assert class_indices(labels[:, :3], ("a", "b"), 255, "x.png").tolist() == [[0, 1, 255]]


def test_the_same_files_are_objects_or_classes_as_the_ingest_is_told(tmp_path):
    """As instances the two pieces are two objects; as classes the numbers stay, through manifest and cache."""
    folder, cache = write_pairs(tmp_path / "data"), tmp_path / "cache"
    config = IngestConfig(folder=folder, manifest=tmp_path / "m.csv", cache=cache)
    objects = ingest(config).manifest.cases[0]
    classes = ingest(config.model_copy(update={"masks": "classes"})).manifest
    case = classes.cases[0]
    assert (objects.mask_kind, case.mask_kind) == ("labels", "classes") and objects.sha256 == case.sha256
    for _ in range(2):  # once made, once from the cache
        assert load_case(objects, cache)[1].max() == 2
        assert (load_case(case, cache)[1] == LABELS).all()
    write_manifest(tmp_path / "m.csv", classes)
    assert read_manifest(tmp_path / "m.csv").cases[0].mask_kind == "classes"
    assert load_data(folder, "classes").cases[0].mask_kind == "classes"
