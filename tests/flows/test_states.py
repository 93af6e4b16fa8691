"""How a flow ends is the truth."""

from types import SimpleNamespace

import pytest

from flows.states import final_state


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [(0, "COMPLETED", "Completed"), (3, "COMPLETED", "CompletedWithFailures"), (4, "FAILED", "Failed")],
)
def test_the_final_state_follows_the_exit_code(code, kind, name):
    """All well, some failed, too many failed; the counts are in the message, the summary in the data."""
    summary = SimpleNamespace(done=12, skipped=3, failed=1, objects=1204, seconds=8.0, exit_code=code)
    state = final_state(summary)
    assert (state.type.value, state.name, state.data) == (kind, name, summary)
    assert "12 done, 3 skipped, 1 failed; 1,204 objects in 8 s" in state.message


def test_class_maps_have_no_objects():
    """What was not counted is not called 0 objects."""
    summary = SimpleNamespace(done=12, skipped=0, failed=0, objects=None, seconds=8.0, exit_code=0)
    assert final_state(summary).message == "12 done, 0 skipped, 0 failed; class maps in 8 s"
