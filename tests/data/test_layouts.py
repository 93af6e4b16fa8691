"""What a folder holds: every layout is recognised, none is guessed, and masks are never taken for images."""

import pytest

from pipeline.data.layouts import compile_group, detect_layout, discover, discover_cases, discover_images, group_of
from pipeline.errors import ConfigError, LayoutError


def make(root, *names):
    """Empty files: layouts go by names alone."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def summary(cases, root):
    return {c.id: (c.relative, [m.relative_to(root).as_posix() for m in c.masks], c.mask_kind) for c in cases}


DSB = ("b/images/b.png", "b/masks/2.png", "b/masks/1.png", "a/images/a.png", "a/masks/1.png")


def test_data_science_bowl(tmp_path):
    """A folder an image, a file an object; cases and masks are sorted."""
    layout, cases = discover_cases(make(tmp_path, *DSB))
    assert layout == detect_layout(tmp_path) == "dsb"
    assert [case.id for case in cases] == ["a", "b"]
    assert summary(cases, tmp_path)["b"] == ("b/images/b.png", ["b/masks/1.png", "b/masks/2.png"], "instances")
    assert all(case.image.is_file() and case.image.is_absolute() for case in cases)


def test_the_folder_above_works_too(tmp_path):
    """One folder higher, cases keep their names."""
    make(tmp_path / "stage1_train", *DSB)
    found = discover(tmp_path)
    assert found.layout == "dsb"
    assert [(case.id, case.relative) for case in found.cases] == [("a", "a/images/a.png"), ("b", "b/images/b.png")]
    assert found.root == tmp_path / "stage1_train"


def test_two_folders_of_one_kind_keep_their_names_apart(tmp_path):
    """The same id in two stages is two cases."""
    make(tmp_path, "train/a/images/a.png", "train/a/masks/1.png", "test/a/images/a.png", "test/a/masks/1.png")
    assert [case.id for case in discover(tmp_path).cases] == ["test/a", "train/a"]


def test_data_science_bowl_without_masks(tmp_path):
    """The test stage has images only: same layout, no labels."""
    layout, cases = discover_cases(make(tmp_path, "a/images/a.png", "b/images/b.png"))
    assert (layout, [(case.id, case.masks, case.mask_kind) for case in cases]) == (
        "dsb",
        [("a", (), "none"), ("b", (), "none")],
    )


def test_folders_of_splits_have_their_masks_beside_them(tmp_path):
    """CamVid's train/ and trainannot/, Carvana's val/ and val_masks/: cases keep their folder; masks are no images."""
    names = ("train/a.png", "trainannot/a.png", "val/a.png", "val_masks/a_mask.png", "test/b.png", "trainannot/z.png")
    found = discover(make(tmp_path, *names))
    assert found.layout == "paired"
    assert summary(found.cases, tmp_path) == {
        "train/a": ("train/a.png", ["trainannot/a.png"], "labels"),
        "val/a": ("val/a.png", ["val_masks/a_mask.png"], "labels"),
    }
    assert [path.relative_to(tmp_path).as_posix() for path in found.orphans] == ["test/b.png", "trainannot/z.png"]
    images = [case.relative for case in discover_images(tmp_path)]
    assert images == ["train/a.png", "val/a.png"]
    sequence = compile_group("([^/_]+)_[^/]*$")
    assert group_of("train/0016E5_00510.png", sequence) == "0016E5"


@pytest.mark.parametrize(
    ("images", "masks"), [("images", "masks"), ("images", "labels"), ("Img", "GT"), ("raw", "annotations")]
)
@pytest.mark.parametrize("mask", ["a.tif", "a_mask.png", "a_labels.tif", "a.png.tif"])
def test_paired_folders(tmp_path, images, masks, mask):
    """Same stems, with the usual endings, in the usual folders, whatever the case."""
    make(tmp_path, f"{images}/a.png", f"{masks}/{mask}", f"{images}/lone.png", f"{masks}/orphan.tif")
    found = discover(tmp_path)
    assert found.layout == "paired"
    assert summary(found.cases, tmp_path) == {
        f"{images}/a": (f"{images}/a.png", [f"{masks}/{mask}"], "labels"),
        f"{images}/lone": (f"{images}/lone.png", [], "none"),
    }
    assert found.orphans == (tmp_path / masks / "orphan.tif",)


def test_paired_sub_folders(tmp_path):
    """Below images and masks the same folders match, and equal stems in others do not."""
    make(tmp_path, "images/p1/a.png", "images/p2/a.png", "masks/p1/a.png")
    assert [len(case.masks) for case in discover(tmp_path).cases] == [1, 0]


def test_geojson(tmp_path):
    """A GeoJSON beside its image, or in the folder of labels, is its mask; it wins over a label image."""
    make(tmp_path / "one", "a.png", "a.geojson", "b.png")
    make(tmp_path / "two", "images/a.png", "labels/a.geojson", "labels/a.tif")
    assert [case.mask_kind for case in discover(tmp_path / "one").cases] == ["geojson", "none"]
    assert summary(discover(tmp_path / "two").cases, tmp_path / "two") == {
        "images/a": ("images/a.png", ["labels/a.geojson"], "geojson")
    }


def test_paired_nifti(tmp_path):
    """imagesTr beside labelsTr, with the channel number that nnU-Net appends."""
    make(tmp_path, "imagesTr/brain_001_0000.nii.gz", "labelsTr/brain_001.nii.gz")
    layout, cases = discover_cases(tmp_path)
    assert layout == "paired-nifti"
    assert [mask.name for mask in cases[0].masks] == ["brain_001.nii.gz"]
    make(tmp_path, "imagesTr/brain_001_0001.nii.gz")
    with pytest.raises(LayoutError, match="second channel"):
        discover(tmp_path)


def test_unlabelled_at_any_depth(tmp_path):
    """Images in folders of any depth; hidden files, notes and what maskline wrote are passed over."""
    make(
        tmp_path,
        "a.png",
        "p/q/b.TIF",
        "p/notes.txt",
        ".hidden.png",
        ".git/c.png",
        "run/d.tif",
        "run/.maskline/x",
        "細胞/核.jpg",
    )
    layout, cases = discover_cases(tmp_path)
    assert layout == "unlabelled"
    assert [case.relative for case in cases] == ["a.png", "p/q/b.TIF", "細胞/核.jpg"]
    assert {case.mask_kind for case in cases} == {"none"}


def test_refused_folders(tmp_path):
    """Missing, a file, empty, or without an image: each says so and names the layouts."""
    make(tmp_path, "file", "notes/a.txt", "empty/.keep")
    for name, came in (("none", "nothing there"), ("file", "a file"), ("notes", "1 files"), ("empty", "0 files")):
        with pytest.raises(LayoutError, match=came):
            discover(tmp_path / name)


@pytest.mark.parametrize("layout", ["dsb", "paired", "paired-nifti"])
def test_a_layout_that_is_named_is_held_to(tmp_path, layout):
    """Told what to find, it finds that or refuses, and says which other layouts there are."""
    make(tmp_path, "a.png")
    with pytest.raises(LayoutError, match=f"the layout {layout}.*unlabelled"):
        discover(tmp_path, layout)


def test_segment_never_runs_over_masks(tmp_path):
    """The images of a labelled folder, and of one whose masks match nothing, come without the masks."""
    make(tmp_path / "dsb", *DSB)
    make(tmp_path / "paired", "images/a.png", "masks/a.png")
    make(tmp_path / "odd", "images/a.png", "masks/other-1.png", "masks/other-2.png")
    assert [case.id for case in discover_images(tmp_path / "dsb")] == ["a", "b"]
    for name in ("paired", "odd"):
        cases = discover_images(tmp_path / name)
        assert [(case.relative, case.masks) for case in cases] == [("images/a.png", ())]


def test_include_exclude_limit_and_group(tmp_path):
    """Globs on the path or the name, the first few, and groups from a pattern's bracket."""
    make(tmp_path, "p1/a1.png", "p1/a2.tif", "p2/a1.png", "p2/b1.png")

    def found(**options):
        return [case.relative for case in discover_images(tmp_path, **options)]

    assert found(include=["*.png"], exclude=["b*"]) == ["p1/a1.png", "p2/a1.png"]
    assert found(include=["p1/*", "b1.png"]) == ["p1/a1.png", "p1/a2.tif", "p2/b1.png"]
    assert found(exclude=["p2/*"], limit=1) == ["p1/a1.png"]
    assert found(limit=0) == [] and len(found(limit=9)) == 4
    assert [case.group for case in discover_images(tmp_path, group="^([^/]+)/")] == ["p1", "p1", "p2", "p2"]


