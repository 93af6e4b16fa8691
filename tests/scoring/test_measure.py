"""One row an object, against scikit-image and by eye."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label, regionprops_table

from pipeline.errors import MaskError
from pipeline.scoring.measure import measure, order_columns
from pipeline.types import Geometry, Image

ORACLE = {
    "label": "label",
    "centroid_y_px": "centroid-0",
    "centroid_x_px": "centroid-1",
    "bbox_top_px": "bbox-0",
    "bbox_left_px": "bbox-1",
    "bbox_bottom_px": "bbox-2",
    "bbox_right_px": "bbox-3",
    "area_px2": "area",
    "perimeter_px": "perimeter",
    "equivalent_diameter_px": "equivalent_diameter_area",
    **{f"intensity_{name}_c{c}": f"intensity_{name}-{c}" for name in ("mean", "min", "max") for c in range(2)},
}
SHAPES = {
    "major_axis_px": "axis_major_length",
    "minor_axis_px": "axis_minor_length",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
}
PROPERTIES = sorted({name.rpartition("-")[0] or name for name in (*ORACLE.values(), *SHAPES.values())})


def picture(shape, channels=2, geometry=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 60_000, (channels, *shape)).astype(np.uint16)
    return Image(pixels, geometry or Geometry.pixels())


def blobs(seed, shape=(96, 128), step=3):
    """Round and ragged objects, some on the border, with gaps in their numbers."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return (label(field > np.quantile(field, 0.6)) * step).astype(np.uint32)


@settings(max_examples=60)
@given(hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)))
def test_any_labels_measure_as_scikit_image_does(labels):
    """Broken, hollow and touching objects included."""
    image = picture(labels.shape)
    table = measure(labels, image)
    if not labels.any():
        assert table.empty
        return
    with np.errstate(all="ignore"):
        oracle = regionprops_table(labels, np.moveaxis(image.pixels, 0, -1), properties=PROPERTIES)
    for ours, theirs in {**ORACLE, **SHAPES}.items():
        np.testing.assert_allclose(table[ours], oracle[theirs], rtol=1e-9, atol=1e-6, err_msg=ours)


@pytest.mark.parametrize("seed", range(3))
def test_natural_objects_measure_as_scikit_image_does(seed):
    """Every column that scikit-image has, the orientation of the major axis too."""
    labels = blobs(seed)
    image = picture(labels.shape)
    oracle = regionprops_table(labels, np.moveaxis(image.pixels, 0, -1), properties=[*PROPERTIES, "orientation"])
    table = measure(labels, image)
    assert len(table) > 10
    assert table["touches_edge"].sum() > 3
    for ours, theirs in {**ORACLE, **SHAPES, "orientation_rad": "orientation"}.items():
        np.testing.assert_allclose(table[ours], oracle[theirs], rtol=1e-9, atol=1e-9, err_msg=ours)


