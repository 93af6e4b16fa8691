"""What the flow makes of how the job went, without a server."""

from types import SimpleNamespace

import pytest

from flows import segment
from pipeline.config import SegmentConfig
from pipeline.errors import EmptyError, InputError


@pytest.fixture
def config(tmp_path):
    return SegmentConfig(folder=tmp_path, out=tmp_path / "out")


def job(monkeypatch, answer):
    """A stand-in for the job, which answers or raises; nothing is published."""

    def segment_folder(config, run_chunks, watch):
        if isinstance(answer, Exception):
            raise answer
        return answer

    published = []
    monkeypatch.setattr(segment, "segment_folder", segment_folder)
    monkeypatch.setattr(segment, "publish", published.append)
    return published


def test_the_state_carries_the_summary(monkeypatch, config):
    """What the job answers is published and becomes the state."""
    summary = SimpleNamespace(done=1, skipped=0, failed=1, objects=5, seconds=1.0, exit_code=3)
    published = job(monkeypatch, summary)
    state = segment.run_segmentation(config, 1)
    assert (state.name, state.data) == ("CompletedWithFailures", summary)
    assert published == [summary]


def test_an_empty_inbox_is_no_failure_of_a_scheduled_run(monkeypatch, config):
    """A run by hand of an empty folder is a mistake, a nightly one is a quiet day; other errors are errors in both."""
    empty = EmptyError("folder /inbox", "no images", "PNG files", "check the folder")
    job(monkeypatch, empty)
    with pytest.raises(EmptyError):
        segment.run_segmentation(config, 1)
    state = segment.run_segmentation(config, 1, may_be_empty=True)
    assert (state.type.value, state.name) == ("COMPLETED", "NothingToDo")
    job(monkeypatch, InputError("folder /inbox", "nothing there", "a folder", "check the path"))
    with pytest.raises(InputError):
        segment.run_segmentation(config, 1, may_be_empty=True)


def test_the_command_line_gets_the_summary_or_the_error(monkeypatch, config):
    """`segment_config` hands the whole config to the flow and unpacks its state."""
    from prefect.states import Completed, Failed

    asked = []

    def flow(**parameters):
        asked.append(parameters)
        return answers.pop(0)

    summary = SimpleNamespace(exit_code=4)
    error = InputError("a", "b", "c", "d")
    answers = [Completed(data=summary), Failed(data=summary), Failed(data=error)]
    monkeypatch.setattr(segment, "segment_folder_flow", flow)
    assert segment.segment_config(config) is summary
    assert segment.segment_config(config) is summary
    with pytest.raises(InputError):
        segment.segment_config(config)
    assert set(SegmentConfig.model_fields) <= set(asked[0])
    assert asked[0]["folder"].is_absolute() and asked[0]["group"] == ""
