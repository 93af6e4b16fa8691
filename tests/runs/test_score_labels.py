"""Label files of any origin against manifests, labelled folders and folders of label images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.data.geojson import write_geojson
from pipeline.data.labels import read_labels, write_labels
from pipeline.data.manifest import Manifest, write_manifest
from pipeline.errors import InputError
from pipeline.runs.score_labels import score_folder
from pipeline.scoring.summary import NAMES
from pipeline.types import Case, Geometry

SHAPE = (32, 40)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """The cache of merged masks lies in the test's own folder."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))


def squares(count: int, moved: int = 0) -> np.ndarray:
    """`count` squares of 6 px in a row, `moved` px to the right."""
    labels = np.zeros(SHAPE, np.uint32)
    for number in range(count):
        labels[4:10, 2 + 9 * number + moved : 8 + 9 * number + moved] = number + 1
    return labels


def save_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def save_labels(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, labels, Geometry.pixels())
    return path


@pytest.fixture
def truth(tmp_path) -> Path:
    """Data Science Bowl layout: a, b and c hold 1, 2 and 3 squares, `none` holds nothing."""
    folder = tmp_path / "truth"
    for name, count in (("a", 1), ("b", 2), ("c", 3), ("none", 0)):
        labels = squares(count)
        save_png(folder / name / "images" / f"{name}.png", np.where(labels > 0, 200, 10).astype(np.uint8))
        (folder / name / "masks").mkdir()
        for number in range(1, count + 1):
            save_png(folder / name / "masks" / f"{number}.png", np.where(labels == number, 255, 0).astype(np.uint8))
    return folder


@pytest.fixture
def predicted(tmp_path) -> Path:
    """Right for a, b and none, one too few for c."""
    for name, count in (("a", 1), ("b", 2), ("c", 2), ("none", 0)):
        save_labels(tmp_path / "out" / "labels" / f"{name}.tif", squares(count))
    return tmp_path / "out"


def test_a_results_folder_is_scored_against_a_labelled_folder(truth, predicted):
    """5 of 6 objects found; the image without objects is both empty and scores 1."""
    scores = score_folder(predicted, truth)
    assert (scores["images"], scores["objects_true"], scores["objects_predicted"]) == (4, 6, 5)
    assert scores["ap50"] == pytest.approx(5 / 6, abs=1e-6)
    assert scores["map"] == pytest.approx((3 + 2 / 3) / 4, abs=1e-6)
    assert (scores["both_empty"], scores["missing"], scores["errors"], scores["unexpected"]) == (1, [], [], 0)
    assert scores["map_low"] <= scores["map"] <= scores["map_high"]


def test_the_labels_folder_itself_may_be_named(truth, predicted):
    """`--predicted out` and `--predicted out/labels` are the same."""
    first, second = score_folder(predicted, truth), score_folder(predicted / "labels", truth)
    assert [first[name] for name in NAMES] == [second[name] for name in NAMES]


def test_a_missing_prediction_counts_as_empty_and_is_reported(truth, predicted):
    """Leaving out the hard images does not help."""
    (predicted / "labels/c.tif").unlink()
    scores = score_folder(predicted, truth)
    assert (scores["images"], scores["missing"], scores["missing_predictions"]) == (4, ["c"], 1)
    assert scores["ap50"] == pytest.approx(3 / 6)


def test_what_does_not_fit_is_an_error_row(truth, predicted, tmp_path):
    """Another size, colour, two files for one case, a broken file: named with what to do, out of the numbers."""
    save_labels(predicted / "labels/a.tif", squares(1)[:-1])
    save_png(predicted / "labels/c.png", np.zeros(SHAPE, np.uint8))
    (predicted / "labels/none.tif").write_bytes(b"II*\0 no more")
    scores = score_folder(predicted, truth, out=tmp_path / "scored")
    assert (scores["images"], scores["failed"], scores["ap50"]) == (1, 3, 1)
    said = {one["case"]: one["error"] for one in scores["errors"]}
    assert set(said) == {"a", "c", "none"}
    assert "(31, 40)" in said["a"]
    assert "c.png" in said["c"]
    assert "none" in said["none"]
    assert all(one["hint"] for one in scores["errors"])
    assert (tmp_path / "scored/scores.csv").read_text().count("failed") == 3


