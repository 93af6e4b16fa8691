"""The rows of objects.parquet for one segmented image: objects of an image, objects of a volume, or classes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SIZES = ("area_px2", "volume_px3")


def measure_answer(answer: Any) -> "pd.DataFrame":
    """Measure what a segmenter answered; see `Answer` of `pipeline.runs.segment_case`."""
    sure = answer.confidence.objects if answer.confidence else None
    if classes := getattr(answer, "classes", ()):
        from pipeline.scoring.class_sums import measure_classes

        return measure_classes(answer.labels, answer.image, classes, sure)
    if answer.labels.ndim == 3:
        from pipeline.scoring.measure_volumes import measure_volume

        return measure_volume(answer.labels, answer.image, sure)
    from pipeline.scoring.measure import measure

    return measure(answer.labels, answer.image, sure)


def sizes(objects: "pd.DataFrame") -> Any:
    """The column of `measure_answer` that says how many pixels or voxels each row has."""
    return objects[next(name for name in SIZES if name in objects)]