def test_group_patterns():
    """The bracket, else the whole match, else nothing; what is no pattern is the config's fault."""
    assert group_of("p1/a", compile_group("p[0-9]")) == "p1"
    assert group_of("q/a", compile_group("p([0-9])")) == ""
    with pytest.raises(ConfigError, match="regular expression"):
        compile_group("(")


def test_a_zarr_folder_is_one_image(tmp_path):
    """x.zarr is an image of its folder, whatever lies in it; the folder itself may be given; its masks are paired."""
    for name in ("a.ome.zarr", "plate/b.zarr"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / ".zattrs").write_text("{}")
        (tmp_path / name / "0" / "inner.png").touch()
    found = discover(tmp_path, stamp=True)
    assert [(case.id, case.relative) for case in found.cases] == [("a", "a.ome.zarr"), ("plate/b", "plate/b.zarr")]
    assert not found.orphans
    (tmp_path / "a.ome.zarr" / "0" / "inner.png").write_text("changed")
    assert discover(tmp_path, stamp=True).stamp != found.stamp
    alone = discover(tmp_path / "a.ome.zarr", stamp=True)
    assert [(case.id, case.image) for case in alone.cases] == [("a", tmp_path / "a.ome.zarr")]
    (tmp_path / "set" / "images" / "c.zarr").mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "c.tif").touch()
    assert [case.masks[0].name for case in discover(tmp_path / "set").cases] == ["c.tif"]
