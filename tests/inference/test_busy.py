"""What stages take is told from what they wait for, and over the threads they have."""

import time

import numpy as np
import pytest
from made_model import make_model
from test_stream import SMALL, Blurs, Memory, field_of_discs

from pipeline.inference import busy
from pipeline.inference.background import SkippingEngine
from pipeline.inference.busy import Busy, busy_seconds
from pipeline.inference.engines import make_engine
from pipeline.inference.forward import identity
from pipeline.inference.stream import Stream
from pipeline.model.bundle import FlatBackground
from pipeline.model.prepare import fit


def test_time_is_shared_among_the_threads_that_do_the_same(monkeypatch):
    """Blocks of 3 s by one thread and of 4 s by one of two: 3 + 2 s, also where one fails."""
    clock = iter([0.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(busy.time, "perf_counter", lambda: next(clock))
    at_work = Busy()
    with at_work.counted():
        pass
    with pytest.raises(ValueError, match="lost"), at_work.counted(2):
        raise ValueError("lost")
    assert at_work.seconds == 5.0


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_engines_say_how_long_they_were_at_work_not_how_long_they_waited(device):
    """Tiles that come slowly do not make an engine busier: what it counts and the waiting fit into the time passed."""
    engine = SkippingEngine(
        make_engine(make_model(), device, "torch", 1), FlatBackground(low=0, high=0.1, tolerance=0.1)
    )
    assert busy_seconds(engine) == 0.0

    def slow():
        for _ in range(5):
            time.sleep(0.1)
            yield np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)

    began = time.perf_counter()
    assert len(list(engine.map(slow(), identity(3, (32, 32))))) == 5
    assert 0 < busy_seconds(engine) <= time.perf_counter() - began - 0.1  # the first was waited for alone
    assert busy_seconds(Blurs(64)) is None


class Told(Blurs):
    """Says that it was at work for a second a tile."""

    @property
    def busy(self):
        return float(self.tiles)


@pytest.mark.parametrize("engine", [Told, Blurs])
def test_predicting_takes_what_the_engine_says(tmp_path, engine):
    """Else what was waited for its answers; all stages are told."""
    pixels = np.repeat(field_of_discs((300, 200), 20, 12, seed=1)[None], 3, axis=0)
    how = fit(pixels, make_model().record.prepare, stride=16)
    stream = Stream(make_model(), engine(64), Memory(pixels), how, tmp_path, "test", sizes=SMALL)
    assert len(list(stream.parts(1))) == 6
    assert set(stream.seconds) == {"read", "predict", "keep", "decode"}
    assert (stream.seconds["predict"] == 5 * 4) == (engine is Told)
