"""What docs/family.md says of the networks is so."""

from pathlib import Path
from typing import get_args

import pytest

import unet
from pipeline.config import SingleNetwork
from pipeline.model.halo import probe_sight

TEXT = (Path(__file__).parents[2] / "docs" / "family.md").read_text()
ROWS = {
    cells[0].strip("`"): cells
    for line in TEXT.partition("\n## ")[0].splitlines()  # the first table; others tell of trainings
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
CONFIGS = {config.model_fields["kind"].default: config for config in get_args(get_args(SingleNetwork)[0])}


def test_every_network_has_its_line() -> None:
    """One line a kind, and no line for what there is not."""
    assert set(ROWS) == set(CONFIGS) == set(unet.network_kinds()) - {"ensemble"}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_its_line_is_true(kind: str) -> None:
    """Parameters of the default network, dimensions, stride, and whether its tiles are exact."""
    config = CONFIGS[kind]()
    network = unet.build(kind, **config.model_dump(exclude={"kind"}))
    _, _, parameters, dimensions, stride, tiles, _, _ = ROWS[kind]
    count = unet.count_as_keras if "Keras" in parameters else unet.count_parameters
    assert int(parameters.split()[0].replace(",", "")) == count(network)
    assert dimensions == ("2, 3" if "dimensions" in type(config).model_fields else "2")
    assert int(stride) == unet.stride_of(network)
    assert tiles.startswith("blended" if unet.has_global_statistics(network) else "exact")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_its_field_is_true(kind: str) -> None:
    """The receptive field of the default network, and the halo where its tiles are exact, as the probe finds them."""
    config = CONFIGS[kind]()
    network = unet.build(kind, **config.model_dump(exclude={"kind"}))
    sight = probe_sight(network, config.in_channels, 2)
    *_, tiles, field, _ = ROWS[kind]
    assert sight.fields == (int(field.replace("about ", "")),) * 2 and sight.regular != field.startswith("about")
    assert (sight.halos is None) == tiles.startswith("blended")
    assert sight.halos is None or tiles.startswith(f"exact, halo {sight.halos[0]}")
