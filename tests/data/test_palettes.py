"""Class maps as palette PNGs: indices, colours and names come back, and only what is a class map is written."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.data.classes import read_class_map
from pipeline.data.palettes import read_palette, write_class_png
from pipeline.errors import OutputError

NAMES, COLOURS = ("none", "Straße", "tree"), ((0, 0, 0), (128, 64, 128), (1, 200, 3))


def test_numbers_colours_and_names_come_back(tmp_path):
    """The index is the class, its colour what anybody sees; the same map gives the same bytes."""
    labels = np.random.default_rng(0).integers(0, 3, (7, 5)).astype(np.uint32)
    sha256 = write_class_png(tmp_path / "a.png", labels, NAMES, COLOURS)
    assert sha256 == write_class_png(tmp_path / "b.png", labels, NAMES, COLOURS)
    assert (read_class_map(tmp_path / "a.png", (7, 5)) == labels).all()
    with Pillow.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P" and (np.asarray(picture) == labels).all()
        assert (np.asarray(picture.convert("RGB")) == np.asarray(COLOURS)[labels]).all()
        assert json.loads(picture.text["maskline"]) == {"format_version": 1, "kind": "classes", "names": list(NAMES)}


def test_a_palette_is_read_where_there_is_one(tmp_path):
    """The colours of as many numbers as there are classes; none of grey, and none where some would be missing."""
    write_class_png(tmp_path / "a.png", np.zeros((4, 4), np.uint32), NAMES, COLOURS)
    Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.png")
    assert read_palette(tmp_path / "a.png", 3) == COLOURS and read_palette(tmp_path / "a.png", 2) == COLOURS[:2]
    assert read_palette(tmp_path / "a.png", 9) == () == read_palette(tmp_path / "grey.png", 3)


@pytest.mark.parametrize(
    ("labels", "colours"),
    [
        (np.full((2, 2), 3, np.uint32), COLOURS),
        (np.zeros((2, 2, 2), np.uint32), COLOURS),
        (np.zeros((2, 2), np.uint32), COLOURS[:2]),
    ],
)
def test_what_is_no_class_map_is_refused(tmp_path, labels, colours):
    """A number without a name, a volume, a class without a colour."""
    with pytest.raises(OutputError, match="of 3 classes, a colour each"):
        write_class_png(tmp_path / "a.png", labels, NAMES, colours)
