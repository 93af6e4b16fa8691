"""What looks wrong with a single object: the column `flags` of objects.parquet, codes joined by ";" as in images.csv.

Flags are drawn when the table is written, from what is measured of every object anyway, so that streamed images and
volumes have them too, and a model's cut is that of the table's own model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.results.ledger import Entry
from pipeline.results.quality import MIN_CONFIDENCE, MIN_OBJECTS, MODEL_RANGE

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
OBJECT_FLAGS = ("low_confidence", "unusual_size", "touches_edge")  # in the order they are written
MEASURED = ("confidence", "equivalent_diameter_px", "touches_edge")  # the columns they are drawn from
_TEXTS = np.array([";".join(c for bit, c in enumerate(OBJECT_FLAGS) if mix >> bit & 1) for mix in range(8)], object)


@dataclass(frozen=True)
class Expected:
    """What the model's record says: the `diameter` of the objects it learned from, in its own px, and the `confidence`
    below which its answers are doubtful; None where it does not say.
    """

    diameter: float | None = None
    confidence: float | None = None

    def usual(self, diameters: Floats, row: Mapping[str, Any]) -> float:
        """The usual diameter (px of the file) in an image: the median of its objects'; of fewer than 4, which say
        nothing, the model's, at the zoom of the image's `row` of images.csv. NaN where neither is known.

        >>> Expected(20.0).usual(np.array([8.0, 9, 9, 30]), {}), Expected(20.0).usual(np.ones(1), {"model_zoom": 2.0})
        (9.0, 10.0)
        """
        if diameters.size >= MIN_OBJECTS:
            return float(np.median(diameters))
        return (self.diameter or np.nan) / float(row.get("model_zoom") or 1.0)

    def flags(self, confidence: Floats, diameters: Floats, edge: NDArray[np.bool_], usual: Floats) -> NDArray[Any]:
        """The flags of objects, `usual` being the usual diameter in the image of each; NaN flags nothing.

        `low_confidence`: below the model's own cut. `unusual_size`: a diameter of more than 2.5 times the usual one, or
        less than a part of it. `touches_edge`: at the image's frame, so that its size is too small.

        >>> nine = np.array([0.9, 0.9, 0.5]), np.array([9.0, 30, 9]), np.array([False, True, False]), np.full(3, 9.0)
        >>> Expected(confidence=0.8).flags(*nine).tolist()
        ['', 'unusual_size;touches_edge', 'low_confidence']
        """
        low = confidence < (self.confidence or MIN_CONFIDENCE)
        unusual = (diameters > MODEL_RANGE * usual) | (diameters < usual / MODEL_RANGE)
        return np.asarray(_TEXTS[low + 2 * unusual + 4 * edge])

    def of_rows(self, run: Sequence[Entry], rows: "pa.Table", usual: Mapping[str, float]) -> NDArray[Any]:
        """The flags of the rows of some images; `usual` are the diameters of those that are not there whole.

        Rows of class maps, which are no objects, have none.
        """
        if "class" in rows.column_names or not set(MEASURED) <= set(rows.column_names):
            return np.full(rows.num_rows, "", object)
        sure, diameters, edge = (rows.column(name).to_numpy() for name in MEASURED)
        lengths = [entry.rows[1] for entry in run]
        middle = [
            usual[entry.path] if entry.path in usual else self.usual(part, entry.row)
            for entry, part in zip(run, np.split(diameters, np.cumsum(lengths)[:-1]), strict=True)
        ]
        return self.flags(sure, diameters, edge.astype(bool), np.repeat(middle, lengths))
