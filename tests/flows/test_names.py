"""Names instead of paths."""

import pytest

from flows.names import config_path, headline, shipped_configs
from pipeline.config import TrainConfig, load_config
from pipeline.errors import ConfigError


def test_every_shipped_config_is_found_by_name_and_is_valid():
    """`maskline train nuclei` works by name, and so does each of the others."""
    assert {"nuclei", "demo"} <= set(shipped_configs())
    for name in shipped_configs():
        assert load_config(TrainConfig, config_path(name))


def test_a_path_is_taken_as_it_is(tmp_path):
    """A file that exists is that file."""
    file = tmp_path / "my.yaml"
    file.write_text("name: mine\n")
    assert config_path(str(file)) == file


@pytest.mark.parametrize("name", ["nuclie", "no/such.yaml", "gone.yaml"])
def test_a_name_that_means_nothing_is_refused(name):
    """A typing error says which names there are; a missing file says so."""
    with pytest.raises(ConfigError) as caught:
        config_path(name)
    assert ("nuclei" in caught.value.wanted) == (name == "nuclie")


def test_the_headline_leaves_out_what_is_no_number():
    """Only those scores that there are, in the order in which a person reads them."""
    assert headline({"overall": {"pq": 0.4, "map": 0.5, "ap50": None, "n": 3}}) == {"map": 0.5, "pq": 0.4}
