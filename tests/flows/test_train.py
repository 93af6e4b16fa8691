"""What the training flow makes of how the job went, without a server."""

from flows import train
from pipeline.runs.cross_validate import FoldsStopped


def test_folds_that_were_stopped_are_cancelled_not_completed(monkeypatch, tmp_path):
    """There is no model of all folds and no score; the state says what is done and how to go on."""
    stopped = FoldsStopped(tmp_path, tmp_path / "fold-1" / "model", 1, 5)
    monkeypatch.setattr(train, "cross_validate", lambda *args, **how: stopped)
    state = train.train_nuclei_flow.fn(data=tmp_path / "m.csv", out=tmp_path, folds=5)
    assert state.type.value == "CANCELLED"
    assert "in fold 2 of 5" in state.message and "1 of 5 folds are done" in state.message
    assert "--resume" in state.message
