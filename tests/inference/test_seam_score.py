"""Whether borders left a trace in the objects."""

import numpy as np
import pandas as pd
import pytest
from made_model import make_model
from test_stream import Blurs, Memory, field_of_discs

from pipeline.inference.blocks import Sizes
from pipeline.inference.seam_score import Crossings, Sample, choose_windows, lines_of
from pipeline.inference.stream import Stream
from pipeline.inference.streamed import Streamed
from pipeline.model.prepare import fit
from pipeline.types import Window

HUNDREDS = lines_of(range(0, 1000, 100), 1000, 1000)


def a_streamed(scratch, zoom, core, engine=Blurs):
    """A field of discs about 20 px wide on the network's grid, streamed by small tiles and blocks."""
    side = round(1200 / zoom)
    pixels = np.repeat(field_of_discs((side, side), 1500, round(13 / zoom), seed=3)[None], 3, axis=0)
    model = make_model()
    how = fit(pixels, model.record.prepare, stride=16, zoom=zoom)
    sizes = Sizes(band=96, side=384, margin=64, widest=96)
    return Streamed(Stream(model, engine(core), Memory(pixels), how, scratch, "test", sizes=sizes), zoom, workers=1)


def boxes(top, left, size):
    return pd.DataFrame(
        {"bbox_top_px": top, "bbox_left_px": left, "bbox_bottom_px": top + size, "bbox_right_px": left + size}
    )


def test_objects_that_lie_anywhere_cross_as_often_as_expected():
    """Ten thousand boxes drawn at random, whose ratio is 1 within its spread (about 0.02)."""
    generator = np.random.default_rng(0)
    top, left = generator.integers(0, 1000 - 20, (2, 10_000))
    seam = Crossings((HUNDREDS, HUNDREDS), (1000, 1000))
    seam.add(boxes(top[:5000], left[:5000], 20))
    seam.add(boxes(top[5000:], left[5000:], 20))
    assert seam.ratio == pytest.approx(1.0, abs=0.08)


def test_objects_that_were_cut_at_every_line_never_cross():
    """Boxes that end at the lines give 0."""
    generator = np.random.default_rng(0)
    top, left = generator.integers(0, 980, (2, 3000))
    whole = boxes(top, left, 20)
    for low, high in (("bbox_top_px", "bbox_bottom_px"), ("bbox_left_px", "bbox_right_px")):
        line = (whole[low] // 100 + 1) * 100
        whole[high] = np.minimum(whole[high], line)
    seam = Crossings((HUNDREDS, HUNDREDS), (1000, 1000))
    seam.add(whole)
    assert seam.ratio == 0.0


def test_few_objects_say_nothing():
    """Below 30 expected crossings there is no ratio."""
    seam = Crossings((HUNDREDS, HUNDREDS), (1000, 1000))
    seam.add(boxes(np.array([95, 500]), np.array([5, 500]), 20))
    assert np.isnan(seam.ratio)
    none = lines_of([0], 1000, 1000)
    seam = Crossings((none, none), (1000, 1000))
    seam.add(boxes(np.array([95, 500]), np.array([5, 500]), 20))
    assert (seam.observed, seam.expected) == (0, 0.0)


def test_a_sample_gathers_cores_and_compares_them():
    """What came in four parts is the window; an object cut in two is noticed."""
    labels = np.zeros((40, 40), np.uint32)
    labels[10:30, 10:30] = 7
    sample = Sample(Window((4, 4), (36, 36)))
    for y in (0, 20):
        for x in (0, 20):
            sample.add(Window((y, x), (y + 20, x + 20)), labels[y : y + 20, x : x + 20])
    assert np.array_equal(sample.labels, labels[4:36, 4:36])
    assert sample.agreement(labels[4:36, 4:36]) == 1.0
    sample.labels[10:30, 16:] *= 2
    assert sample.agreement(labels[4:36, 4:36]) == 0.0


@pytest.mark.parametrize("zoom", [0.25, 0.37, 0.5, 1.0, 1.7, 2.0])
def test_lines_of_another_grid_lie_where_its_rows_begin_in_the_file(zoom):
    """Against each row of the file by itself: behind the line are the rows whose centres lie behind it."""
    file, grid = 1000, round(1000 * zoom)
    centres = (np.arange(file) + 0.5) * (grid / file)
    expected = [int((centres < line).sum()) for line in range(0, grid, 64)]
    assert lines_of(range(0, grid, 64), grid, file).tolist() == [line for line in expected if 0 < line < file]


def test_what_was_cut_on_a_coarser_grid_may_end_a_little_beside_its_line():
    """Boxes that end up to 2 px behind a line: crossings for who takes it to the pixel, none with 2 px of slack."""
    generator = np.random.default_rng(0)
    top, left = generator.integers(0, 970, (2, 6000))
    whole = boxes(top, left, 30)
    cut = whole.copy()
    for low, high in (("bbox_top_px", "bbox_bottom_px"), ("bbox_left_px", "bbox_right_px")):
        line = (whole[low] // 100 + 1) * 100
        cut[high] = np.minimum(whole[high], line + generator.integers(0, 3, 6000))
    for slack, ratio in ((0, 0.3), (2, 0.0)):
        seam = Crossings((HUNDREDS, HUNDREDS), (1000, 1000), slack)
        seam.add(cut)
        assert (seam.ratio > ratio) if slack == 0 else (seam.ratio == ratio)
        fair = Crossings((HUNDREDS, HUNDREDS), (1000, 1000), slack)
        fair.add(whole)
        assert fair.ratio == pytest.approx(1.0, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [0.5, 0.37, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("core", [48, 64])
def test_at_any_zoom_there_is_a_score(tmp_path, zoom, core):
    """Tiles and blocks that leave no trace: about 1 over both grids' lines, and windows done at once agree."""
    streamed = a_streamed(tmp_path, zoom, core)
    assert sum(len(part.objects) for part in streamed.parts()) > 400
    statistics = streamed.statistics
    assert statistics["agreement"] > 0.97
    assert 0.75 < statistics["seams"] < 1.25
    assert len(streamed._samples) == 3 and all(sample.labels.max() > 0 for sample in streamed._samples)


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_at_any_zoom_a_trace_of_tiles_is_seen(tmp_path, zoom):
    """Answers with a dark frame on each tile's core cut every object there: hardly any crosses a line."""

    class Framed(Blurs):
        def map(self, tiles, preparation):
            for answer in super().map(tiles, preparation):
                answer[:, [16, -17], :] = 0
                answer[:, :, [16, -17]] = 0
                yield answer

    streamed = a_streamed(tmp_path, zoom, 48, Framed)
    assert list(streamed.parts())
    assert streamed.statistics["seams"] < 0.35


def test_samples_lie_around_corners_of_blocks():
    """Three of many, spread; none where there is no corner."""
    chosen = choose_windows((9000, 9000), 2048, most=3)
    assert [tuple((a + b) // 2 % 2048 for a, b in zip(w.start, w.stop, strict=True)) for w in chosen] == [(0, 0)] * 3
    assert choose_windows((2000, 9000), 2048) == []
