"""Two images are in the works at a time, never two large ones, and nobody can tell from what comes out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.runs import plan_image, segment_case
from pipeline.runs.segment_chunk import AT_ONCE
from pipeline.types import Event


class Counted:
    """How many are inside at once, and the most there ever were; the first waits up to `patience` s for company."""

    def __init__(self, patience: float) -> None:
        self.inside, self.most, self.lock, self.company = 0, 0, threading.Lock(), threading.Event()
        self.patience = patience

    @contextmanager
    def one(self) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside > 1:
                self.company.set()
        self.company.wait(self.patience)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1


@pytest.mark.parametrize(("largest", "most", "patience"), [(10**6, AT_ONCE, 60.0), (0, 1, 0.1)])
def test_small_images_go_together_and_large_ones_alone(run, segmenter, monkeypatch, largest, most, patience):
    """Two small images are segmented at a time; of images above the limit one, whoever else is waiting."""
    counted, segment = Counted(patience), segmenter.segment

    def watched(source, options):
        with counted.one():
            return segment(source, options)

    monkeypatch.setattr(plan_image, "BESIDE", largest)
    monkeypatch.setattr(segmenter, "segment", watched)
    assert run().done == 6
    assert counted.most == most


def test_images_are_told_of_in_their_order(run, segmenter, monkeypatch):
    """The first image takes longest; it is still the first to be counted, and no image is counted twice."""
    segment, second, told = segmenter.segment, threading.Event(), []

    def slow_first(source, options):
        if source.path.name == "00.png":
            assert second.wait(20)
        answer = segment(source, options)
        second.set()
        return answer

    monkeypatch.setattr(segmenter, "segment", slow_first)
    run(watch=lambda event: told.append(event) if isinstance(event, Event) and event.stage == "segment" else None)
    assert segmenter.seen[0] != "00.png" and [event.done for event in told] == list(range(7))


def test_what_ends_the_run_ends_it_once(run, segmenter, monkeypatch):
    """An error that is no image's fault is raised from whichever image met it, and the next run does all of them."""

    def away(job):
        raise segment_case.ModelError("model", "gone", "there", "bring it back")

    with monkeypatch.context() as patched:
        patched.setattr(segment_case, "load_segmenter", away)
        with pytest.raises(segment_case.ModelError, match="gone"):
            run()
    assert run().done == 6
