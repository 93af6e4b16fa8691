"""What networks compute in while they learn."""

import pytest
import torch
from made_examples import CONFIG, example
from torch import Tensor, nn

from pipeline.training.dataset import build_dataset
from pipeline.training.precision import choose_precision
from pipeline.training.train import start_training, train_step


@pytest.mark.parametrize(
    ("has", "device", "expected"),
    [
        ({"avx512_bf16": True}, "cpu", torch.bfloat16),
        ({"amx_bf16": True}, "cpu", torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, "cpu", torch.float32),
        ({}, "cpu", torch.float32),
        ({}, "cuda:1", torch.bfloat16),
        ({"avx512_bf16": True}, "mps", torch.float32),
    ],
)
def test_bfloat16_where_the_machine_has_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], device: str, expected: torch.dtype
) -> None:
    """Processors that would only emulate it learn in float32; what is asked for by name is taken anywhere."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert choose_precision("auto", device) is expected
    assert choose_precision("float32", device) is torch.float32
    assert choose_precision("bfloat16", device) is torch.bfloat16


def test_an_older_torch_that_does_not_say_learns_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cpu.get_capabilities is newer than the oldest torch we take."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", "cpu") is torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolutions_alone_compute_in_it(precision: str) -> None:
    """The network's inner planes have the precision; weights, gradients and the loss stay float32."""
    training = start_training(CONFIG.model_copy(update={"precision": precision}), "cpu")
    seen: set[torch.dtype] = set()

    def see(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        seen.add(answer.dtype)

    for module in training.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(see)
    data = build_dataset([example(1), example(2)], CONFIG)
    batch = next(iter(torch.utils.data.DataLoader(data, 2)))
    loss = train_step(training, batch)
    assert seen == {getattr(torch, precision)}
    assert 0 < loss < 10
    assert {value.dtype for value in training.network.parameters()} == {torch.float32}
    assert {value.grad.dtype for value in training.network.parameters() if value.grad is not None} == {torch.float32}