def test_lengths_follow_an_uneven_pixel_size():
    """Axes, angle, eccentricity, centroid and area in um as scikit-image's `spacing` has them; no perimeter."""
    labels, spacing = blobs(1), (0.5, 0.25)
    names = ("axis_major_length", "axis_minor_length", "eccentricity", "orientation", "centroid", "area")
    oracle = regionprops_table(labels, spacing=spacing, properties=names)
    table = measure(labels, picture(labels.shape, geometry=Geometry(spacing, "um")))
    pairs = {
        "major_axis_um": "axis_major_length",
        "minor_axis_um": "axis_minor_length",
        "eccentricity": "eccentricity",
        "orientation_rad": "orientation",
        "centroid_y_um": "centroid-0",
        "centroid_x_um": "centroid-1",
        "area_um2": "area",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(table[ours], oracle[theirs], rtol=1e-9, atol=1e-9, err_msg=ours)
    assert table["perimeter_um"].isna().all()
    assert table["perimeter_px"].notna().all()


def test_a_square_by_eye():
    """4 x 4 px of 0.5 mm: area 4 mm2, perimeter 12 steps = 6 mm, solid, in the middle of itself."""
    labels = np.zeros((8, 9), np.uint32)
    labels[2:6, 3:7] = 5
    pixels = np.full((1, 8, 9), 3, np.uint8)
    pixels[0, 2, 3] = 35
    row = measure(labels, Image(pixels, Geometry((0.5, 0.5), "mm"))).iloc[0]
    assert row["label"] == 5
    assert (row["centroid_y_px"], row["centroid_x_mm"]) == (3.5, 2.25)
    assert tuple(row[["bbox_top_px", "bbox_left_px", "bbox_bottom_px", "bbox_right_px"]]) == (2, 3, 6, 7)
    assert (row["area_px2"], row["area_mm2"]) == (16, 4)
    assert (row["perimeter_px"], row["perimeter_mm"]) == (12, 6)
    assert row["circularity"] == pytest.approx(np.pi * 4 * 16 / 144)
    assert (row["solidity"], row["eccentricity"]) == (1, 0)
    assert tuple(row[[f"intensity_{n}_c0" for n in ("mean", "min", "max", "sum")]]) == (5, 3, 35, 80)
    assert not row["touches_edge"]


@pytest.mark.parametrize("place", [np.s_[0, 3], np.s_[5, 3], np.s_[3, 0], np.s_[3, 5]])
def test_objects_at_each_border_are_told(place):
    """Counts per area need to know which objects the picture cuts."""
    labels = np.zeros((6, 6), np.uint32)
    labels[2, 2] = 1
    labels[place] = 2
    assert measure(labels, picture((6, 6)))["touches_edge"].tolist() == [False, True]


def test_a_single_pixel_has_a_row():
    """No perimeter, so no circularity; everything else is there."""
    labels = np.zeros((3, 3), np.uint32)
    labels[1, 1] = 9
    row = measure(labels, picture((3, 3))).iloc[0]
    assert (row["area_px2"], row["perimeter_px"], row["solidity"]) == (1, 0, 1)
    assert np.isnan(row["circularity"])


def test_confidence_goes_with_its_object():
    """In the order of the labels; not known where it was not given."""
    labels = np.array([[1, 1, 0, 2]], np.uint32)
    table = measure(labels, picture((1, 4)), np.array([0.75, 0.25]))
    assert table["confidence"].tolist() == [0.75, 0.25]
    assert measure(labels, picture((1, 4)))["confidence"].isna().all()


@pytest.mark.parametrize("geometry", [Geometry.pixels(), Geometry((0.3, 0.3), "um")])
def test_an_image_without_objects_has_the_same_columns(geometry):
    """Names, order and types of the table do not depend on what is in the image."""
    full = measure(blobs(0), picture((96, 128), geometry=geometry))
    none = measure(np.zeros((96, 128), np.uint32), picture((96, 128), geometry=geometry))
    assert none.empty
    pd.testing.assert_series_equal(full.dtypes, none.dtypes)


def test_columns_stand_in_canonical_order():
    """label, place, box, area, intensity, shape, confidence; a unit's columns beside those in pixels."""
    table = measure(blobs(0), picture((96, 128), channels=3, geometry=Geometry((0.3, 0.3), "um")))
    names = list(table.columns)
    assert names == order_columns(reversed(names))
    expected = ["label", "centroid_y_px", "centroid_y_um", "bbox_top_px", "area_px2", "area_um2", "intensity_mean_c0"]
    expected += ["intensity_mean_c2", "perimeter_px", "perimeter_um", "eccentricity", "confidence", "touches_edge"]
    assert [name for name in names if name in expected] == expected


def test_a_union_of_columns_is_put_in_order():
    """Images of one and of three channels, with and without a size, in one table."""
    grey = measure(blobs(0), picture((96, 128), channels=1)).columns
    colour = measure(blobs(0), picture((96, 128), channels=3, geometry=Geometry((1.0, 1.0), "mm"))).columns
    names = order_columns(["image", *colour[::-1], *grey])
    assert names == ["image", *colour]


@pytest.mark.parametrize(
    ("labels", "confidence", "said"),
    [
        (np.zeros((2, 4, 4), np.uint32), None, "3-D labels"),
        (np.zeros((4, 5), np.uint32), None, "the image's (4, 4)"),
        (np.zeros((4, 4), np.uint32), np.zeros(2), "2 confidences"),
    ],
)
def test_labels_of_another_grid_are_refused(labels, confidence, said):
    """Nothing is measured on pixels that are not its own."""
    with pytest.raises(MaskError) as error:
        measure(labels, picture((4, 4)), confidence)
    assert said in str(error.value)
