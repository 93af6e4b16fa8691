"""Label names: two inputs never share one, and a name that was given stays."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.images import split_suffix
from pipeline.results.names import fold_name, label_stems, label_suffix
from pipeline.types import Case


def case(path: str) -> Case:
    return Case(split_suffix(path)[0], Path("/images") / path, path)


def stems(*paths: str, known: dict[str, str] | None = None, ignores_case: bool = False) -> dict[str, str]:
    return label_stems([case(path) for path in paths], known or {}, ignores_case)


def test_plain_names_stay():
    """plate/a1.png -> plate/a1."""
    assert stems("plate/a1.png", "b.tif") == {"plate/a1.png": "plate/a1", "b.tif": "b"}


def test_newcomer_keeps_its_suffix():
    """The one on record keeps its name; of two new ones the first by path has it."""
    assert stems("a1.png", "a1.jpg", known={"a1.png": "a1"}) == {"a1.png": "a1", "a1.jpg": "a1.jpg"}
    assert stems("a1.png", "a1.jpg") == {"a1.jpg": "a1", "a1.png": "a1.png"}


def test_name_of_an_input_that_is_gone_is_not_given_again():
    """Its labels may still lie there."""
    assert stems("a1.jpg", known={"a1.png": "a1"}) == {"a1.jpg": "a1.jpg"}


def test_volume_and_picture_of_the_same_stem_do_not_clash():
    """a.nii.gz and a.tif are two files."""
    assert stems("a.nii.gz", "a.png") == {"a.nii.gz": "a", "a.png": "a"}
    assert stems("a.nii.gz", "a.nii") == {"a.nii": "a", "a.nii.gz": "a.nii.gz"}


def test_a_series_gives_way_to_the_nifti_of_its_name():
    """Both have NIfTI labels; where the series had a TIFF before, it is the one that takes another name."""
    assert stems("scan", "scan.nii.gz") == {"scan": "scan", "scan.nii.gz": "scan.nii.gz"}
    known = {"scan": "scan", "scan.nii.gz": "scan"}
    assert stems("scan", "scan.nii.gz", known=known) == {"scan.nii.gz": "scan", "scan": "scan.2"}
    assert stems("scan", known={"scan": "scan"}) == {"scan": "scan"}


def test_awkward_names_get_a_number():
    """Even where the name with its suffix is an image's own name."""
    assert stems("a.jpg", "a.png", "a.png.tif") == {"a.jpg": "a", "a.png": "a.png", "a.png.tif": "a.png.tif"}
    given = stems("x.png", known={"x.tif": "x", "x.png.bmp": "x.png"})
    assert given == {"x.png": "x.png.2"}


def test_case_counts_only_where_the_file_system_says_so():
    """A1 and a1 are two files on Linux and one on macOS."""
    assert stems("A1.png", "a1.png") == {"A1.png": "A1", "a1.png": "a1"}
    assert stems("A1.png", "a1.png", ignores_case=True) == {"A1.png": "A1", "a1.png": "a1.png"}
    assert fold_name("E\u0301", True) == fold_name("é", True)


suffixes = st.sampled_from([".png", ".jpg", ".tif", ".nii", ".nii.gz"])


@given(st.lists(st.tuples(st.sampled_from(["a", "b/a", "A", "a.png", "a.jpg.2"]), suffixes), unique=True), st.data())
def test_never_two_into_one_whatever_came_first(names, data):
    """Any set of names, met in any number of steps, gives as many label files as inputs; early names never change."""
    files = [stem + suffix for stem, suffix in names]
    first = data.draw(st.lists(st.sampled_from(files), unique=True)) if files else []
    fold = data.draw(st.booleans())
    early = stems(*first, ignores_case=fold)
    late = stems(*files, known=early, ignores_case=fold)
    assert set(late) == set(files)
    assert {path: late[path] for path in first} == early
    assert len({fold_name(stem + label_suffix(path), fold) for path, stem in late.items()}) == len(set(files))
