"""Freezing and phases: what is said to learn learns, what is said to stay stays, and resuming keeps the phase."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_examples import CONFIG, example

import unet
from pipeline.config import (
    BCE,
    Adam,
    Constant,
    EarlyStopping,
    FixedSize,
    Phase,
    RandomFraction,
    SceneAugmentation,
    TrainConfig,
    VGG19UNet,
    load_config,
)
from pipeline.errors import TrainingError
from pipeline.model.prepare import fit
from pipeline.training.dataset import Example
from pipeline.training.freeze import check_gradients, freeze_for_phase, rest_frozen_statistics
from pipeline.training.train import Training, resume_training, run_training, start_training
from pipeline.training.volumes import understood
from pipeline.types import Case
from unet.vgg import vgg19_features

PRETRAINED = Path(__file__).parents[2] / "configs" / "vgg19-pretrained.yaml"
TWO = CONFIG.model_copy(
    update={
        "freeze": ("down.*",),
        "phases": (
            Phase(epochs=2, lr=2e-3),
            Phase(epochs=2, lr=1e-4, unfreeze=("down.2.*",), minimum_epochs=1),
        ),
        "ema": 0.0,
        "schedule": Constant(),
    }
)


def train(folder: Path, config: TrainConfig, epochs: int | None = None, resume: bool = False) -> Training:
    training = start_training(config, "cpu")
    if resume:
        resume_training(training, folder, "id")
    for result in run_training(training, [example(1), example(2)], [example(3)], folder, "id"):
        if epochs is not None and result.epoch >= epochs:
            break
    return training


def scene(seed: int, config: TrainConfig) -> Example:
    """A made scene whose lower half is road, number 3, below a strip that is void."""
    rng = np.random.default_rng(seed)
    labels = np.full((32, 32), 5, np.uint32)
    labels[16:], labels[14:16] = 3, 11
    pixels = (np.repeat(labels[None] * 20, 3, axis=0) + rng.integers(0, 30, (3, 32, 32))).astype(np.uint8)
    case = Case(f"c{seed}", Path(f"c{seed}.png"), f"c{seed}.png", mask_kind="classes")
    return Example(case, pixels, understood(case, labels, config), fit(pixels, config.prepare, stride=16))


def test_what_is_frozen_stays_and_what_is_unfrozen_learns(tmp_path: Path) -> None:
    """Phase one trains the decoder alone, phase two the deepest level too; frozen BatchNorm keeps its statistics."""
    before = {name: value.clone() for name, value in start_training(TWO, "cpu").network.state_dict().items()}
    first = train(tmp_path / "first", TWO, epochs=2)
    changed = {name for name, value in first.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("down.")}
    both = train(tmp_path / "both", TWO)
    changed = {name for name, value in both.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(("down.0", "down.1"))}
    assert both.progress.epoch == 4 and both.progress.phase == 1 and both.progress.phase_epoch == 2
    assert [h["lr"] for h in both.progress.history] == [2e-3, 2e-3, 1e-4, 1e-4]


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_resume_keeps_the_phase(tmp_path: Path, stopped_after: int) -> None:
    """Stopped within a phase or right between two: bit for bit the undisturbed training."""
    whole = train(tmp_path / "whole", TWO)
    train(tmp_path / "parts", TWO, epochs=stopped_after)
    resumed = train(tmp_path / "parts", TWO, resume=True)
    assert resumed.progress.epoch == 4 and resumed.progress.phase == 1
    pairs = zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["adam", "sgd", "rmsprop"])
def test_every_optimiser_resumes(tmp_path: Path, kind: str) -> None:
    """Moments and momenta are in the checkpoint; the reduced rate of a plateau follows from the history."""
    changes = {"optimiser": {"kind": kind, "lr": 1e-3}, "schedule": {"kind": "plateau", "patience": 0}}
    config = TrainConfig.model_validate(CONFIG.model_dump() | changes)
    whole = train(tmp_path / "whole", config)
    train(tmp_path / "parts", config, epochs=1)
    resumed = train(tmp_path / "parts", config, resume=True)
    pairs = zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)
    assert whole.progress.epoch == 3 and all(torch.equal(a, b) for a, b in pairs)


def test_a_phase_ends_when_its_patience_does(tmp_path: Path) -> None:
    """With a rate of next to nothing: the first phase stops after 1 + 1 epochs, the second after its patience of 1."""
    phases = (Phase(epochs=9, lr=1e-12, patience=1), Phase(epochs=9, lr=1e-12, patience=1))
    stopping = EarlyStopping(watch="score")
    training = train(tmp_path, CONFIG.model_copy(update={"phases": phases, "ema": 0.0, "stopping": stopping}))
    assert training.progress.phase == 1 and training.progress.phase_epoch == 2 and training.progress.epoch == 3


def test_the_last_convolution_of_vgg_is_really_unfrozen() -> None:
    """`features.34` alone of the encoder: 2,359,808 parameters, with gradients; the rest of the encoder has none."""
    phases = (Phase(epochs=1, lr=1e-4), Phase(epochs=1, lr=1e-5, unfreeze=("features.34.*",)))
    config = TrainConfig(network=VGG19UNet(filters=(4, 4, 4, 4), out_channels=3), freeze=("features.*",), phases=phases)
    network = start_training(config, "cpu").network
    encoder = [parameter for name, parameter in network.named_parameters() if name.startswith("features.")]
    assert not any(parameter.requires_grad for parameter in encoder)
    freeze_for_phase(network, config, 1)
    network(torch.rand(1, 3, 32, 32)).square().sum().backward()
    check_gradients(network, config, 1)
    assert sum(p.numel() for p in encoder if p.requires_grad) == 2_359_808
    assert [p.shape for p in encoder if p.grad is not None] == [(512, 512, 3, 3), (512,)]


def test_the_pretrained_config_is_the_guides() -> None:
    """Everything the guide says of its training stands in configs/vgg19-pretrained.yaml; phases: see the test below."""
    config = load_config(TrainConfig, PRETRAINED)
    assert config.pretrained == "imagenet" and config.prepare.size == FixedSize(height=224, width=224)
    assert config.augmentation == SceneAugmentation(flip=(0.75, 0.75), brightness=0.4, contrast=0.4)
    assert config.validation == RandomFraction(fraction=0.2, seed=42) and config.seed == 42
    assert (config.batch_size, config.optimiser, config.schedule) == (16, Adam(lr=1e-4), Constant())
    assert (config.loss, config.stopping.watch, config.film, config.ema, config.clip) == (BCE(), "loss", True, 0.0, 0.0)


@pytest.mark.parametrize("kind", ["vgg19_unet", "mobilenet_unet"])
def test_divided_by_255_a_published_encoder_sees_what_imagenets_transform_makes(kind: str) -> None:
    """Every value of uint8: (x / 255 - mean) / deviation reaches the first layer, whatever the image; none is cut."""
    prepare = load_config(TrainConfig, PRETRAINED, ("prepare.size={kind: native}",)).prepare
    pixels = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 8, 32), (3, 1, 1))
    values = torch.from_numpy(fit(pixels, prepare, stride=8).apply(pixels))[None]
    found = unet.build(kind, in_channels=3, out_channels=1, filters=(4, 4, 4, 4)).normalise(values)[0].numpy()
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    np.testing.assert_allclose(found, (pixels / 255 - mean) / deviation, atol=1e-6)


@pytest.mark.slow
def test_the_pretrained_config_runs_both_its_phases(tmp_path: Path) -> None:
    """configs/vgg19-pretrained.yaml at full width, one step a phase, from a made file of all of the encoder's tensors.

    In phase one the encoder stays the file's; in phase two features.34 alone of it changes, 2,359,808 parameters.
    """
    made = {f"features.{name}": value for name, value in vgg19_features().state_dict().items()}
    torch.save({**made, "classifier.0.bias": torch.zeros(4096)}, tmp_path / "made.pth")
    small = ("prepare.size={kind: fixed, height: 32, width: 32}", f"pretrained={tmp_path / 'made.pth'}")
    config = load_config(TrainConfig, PRETRAINED, small)
    assert [(p.epochs, p.lr, p.patience, p.minimum_epochs) for p in config.phases] == [
        (200, 1e-4, 20, 10),
        (100, 1e-5, 10, 0),
    ]
    short = tuple(p.model_copy(update={"epochs": 1, "minimum_epochs": 0}) for p in config.phases)
    config = config.model_copy(update={"phases": short})
    changed = []
    training = start_training(config, "cpu")
    assert sum(p.numel() for p in training.network.parameters()) == 31_164_865
    assert set(training.pretrained["taken"]) == set(made)
    examples = [scene(number, config) for number in range(3)]
    for result in run_training(training, examples[:2], examples[2:], tmp_path / "kept", "id"):
        state = training.network.state_dict()
        changed.append({name for name, value in made.items() if not torch.equal(state[name], value)})
        assert np.isfinite(result.metrics["train_loss"])
    assert changed == [set(), {"features.34.weight", "features.34.bias"}]
    assert sum(made[name].numel() for name in changed[1]) == 2_359_808
    assert [h["lr"] for h in training.progress.history] == [1e-4, 1e-5]
    shutil.rmtree(tmp_path)  # half a gigabyte of checkpoint


def test_what_does_not_learn_is_not_called_unfrozen() -> None:
    """Any parameter that is unfrozen and gets no gradient stops the training; a frozen one with a gradient does too."""
    phases = (Phase(epochs=1, lr=1e-4, unfreeze=("head.*",)),)
    config = CONFIG.model_copy(update={"phases": phases})
    network = start_training(config, "cpu").network
    with pytest.raises(TrainingError, match=r"unfreeze head\.\*: head\.weight: got no gradient"):
        check_gradients(network, config, 0)
    network(torch.rand(1, 3, 16, 16)).sum().backward()
    check_gradients(network, config, 0)
    network.head.bias.grad = None
    with pytest.raises(TrainingError, match=r"unfreeze head\.\*: head\.bias: got no gradient"):
        check_gradients(network, config, 0)
    network.head.weight.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"head\.weight: got a gradient"):
        check_gradients(network, config, 0)


def test_patterns_that_match_nothing_are_refused() -> None:
    """A typing error in `freeze` is not a training of everything."""
    with pytest.raises(TrainingError, match=r"freeze: got 'encoder\.\*', which no parameter is called"):
        start_training(CONFIG.model_copy(update={"freeze": ("encoder.*",)}), "cpu")


def test_frozen_batchnorm_alone_rests() -> None:
    """In training mode a frozen BatchNorm evaluates, another trains."""
    network = start_training(CONFIG.model_copy(update={"freeze": ("down.0.*",)}), "cpu").network.train()
    rest_frozen_statistics(network)
    assert not network.down[0][1].training and network.down[1][1].training
