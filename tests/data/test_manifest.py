from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.data.manifest as manifest_module
from pipeline.data.manifest import COLUMNS, Manifest, data_folder, load_data, read_manifest, write_manifest
from pipeline.errors import InputError, ManifestError
from pipeline.types import Case

HEADER = "# maskline manifest format_version=1 layout=dsb root=./data\n" + ",".join(COLUMNS) + "\n"


def dsb_case(root: Path, name: str, masks: int = 2, **about) -> Case:
    """A case whose files exist (empty) in the Data Science Bowl layout."""
    image = root / name / "images" / f"{name}.png"
    image.parent.mkdir(parents=True)
    image.touch()
    folder = root / name / "masks"
    folder.mkdir()
    files = tuple(folder / f"{k}.png" for k in range(masks))
    for file in files:
        file.touch()
    values = {"split": "train", "modality": "stained", "sha256": "ab", "objects": masks, "shape": (4, 6)} | about
    return Case(name, image, f"{name}/images/{name}.png", files, "instances", **values)


def small(tmp_path: Path) -> Manifest:
    root = tmp_path / "data"
    return Manifest((dsb_case(root, "a", group="p1"), dsb_case(root, "b", split="test")), root, "dsb")


def test_the_file_is_what_the_readme_shows(tmp_path):
    """Byte by byte: a title with format, layout and root, the columns, one row a case, line feeds only."""
    write_manifest(tmp_path / "m.csv", small(tmp_path))
    rows = [
        "a,a/images/a.png,a/masks,instances,train,p1,stained,4,6,2,ab",
        "b,b/images/b.png,b/masks,instances,test,,stained,4,6,2,ab",
    ]
    assert (tmp_path / "m.csv").read_bytes() == (HEADER + "\n".join(rows) + "\n").encode()


def test_what_is_written_is_read_back(tmp_path):
    """Cases, root, layout and digest survive; write returns the digest that read gives."""
    written = small(tmp_path)
    digest = write_manifest(tmp_path / "m.csv", written)
    back = read_manifest(tmp_path / "m.csv")
    assert back == replace(written, path=tmp_path / "m.csv")
    assert back.digest == written.digest == digest


names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, names, st.sampled_from(["train", "val", "test", "unlabelled"]), st.none() | st.integers(0, 10**6))
def test_names_in_any_script_round_trip(tmp_path, name, group, split, objects):
    """Commas, quotes, blanks, any script: in names, groups and paths, with and without an object count."""
    case = Case(name, tmp_path / name, name, split=split, group=group, objects=objects, shape=(1, 2))
    write_manifest(tmp_path / "m.csv", Manifest((case,), tmp_path, "unlabelled"))
    assert read_manifest(tmp_path / "m.csv", check_files=False).cases == (case,)


@pytest.mark.parametrize("kind", ["labels", "geojson"])
def test_a_mask_that_is_one_file_is_named_itself(tmp_path, kind):
    """Label images and GeoJSON are named as files, also beside the root; instances name their folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image, mask = tmp_path / "images" / "a.png", tmp_path / "labels" / "a.tif"
    image.touch(), mask.touch()
    case = Case("a", image, "a.png", (mask,), kind, "train")
    write_manifest(tmp_path / "m.csv", Manifest((case,), tmp_path / "images", "paired"))
    assert ",../labels/a.tif," in (tmp_path / "m.csv").read_text()
    (back,) = read_manifest(tmp_path / "m.csv").cases
    assert back.masks[0].samefile(mask) and back.objects is None and back.shape == ()


def test_a_volume_keeps_the_size_of_a_slice(tmp_path):
    """Height and width are those of one slice, and the digest does not change by reading."""
    case = Case("v", tmp_path / "v.nii.gz", "v.nii.gz", shape=(9, 4, 6))
    digest = write_manifest(tmp_path / "m.csv", Manifest((case,), tmp_path, "unlabelled"))
    back = read_manifest(tmp_path / "m.csv", check_files=False)
    assert back.cases[0].shape == (4, 6) and back.digest == digest


def test_the_digest_follows_the_rows_not_the_place(tmp_path):
    """Data that move keep their digest; a split that changes does not."""
    one = small(tmp_path)
    moved = Manifest(small(tmp_path / "elsewhere").cases, tmp_path / "elsewhere" / "data", "dsb")
    other = replace(one, cases=(replace(one.cases[0], split="val"), one.cases[1]))
    assert one.digest == moved.digest != other.digest


def test_roots_are_written_so_that_they_travel(tmp_path, monkeypatch):
    """Below $MASKLINE_DATA with the variable, in the manifest's folder relative, elsewhere absolute."""
    monkeypatch.setenv("MASKLINE_DATA", str(tmp_path / "data"))
    title = {}
    for where in ("data/set", "out/set", "far"):
        (tmp_path / where).mkdir(parents=True)
        write_manifest(tmp_path / "out" / "m.csv", Manifest((), tmp_path / where, "dsb"))
        title[where] = (tmp_path / "out" / "m.csv").read_text().splitlines()[0].partition("root=")[2]
        assert read_manifest(tmp_path / "out" / "m.csv").root == tmp_path / where
    assert title == {"data/set": "$MASKLINE_DATA/set", "out/set": "./set", "far": (tmp_path / "far").as_posix()}