def test_a_broken_truth_is_an_error_row(truth, predicted):
    """The image cannot be read, so nothing can be said about its prediction."""
    (truth / "b/images/b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    scores = score_folder(predicted, truth)
    assert [one["case"] for one in scores["errors"]] == ["b"]
    assert scores["images"] == 3


def test_files_of_no_case_are_counted(truth, predicted):
    """They are not scored, and not passed over in silence; hidden folders are nobody's."""
    save_labels(predicted / "labels/stranger.tif", squares(1))
    save_labels(predicted / "labels/.old/a.tif", squares(3))
    assert score_folder(predicted, truth)["unexpected"] == 1


@pytest.mark.parametrize("suffix", [".png", ".geojson", ".nii.gz", ".tiff"])
def test_label_files_of_any_kind(truth, tmp_path, suffix):
    """16-bit PNG, QuPath outlines, NIfTI and TIFF say the same."""
    for name, count in (("a", 1), ("b", 2), ("c", 2), ("none", 0)):
        path = tmp_path / "other" / f"{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        if suffix == ".png":
            save_png(path, squares(count).astype(np.uint16))
        elif suffix == ".geojson":
            write_geojson(path, squares(count))
        else:
            save_labels(path, squares(count))
    assert score_folder(tmp_path / "other", truth)["ap50"] == pytest.approx(5 / 6, abs=1e-6)


def test_a_folder_of_label_images_alone_is_truth(predicted, tmp_path):
    """No pictures are needed; sub-folders are kept apart, results folders taken by their labels/."""
    for folder, counts in (("mine", (1, 2)), ("yours", (1, 1))):
        for plate, count in zip(("p/x", "q/x"), counts, strict=True):
            save_labels(tmp_path / folder / f"{plate}.tif", squares(count))
    scores = score_folder(tmp_path / "yours", tmp_path / "mine")
    assert (scores["images"], scores["ap50"]) == (2, pytest.approx(2 / 3, abs=1e-6))
    assert list(scores["by_modality"]) == ["unknown"]
    assert score_folder(predicted, predicted)["map"] == 1


def test_a_manifest_gives_splits_groups_and_modalities(truth, predicted, tmp_path):
    """Only the split that was asked for; the manifest's words for group and modality; unlabelled cases passed over."""
    about = {"a": ("train", "g1"), "b": ("test", "g1"), "c": ("test", "g2"), "none": ("unlabelled", "")}
    cases = [
        Case(
            name,
            truth / name / "images" / f"{name}.png",
            f"{name}/images/{name}.png",
            tuple(sorted((truth / name / "masks").iterdir())),
            "none" if split == "unlabelled" else "instances",
            split,
            group,
            "stained",
        )
        for name, (split, group) in about.items()
    ]
    path = tmp_path / "m.csv"
    write_manifest(path, Manifest(tuple(cases), truth, "dsb"))
    scores = score_folder(predicted, path, split="test")
    assert (scores["images"], scores["ap50"], scores["unexpected"]) == (2, 0.8, 2)
    assert list(scores["by_group"]) == ["g1", "g2"]
    assert list(scores["by_modality"]) == ["stained"]
    assert score_folder(predicted, path)["images"] == 3
    with pytest.raises(InputError, match="no labelled image"):
        score_folder(predicted, path, split="val")


def test_a_case_is_found_by_its_whole_name_first(tmp_path):
    """Two pictures that differ by suffix: `x.png.tif` is the png's, `x.tif` is not."""
    save_labels(tmp_path / "truth/labels/x.tif", squares(2))
    save_png(tmp_path / "truth/images/x.png", np.zeros(SHAPE, np.uint8))
    save_labels(tmp_path / "out/x.tif", squares(0))
    save_labels(tmp_path / "out/x.png.tif", squares(2))
    scores = score_folder(tmp_path / "out", tmp_path / "truth")
    assert (scores["ap50"], scores["unexpected"]) == (1, 1)


def test_folders_may_differ_where_names_do_not(tmp_path):
    """Labels of `data/images` against `data`; a name that two cases end in is nobody's."""
    for name, count in (("p/images/x", 1), ("p/images/y", 2), ("q/images/y", 3)):
        save_png(tmp_path / f"truth/{name}.png", np.zeros(SHAPE, np.uint8))
        save_labels(tmp_path / f"truth/{name.replace('images', 'labels')}.tif", squares(count))
    save_labels(tmp_path / "out/x.tif", squares(1))
    save_labels(tmp_path / "out/y.tif", squares(2))
    scores = score_folder(tmp_path / "out", tmp_path / "truth")
    assert (scores["missing"], scores["unexpected"]) == (["p/images/y", "q/images/y"], 1)
    assert scores["objects_predicted"] == 1


def test_progress_is_told(truth, predicted):
    """One event a case."""
    events = []
    score_folder(predicted, truth, watch=events.append)
    assert [(event.done, event.total) for event in events] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_files_written_are_the_numbers_returned(truth, predicted, tmp_path):
    """`out` keeps both tables, and the counts that others are compared by."""
    score_folder(predicted, truth, out=tmp_path / "scored", bootstrap=10)
    assert sorted(path.name for path in (tmp_path / "scored").iterdir()) == ["counts.json", "scores.csv", "scores.json"]


def test_nothing_to_score_is_said_with_what_was_wanted(truth, predicted, tmp_path):
    """No folder, no label file, no file of any case, no truth, a split of a folder: none scores 0 in silence."""
    (tmp_path / "empty").mkdir()
    save_labels(tmp_path / "strange/zebra.tif", squares(1))
    for came, wanted, said in (
        (tmp_path / "nowhere", truth, "no folder"),
        (tmp_path / "empty", truth, "no label file"),
        (tmp_path / "strange", truth, "label files such as a.tif"),
        (predicted, tmp_path / "nowhere", "nothing there"),
        (predicted, tmp_path / "empty", "no label file"),
    ):
        with pytest.raises(InputError, match=said):
            score_folder(came, wanted)
    with pytest.raises(InputError, match="split test"):
        score_folder(predicted, truth, split="test")


def test_the_predictions_are_left_alone(truth, predicted):
    """Scoring reads."""
    before = read_labels(predicted / "labels/c.tif")[0]
    score_folder(predicted, truth)
    np.testing.assert_array_equal(read_labels(predicted / "labels/c.tif")[0], before)
    assert [path.name for path in predicted.iterdir()] == ["labels"]
