"""Spans are the label image, row by row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label

from pipeline.data.spans import connect, find_spans

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)


@settings(max_examples=100)
@given(arrays(np.uint32, SHAPES, elements=st.sampled_from([0, 1, 2, 2**32 - 1])))
def test_painting_the_spans_gives_the_labels_back(labels):
    """Each object pixel lies in one span, in raster order, and a span ends where the object or the row does."""
    spans = find_spans(labels)
    painted = np.zeros(labels.size, np.uint32)
    painted[spans.pixels(labels.shape[1])] = np.repeat(spans.value, spans.length)
    assert (painted.reshape(labels.shape) == labels).all()
    assert spans.length.sum() == np.count_nonzero(labels)
    assert (np.diff(spans.pixels(labels.shape[1])) > 0).all()
    assert spans.row.size == sum(int(np.count_nonzero((row != 0) & (np.append(0, row[:-1]) != row))) for row in labels)


@settings(max_examples=100)
@given(arrays(bool, SHAPES))
def test_components_are_scikit_image_s(mask):
    """4-connected, numbered in raster order of their first pixels."""
    spans = find_spans(mask)
    count, component = connect(spans)
    painted = np.zeros(mask.size, np.int64)
    painted[spans.pixels(mask.shape[1])] = np.repeat(component + 1, spans.length)
    oracle = label(mask, connectivity=1)
    assert count == oracle.max()
    assert (painted.reshape(mask.shape) == oracle).all()
