"""Durations, and options that were said."""

import click
import pytest

from flows.options import Diameter, Duration, given, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5M", 90), (" 2h ", 7200)]
)
def test_durations_are_read_with_their_unit(text, seconds):
    """Hours, minutes and seconds, alone or together."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "30x", "m", "1h30", "-5m", "1d", "0s"])
def test_other_durations_are_refused(text):
    """A number without a unit is nobody's guess; neither is no time at all."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_only_what_was_said_overrides():
    """0 was said; None, False and no values were not."""
    assert given({"a": 0, "b": None, "c": False, "d": (), "e": "", "f": ("x",)}) == {"a": 0, "e": "", "f": ("x",)}


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 30.0), ("7.5", 7.5), ("auto", "auto"), ("native", "native"), ("8um", "8um"), ("8 µm", "8 µm")],
)
def test_a_diameter_is_pixels_a_length_or_a_word(text, value):
    """Pixels, a number with its unit, or how to do without."""
    assert Diameter().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["0", "-3", "nan", "large", "", "8 m", "um"])
def test_no_diameter_is_refused(text):
    """Said with what was wanted."""
    with pytest.raises(click.UsageError, match="auto, nor native"):
        Diameter().convert(text, None, None)