def test_the_variable_is_looked_up_when_reading(tmp_path, monkeypatch):
    """The same manifest finds its data wherever the variable says; unset, it is ../shared/data."""
    (tmp_path / "m.csv").write_text(HEADER.replace("./data", "$MASKLINE_DATA/x"))
    monkeypatch.setenv("MASKLINE_DATA", str(tmp_path / "there"))
    assert read_manifest(tmp_path / "m.csv").root == tmp_path / "there" / "x"
    monkeypatch.delenv("MASKLINE_DATA")
    monkeypatch.chdir(tmp_path)
    assert data_folder() == tmp_path / "../shared/data"
    assert read_manifest(tmp_path / "m.csv").root == tmp_path.parent / "shared/data/x"


def test_a_spreadsheet_may_have_saved_it(tmp_path):
    """A byte order mark, CRLF, commas after the title and empty last lines are no reason to refuse."""
    digest = write_manifest(tmp_path / "m.csv", small(tmp_path))
    title, *rows = (tmp_path / "m.csv").read_text().splitlines()
    text = "\r\n".join([title + "," * 10, *rows, "," * 10]) + "\r\n"
    (tmp_path / "m.csv").write_bytes(text.encode("utf-8-sig"))
    assert read_manifest(tmp_path / "m.csv").digest == digest


def test_splits(tmp_path):
    """A split has its own cases; `all` leaves out only the unlabelled; other names are refused."""
    cases = tuple(Case(s, Path(s), s, split=s) for s in ("train", "val", "test", "unlabelled"))
    manifest = Manifest(cases, tmp_path, "dsb")
    assert [c.id for c in manifest.split("val")] == ["val"]
    assert [c.id for c in manifest.split("all")] == ["train", "val", "test"]
    with pytest.raises(ManifestError, match="no such split"):
        manifest.split("dev")


ROW = "a,a.png,,none,unlabelled,,unknown,4,6,,ab\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("case,image\n", "line 1"),
        (HEADER.replace("format_version=1", "format_version=2"), "format_version 2"),
        (HEADER.replace("sha256", "md5"), "line 2"),
        (HEADER.split("\n")[0] + "\n", "line 2"),
        (HEADER + "a,a.png\n", "row 1: got 2 values"),
        (HEADER + ROW.replace("\n", ",more\n"), "12 values"),
        (HEADER + ROW.replace("unlabelled", "dev"), "row 1, split"),
        (HEADER + ROW.replace("none", "mask"), "row 1, mask_kind"),
        (HEADER + ROW.replace("unknown", "xray"), "row 1, modality"),
        (HEADER + ROW.replace(",4,", ",-4,"), "row 1, height"),
        (HEADER + ROW.replace(",6,", ",6.5,"), "row 1, width"),
        (HEADER + ROW.replace(",ab", "²,ab"), "row 1, objects"),
        (HEADER + ROW[1:], "an empty case or image"),
        (HEADER + ROW + ROW, "case 'a' twice"),
        (HEADER + ROW, "no file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, says):
    """Each damage is refused, and the message names the place."""
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=says):
        read_manifest(tmp_path / "m.csv")


