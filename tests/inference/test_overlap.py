"""While one part of a streamed image is predicted, others are decoded; little is left to be done alone at the end."""

import threading

import numpy as np
from made_model import make_model
from test_stream import SMALL, Blurs, Memory, field_of_discs

from pipeline.inference.decode_block import Decoder
from pipeline.inference.stream import Stream
from pipeline.inference.streamed import Streamed
from pipeline.model.prepare import fit


def a_stream(scratch, side: int) -> Stream:
    pixels = np.repeat(field_of_discs((side, side), 60, 12, seed=3)[None], 3, axis=0)
    model = make_model()
    how = fit(pixels, model.record.prepare, stride=16)
    return Stream(model, Blurs(64), Memory(pixels), how, scratch, "test", sizes=SMALL)


def test_a_free_core_decodes(tmp_path, monkeypatch):
    """When all is predicted, one thread more decodes: blocks go in pairs, where one alone would wait for ever."""
    stream, pair, decode = a_stream(tmp_path, 200), threading.Barrier(2), Decoder.decode

    def together(self, block, wide=False):
        stream.predicted.wait()
        if not wide:
            pair.wait(timeout=60)
        return decode(self, block, wide)

    monkeypatch.setattr(Decoder, "decode", together)
    assert len(list(stream.parts(1))) == 4


def test_windows_are_compared_beside_the_last_blocks(tmp_path, monkeypatch):
    """They are looked at on a thread of their own once the engine is free, and agree as they did."""
    seen, at_once = [], Streamed._at_once

    def watched(self, window):
        assert self.stream.predicted.is_set()
        seen.append(threading.current_thread().name)
        return at_once(self, window)

    monkeypatch.setattr(Streamed, "_at_once", watched)
    streamed = Streamed(a_stream(tmp_path, 600), 1.0, workers=1)
    assert sum(len(part.objects) for part in streamed.parts()) > 20
    assert len(seen) == len(streamed._samples) > 0 and all(name.startswith("sample") for name in seen)
    assert streamed.statistics["agreement"] == 1.0
