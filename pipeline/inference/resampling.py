"""Resampling along one axis by weights of absolute positions, so that a part of the result never knows it is a part.

Growing is linear, shrinking averages over the area, as OpenCV does both; there a window's position within a pixel
would be lost. `axis_weights(n, m, a, b)` are the rows a to b of the m x n matrix.
"""

import numpy as np
from scipy.sparse import csr_matrix

from pipeline.types import Array, Pixels


def axis_weights(given: int, wanted: int, start: int, stop: int) -> tuple[csr_matrix, int, int]:
    """Weights of samples [first, last) of `given` for samples [start, stop) of `wanted`; rows sum to 1.

    Returns the matrix `(stop - start, last - first)` and first, last.

    >>> weights, first, last = axis_weights(4, 2, 0, 2)
    >>> weights.toarray().tolist(), (first, last)
    ([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]], (0, 4))
    >>> axis_weights(2, 4, 1, 3)[0].toarray().tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    step = given / wanted
    here = np.arange(start, stop)
    if step > 1:
        low, high = here * step, np.minimum((here + 1) * step, given)
    else:
        centre = np.clip((here + 0.5) * step - 0.5, 0, given - 1)
        low, high = centre, centre + 1
    taps = int(np.ceil(max(step, 1.0))) + 1
    index = np.floor(low).astype(np.int64)[:, None] + np.arange(taps)
    cover = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    cover = np.where(index < given, np.maximum(cover, 0), 0)
    cover[cover < 1e-9] = 0
    cover /= cover.sum(axis=1, keepdims=True)
    used = cover > 0
    first, last = int(index[used].min()), int(index[used].max()) + 1
    rows = np.broadcast_to(np.arange(len(here))[:, None], index.shape)
    matrix = csr_matrix(
        (cover[used].astype(np.float32), (rows[used], index[used] - first)), shape=(len(here), last - first)
    )
    return matrix, first, last


def resample(planes: Array, rows: csr_matrix, columns: csr_matrix) -> Pixels:
    """`(C, Y, X)` by the weights of both axes to `(C, y, x)` float32, in C order."""
    answer = np.empty((len(planes), rows.shape[0], columns.shape[0]), np.float32)
    for plane, target in zip(planes, answer, strict=True):
        target[...] = (columns @ (rows @ plane.astype(np.float32)).T).T
    return answer
