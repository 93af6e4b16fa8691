"""Optimisers are torch's, the learning rate is a function of where the training stands."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.config import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    OptimiserConfig,
    Plateau,
    Polynomial,
    RMSprop,
    Step,
    TrainConfig,
    build_config,
)
from pipeline.errors import ConfigError
from pipeline.shipped import FOLDER
from pipeline.training.optimise import Stand, build_optimiser, learning_rate


def test_cosine_warms_up_and_falls() -> None:
    """Linear to the configured rate, then half a cosine down to the floor."""
    rates = [learning_rate(Cosine(), 0.002, Stand(step, step / 1000)) for step in range(1001)]
    assert rates[0] == pytest.approx(0.002 / 100, rel=1e-3)
    assert max(rates) == pytest.approx(0.002, rel=0.03) and int(np.argmax(rates)) in range(95, 105)
    assert rates[1000] == pytest.approx(0.01 * 0.002)
    assert all(a >= b for a, b in pairwise(rates[100:]))


def test_constant_step_and_polynomial_by_hand() -> None:
    """The rate itself; a tenth after every second epoch; (1 - done)^.9, and 0 at the end however late."""
    assert learning_rate(Constant(), 0.5, Stand(99, 0.9)) == 0.5
    stepped = [learning_rate(Step(every=2), 1.0, Stand(0, 0, epoch)) for epoch in range(5)]
    assert stepped == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert learning_rate(Polynomial(), 1.0, Stand(0, 0.75)) == pytest.approx(0.25**0.9)
    assert learning_rate(Polynomial(), 1.0, Stand(0, 1.2)) == 0


@given(st.lists(st.floats(0.01, 10), max_size=40), st.integers(0, 4))
def test_plateau_is_torchs(losses: list[float], patience: int) -> None:
    """After any history the rate is what ReduceLROnPlateau has come to, though nothing of it was stored."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=patience, eps=0)
    for loss in losses:
        theirs.step(loss)
    history = [{"val_loss": loss, "val_map": 0.5} for loss in losses]
    ours = learning_rate(Plateau(patience=patience, watch="loss"), 1.0, Stand(0, 0, 0, history))
    assert ours == pytest.approx(optimiser.param_groups[0]["lr"])


def test_plateau_has_a_floor_and_may_watch_the_score() -> None:
    """Two epochs without a higher score halve the rate, again and again, but not below a tenth."""
    history = [{"val_map": 0.5, "val_loss": 1.0 / (n + 1)} for n in range(20)]
    falling = Plateau(patience=1, floor=0.1, watch="score")
    rates = [learning_rate(falling, 1.0, Stand(0, 0, n, history[:n])) for n in (0, 1, 2, 3, 5, 20)]
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.25, 0.1]
    assert learning_rate(Plateau(patience=1, watch="loss"), 1.0, Stand(0, 0, 20, history)) == 1.0
    of_classes = [{"val_dice": 0.5, "val_loss": 1.0} for _ in range(3)]
    assert learning_rate(falling, 1.0, Stand(0, 0, 3, of_classes)) == 0.5


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (Adam(lr=0.1), lambda p: torch.optim.Adam(p, 0.1, eps=1e-7)),
        (AdamW(lr=0.1, weight_decay=0.3), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3)),
        (
            SGD(lr=0.1, momentum=0.99, nesterov=True, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, 0.1, 0.99, nesterov=True, weight_decay=0.1),
        ),
        (RMSprop(lr=0.1, momentum=0.5), lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9, momentum=0.5)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_optimisers_are_torchs(config: OptimiserConfig, theirs: object) -> None:
    """Three steps on x^2 from 1 end where torch's own end; a frozen parameter stays where it is."""
    ends = []
    for make in (lambda p: build_optimiser(config, p), theirs):
        learns, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
        optimiser = make([learns, frozen])
        for _ in range(3):
            optimiser.zero_grad()
            (learns**2 + frozen).sum().backward()
            optimiser.step()
        assert torch.equal(frozen, torch.ones(3))
        ends.append(learns.detach())
    torch.testing.assert_close(*ends)
    assert ends[0].max() < 1


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"network": {"kind": "vgg19_unet"}}, "out_channels is 1; target separated takes 3"),
        ({"prepare": {"channels": 1}}, "in_channels is 3, prepare.channels 1"),
        ({"validate_every": 5}, "every epoch is validated, and always was; leave it out"),
        ({"loss": {"kind": "cross_entropy"}}, "cross_entropy is not for target separated, whose classes may overlap"),
        (
            {"loss": {"kind": "bce"}, "target": {"kind": "three_class"}},
            "bce is not for target three_class, whose classes exclude each other",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tree: dict[str, object], said: str) -> None:
    """Network, target, channels and loss have to agree before anything is read or trained."""
    with pytest.raises(ConfigError, match=said):
        build_config(TrainConfig, tree, "config")


def test_configs_choose_by_kind() -> None:
    """`kind:` names the loss, the optimiser and the schedule; old names of fields still do what they did."""
    tree = {
        "initial": "random",
        "validate_every": 1,
        "target": {"kind": "three_class"},
        "loss": {"kind": "dice_ce", "classes": [1, 2, 1]},
        "optimiser": {"kind": "sgd", "lr": 0.1},
        "schedule": {"kind": "plateau"},
    }
    config = build_config(TrainConfig, tree, "config")
    assert config.pretrained == "none" and config.optimiser == SGD(lr=0.1) and config.schedule == Plateau()
    assert config.plan[0].lr == 0.1 and config.plan[0].epochs == 300


def test_the_config_that_the_shipped_model_was_trained_with_is_still_read() -> None:
    """Its record is of a time when `pretrained` was `initial` and `validate_every` stood in every config."""
    record = json.loads((FOLDER / "nuclei" / "model.json").read_text(encoding="utf-8"))
    made_with = record["provenance"]["config"]
    config = build_config(TrainConfig, made_with, "record")
    assert config.name == "nuclei" and config.pretrained == "imagenet" and config.epochs == made_with["epochs"]
