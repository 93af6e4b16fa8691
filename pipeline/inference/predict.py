"""From a prepared image to probabilities: by exact tiles where the record gives a halo, blended windows where not."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.inference.windows import plan_tiles
from pipeline.model.bundle import TrainedModel
from pipeline.model.targets import activate
from pipeline.types import Pixels

_WHOLE = 1024 * 1024  # pixels up to which an image goes through in one piece
_CORE = 768

Forward = Callable[[TrainedModel, Tensor], Tensor]


def choose_device(device: str) -> str:
    """`auto` is the first GPU, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _once(model: TrainedModel, image: Tensor) -> Tensor:
    with torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda"):
        logits: Tensor = model.network(image.contiguous(memory_format=torch.channels_last))
    return activate(logits.float(), model.record.target)


def _eightfold(model: TrainedModel, image: Tensor) -> Tensor:
    """The mean over the symmetries of the square. Windows stay on the stride's grid, so that tiles stay exact."""
    total = torch.zeros(())
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(image, turns, (2, 3))
            answer = _once(model, turned.flip(3) if flip else turned)
            total = total.to(answer) + torch.rot90(answer.flip(3) if flip else answer, -turns, (2, 3))
    return total / 8


def _blended(forward: Forward, model: TrainedModel, image: Tensor) -> Tensor:
    from monai.inferers.utils import sliding_window_inference  # only models that need blending pay for MONAI

    answer = sliding_window_inference(image, (256, 256), 1, lambda x: forward(model, x), overlap=0.5, mode="gaussian")
    assert isinstance(answer, Tensor)
    return answer


def predict(
    model: TrainedModel, prepared: Pixels, device: str = "cpu", *, core: int | None = None, tta: bool = False
) -> Pixels:
    """Probabilities `(K, Y, X)` float32 of a prepared image `(C, Y, X)` float32; sides are multiples of the stride.

    `core` is the side of a tile's core; None takes a small image whole and cuts a large one. The answer is the same.
    `tta` (test-time augmentation) takes the mean over the eight flips and quarter turns, for eight times the work.
    """
    halo = model.record.halo
    forward = _eightfold if tta else _once
    height, width = prepared.shape[1:]
    with torch.inference_mode():
        image = torch.from_numpy(prepared)[None].to(device)
        if core is None and height * width <= _WHOLE:
            whole: Pixels = forward(model, image)[0].cpu().numpy()
            return whole
        if halo is None:
            blended: Pixels = _blended(forward, model, image)[0].cpu().numpy()
            return blended
        answer = torch.empty((len(model.record.outputs), height, width), dtype=torch.float32)
        for tile in plan_tiles((height, width), core or _CORE, halo, model.record.stride):
            y, x = tile.read.slices
            inner = (slice(None), *tile.inner)
            answer[(slice(None), *tile.core.slices)] = forward(model, image[:, :, y, x])[0][inner].cpu()
    return answer.numpy()