def test_unreadable_files_are_refused(tmp_path):
    """No file, and one that is not text."""
    with pytest.raises(ManifestError, match="check the path"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("gone", ["a/images/a.png", "a/masks"])
def test_missing_files_are_noticed_unless_told_not_to(tmp_path, gone):
    """An image or a folder of masks that is gone is refused; unchecked reading keeps row and digest."""
    digest = write_manifest(tmp_path / "m.csv", small(tmp_path))
    (tmp_path / "data" / gone).rename(tmp_path / "gone")
    with pytest.raises(ManifestError, match=r"case a: got no file .* ingest the folder again"):
        read_manifest(tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv", check_files=False).digest == digest


def test_a_case_without_objects_is_first_class(tmp_path):
    """No masks and zero objects: read, kept and in its split."""
    manifest = Manifest((dsb_case(tmp_path / "data", "a", masks=0),), tmp_path / "data", "dsb")
    digest = write_manifest(tmp_path / "m.csv", manifest)
    back = read_manifest(tmp_path / "m.csv")
    assert back.cases[0].objects == 0 and back.cases[0].masks == () and back.digest == digest


def test_what_cannot_be_written_is_refused(tmp_path):
    """Twins, masks in two places, several label files, a root with a line break."""
    case = dsb_case(tmp_path / "data", "a")
    twins = Manifest((case, case), tmp_path, "dsb")
    scattered = Manifest((replace(case, masks=(tmp_path / "x" / "1.png", tmp_path / "y" / "2.png")),), tmp_path, "dsb")
    many = Manifest((replace(case, mask_kind="labels"),), tmp_path, "paired")
    broken = Manifest((), tmp_path / "a\nb", "dsb")
    for manifest, says in (
        (twins, "twice"),
        (scattered, "one folder"),
        (many, "one mask file"),
        (broken, "line break"),
    ):
        with pytest.raises(ManifestError, match=says):
            write_manifest(tmp_path / "m.csv", manifest)
    assert not (tmp_path / "m.csv").exists()


def test_load_data_takes_a_manifest_or_a_folder(tmp_path, monkeypatch):
    """A CSV is read, a folder is ingested, nothing there is said."""
    manifest = small(tmp_path)
    write_manifest(tmp_path / "m.csv", manifest)
    assert load_data(tmp_path / "m.csv").digest == manifest.digest
    with pytest.raises(InputError, match="nothing there"):
        load_data(tmp_path / "none")
    import pipeline.data.ingest as ingest_module

    class Ingested:
        def __init__(self, config):
            self.manifest = replace(manifest, path=config.folder)

    monkeypatch.setattr(ingest_module, "ingest", Ingested, raising=False)
    assert load_data(tmp_path / "data").path == tmp_path / "data"


def test_the_manifest_of_the_bowl_accounts_for_every_mask():
    """564 images and 24,279 masks, no group in two splits, every modality in every split."""
    path = Path(manifest_module.__file__).parents[2] / "data_manifests" / "dsb2018.csv"
    if not path.exists():
        pytest.skip(f"no {path.name}: the tests run without the repository")
    manifest = read_manifest(path, check_files=False)
    assert len(manifest.cases) == 564 and sum(case.objects or 0 for case in manifest.cases) == 24279
    assert len({(case.group, case.split) for case in manifest.cases if case.group}) == len(
        {case.group for case in manifest.cases if case.group}
    )
    for split in ("train", "val", "test"):
        assert {case.modality for case in manifest.split(split)} == {"fluorescence", "stained", "grey_bright"}


@pytest.mark.data
def test_the_manifest_of_the_bowl_fits_its_files():
    """Every image and every mask folder is there, and each folder holds as many masks as the row says."""
    path = Path(manifest_module.__file__).parents[2] / "data_manifests" / "dsb2018.csv"
    if not (path.exists() and (data_folder() / "dsb2018" / "stage1_train").is_dir()):
        pytest.skip("no real images: set MASKLINE_DATA")
    assert all(len(case.masks) == case.objects for case in read_manifest(path).cases)
