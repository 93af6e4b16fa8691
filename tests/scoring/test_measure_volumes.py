"""Objects of volumes and classes are measured in voxels and in millimetres, also where the spacing differs."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from pipeline.errors import MaskError
from pipeline.scoring import measure_volumes
from pipeline.scoring.class_sums import measure_classes
from pipeline.scoring.measure import order_columns
from pipeline.scoring.measure_volumes import measure_volume, volume_columns
from pipeline.types import Geometry, Image

SPACING = (2.5, 0.5, 1.0)


def made():
    rng = np.random.default_rng(3)
    labels = np.zeros((6, 9, 11), np.uint32)
    labels[0:3, 1:4, 2:6] = 7
    labels[3:5, 5:8, 4:9] = 3
    labels[4, 6, 5] = 0
    image = Image(rng.integers(0, 999, (2, *labels.shape)).astype(np.uint16), Geometry(SPACING, "mm"))
    return labels, image


def test_measures_are_those_of_regionprops():
    """Volume, centroid, box and intensities against scikit-image, with anisotropic spacing."""
    labels, image = made()
    table = measure_volume(labels, image, np.array([0.5, 0.9]))
    assert table["label"].tolist() == [3, 7] and table["confidence"].tolist() == [0.5, 0.9]
    assert table["touches_edge"].tolist() == [False, True]
    for row, one in zip(table.to_dict("records"), regionprops(labels), strict=True):
        assert row["volume_px3"] == one.area and row["volume_mm3"] == pytest.approx(one.area * 1.25)
        for k, axis in enumerate("zyx"):
            assert row[f"centroid_{axis}_px"] == pytest.approx(one.centroid[k])
            assert row[f"centroid_{axis}_mm"] == pytest.approx(one.centroid[k] * SPACING[k])
        sides = ("front", "top", "left", "back", "bottom", "right")
        assert tuple(row[f"bbox_{side}_px"] for side in sides) == one.bbox
        inside = image.pixels[1][labels == one.label]
        assert row["intensity_mean_c1"] == pytest.approx(inside.mean())
        assert (row["intensity_min_c1"], row["intensity_max_c1"]) == (inside.min(), inside.max())
        assert row["intensity_sum_c1"] == inside.sum()
    assert list(table.columns) == [name for name in volume_columns(2) if name in table]


def test_every_class_has_a_row_also_one_that_is_not_there():
    """Two of three foreground classes: the third has volume 0, no intensity and no confidence."""
    labels, image = made()
    table = measure_classes(np.where(labels == 7, 3, np.minimum(labels, 1)), image, ("none", "a", "b", "c"), [0.8, 0.7])
    assert table["class"].tolist() == ["a", "b", "c"] and table["volume_px3"].tolist() == [29, 0, 36]
    assert np.isnan(table["intensity_mean_c0"][1]) and np.isnan(table["confidence"][1])
    assert not table["touches_edge"][1]


def test_class_maps_of_images_have_areas():
    """In two dimensions sizes are areas, and there is no z."""
    labels, image = made()
    flat = Image(image.pixels[:, 1], Geometry(SPACING[1:], "um"))
    table = measure_classes((labels[1] > 0).astype(np.uint32), flat, ("none", "cell"))
    assert table["area_px2"].tolist() == [12] and table["area_um2"].tolist() == [6]
    assert "centroid_z_px" not in table and "volume_px3" not in table


def test_nothing_gives_a_table_without_rows():
    """No object, the same columns."""
    labels, image = made()
    empty = measure_volume(labels * 0, image)
    assert not len(empty) and list(empty.columns) == list(measure_volume(labels, image).columns)


def test_columns_of_volumes_have_their_order_in_the_table_of_all_images():
    """A volume's columns come in the order that they are measured in."""
    columns = list(measure_volume(*made()).columns)
    assert order_columns(sorted(columns)) == columns


def test_what_does_not_belong_together_is_refused():
    """Another grid, another number of confidences."""
    labels, image = made()
    with pytest.raises(MaskError, match="the image's"):
        measure_volume(labels[1:], image)
    with pytest.raises(MaskError, match="1 confidences"):
        measure_volume(labels, image, np.ones(1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("factor", [1, 900_000_001])
def test_parts_leave_no_trace(dtype, factor, monkeypatch):
    """Looked at plane by plane, sums, extremes and boxes are scipy's of the whole to the last bit."""
    rng = np.random.default_rng(5)
    labels = (rng.integers(0, 5, (7, 20, 30)) * factor).astype(np.uint32)
    image = Image((rng.random((1, 7, 20, 30)) * 200).astype(dtype), Geometry(SPACING, "mm"))
    whole = measure_volume(labels, image)
    monkeypatch.setattr(measure_volumes, "_AT_ONCE", 1)
    table = measure_volume(labels, image)
    pd.testing.assert_frame_equal(table, whole, check_exact=True)
    numbers = table["label"].to_numpy()
    assert numbers.tolist() == [factor * n for n in range(1, 5)]
    values = image.pixels[0]
    for name, found in (("mean", ndimage.mean), ("sum", ndimage.sum_labels), ("min", ndimage.minimum)):
        assert table[f"intensity_{name}_c0"].tolist() == np.asarray(found(values, labels, numbers)).tolist()
    boxes = [box for box in ndimage.find_objects((labels // factor).astype(int)) if box]
    assert table["bbox_back_px"].tolist() == [box[0].stop for box in boxes]
    assert table["bbox_left_px"].tolist() == [box[2].start for box in boxes]
