"""OpenVINO is given a trace of the network; on sides that were not traced it has to answer as the network does."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import unet
from pipeline.config import MaskTarget, OriginalUNet, PrepareConfig, SingleNetwork
from pipeline.errors import ModelError
from pipeline.inference.forward import identity, raw_tile
from pipeline.inference.openvino_engine import OpenVinoEngine, convert
from pipeline.model.bundle import ModelRecord, TrainedModel

pytest.importorskip("openvino")
DEEP = OriginalUNet(in_channels=1, out_channels=1, filters=(4, 4, 4, 4, 4))
SLIM = {"v_net": {}, "vgg19_unet": {"filters": (4, 4, 4, 4)}, "mobilenet_unet": {"filters": (4, 4, 4, 4)}}
OTHERS = [
    pytest.param(kind(**{"out_channels": 1, **SLIM.get(kind.model_fields["kind"].default, {})}), marks=pytest.mark.slow)
    for kind in get_args(get_args(SingleNetwork)[0])
    if kind is not OriginalUNet
]


def trained(config: SingleNetwork) -> TrainedModel:
    torch.manual_seed(0)
    network = unet.build(config.kind, **config.model_dump(exclude={"kind"})).eval()
    record = ModelRecord(
        name="t",
        network=config,
        prepare=PrepareConfig(channels=config.in_channels),
        target=MaskTarget(),
        outputs=("foreground",),
        stride=int(unet.stride_of(network)),
        halo=None,
    )
    return TrainedModel(network, record, "digest")


@pytest.mark.parametrize("config", [DEEP, *OTHERS], ids=lambda config: config.kind)
def test_sides_that_were_not_traced_are_answered_as_torch_does(config: SingleNetwork) -> None:
    """Every network with exact tiles, on a tile of another shape than the trace's; blended ones run on torch alone."""
    model = trained(config)
    if unet.has_global_statistics(model.network):
        pytest.skip("blended: engine auto takes torch")
    stride = model.record.stride
    tile = np.random.default_rng(0).random((config.in_channels, 8 * stride, 6 * stride), np.float32)
    run, _ = OpenVinoEngine(model, 1).runner(1, 1)
    with torch.inference_mode():
        wanted = torch.sigmoid(model.network(torch.from_numpy(tile)[None]))[0].numpy()
    np.testing.assert_allclose(run(raw_tile(tile, identity(len(tile), tile.shape[1:]))), wanted, atol=1e-4)


class Cut(nn.Module):
    """A network that leaves a border out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)
        return logits[..., 8:, 8:]


def test_an_answer_of_another_size_is_refused() -> None:
    """A graph that leaves a border out would shift every object: it is an error, not a result."""
    model = trained(DEEP)
    engine = OpenVinoEngine(model, 1, convert(replace(model, network=Cut(model.network))))
    tile = np.zeros((1, 96, 96), np.float32)
    with pytest.raises(ModelError, match="choose --engine torch"):
        engine.runner(1, 1)[0](raw_tile(tile, identity(1, (96, 96))))
