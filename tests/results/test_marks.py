"""What runs are marked with is taken by the tracker as it stands, and stays apart."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.results.marks import clean_names, flatten
from pipeline.results.run import Run

NAMES = st.text(st.characters(exclude_categories=()) | st.sampled_from("/.#+ _-:"), max_size=300)


@settings(max_examples=300)
@given(st.sets(NAMES, max_size=6))
def test_whatever_the_names_mlflow_takes_them_and_none_is_lost(names: set[str]) -> None:
    """MLflow's own check, at most 250 characters, as many names out as in; a second cleaning changes nothing."""
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

    clean = clean_names(names)
    assert set(clean) == names and len(set(clean.values())) == len(names)
    for name in clean.values():
        assert len(name) <= MAX_ENTITY_KEY_LENGTH and ":" not in name
        _validate_metric_name(name)
    assert clean_names(clean.values()) == {name: name for name in clean.values()}


def test_classes_of_any_script_have_metrics_of_their_own() -> None:
    """Scores of two Cyrillic classes, and of two that differ in a sign, are four numbers in one batch."""
    sent: dict[str, float] = {}

    class Seen:
        client = None

        def attempt(self, what, action):
            return action()

        def metrics(self, run_id, values, now, step):
            sent.update(values)

    Run(Seen(), "1").log_metrics({"iou/дом": 0.1, "iou/лес": 0.2, "iou/a+": 0.3, "iou/a#": float("nan")})
    assert sent["iou/дом"] == 0.1 and sent["iou/лес"] == 0.2 and len(sent) == 3
    assert flatten({"palette": {"дом": 1, "лес": 2}}) == {"palette.дом": "1", "palette.лес": "2"}
