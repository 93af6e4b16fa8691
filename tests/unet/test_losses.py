"""Dice + BCE against arithmetic and against MONAI."""

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from unet.losses import DiceBCELoss

LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
TARGET = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_each_term_is_the_published_one() -> None:
    """With one weight at 0 the loss is BCE alone, or MONAI's batch Dice with squared predictions alone."""
    bce = F.binary_cross_entropy_with_logits(LOGITS, TARGET)
    dice = DiceLoss(sigmoid=True, squared_pred=True, batch=True)(LOGITS, TARGET)
    assert torch.isclose(DiceBCELoss(dice=0, bce=1)(LOGITS, TARGET), bce)
    assert torch.isclose(DiceBCELoss(dice=1, bce=0)(LOGITS, TARGET), dice)
    assert torch.isclose(DiceBCELoss(dice=2, bce=3)(LOGITS, TARGET), 2 * dice + 3 * bce)


def test_channel_weights_choose_channels() -> None:
    """A weight of 0 takes a channel out; weights are relative."""
    logits, target = torch.cat([LOGITS, -LOGITS], 1), torch.cat([TARGET, TARGET], 1)
    assert torch.isclose(DiceBCELoss(channels=(5, 0))(logits, target), DiceBCELoss()(LOGITS, TARGET))


def test_soft_target_has_its_minimum_at_itself() -> None:
    """For a distance of 0.3 the loss is lowest where the sigmoid says 0.3."""
    target = torch.full((1, 1, 4, 4), 0.3)
    values = [DiceBCELoss()(torch.full_like(target, v).logit(), target).item() for v in (0.2, 0.3, 0.4)]
    assert values[1] < values[0] and values[1] < values[2]


def test_softmax_head_is_cross_entropy() -> None:
    """With classes that exclude each other the BCE term is cross-entropy."""
    logits, classes = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 4).long()
    target = F.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    assert torch.isclose(DiceBCELoss(dice=0, softmax=True)(logits, target), F.cross_entropy(logits, classes))


def test_deep_supervision_weighs_levels_by_halves() -> None:
    """Two levels: (1 * fine + 1/2 * coarse) / 1.5, the target averaged down."""
    loss, coarse = DiceBCELoss(), torch.tensor([[[[0.7]]]])
    expected = (loss(LOGITS, TARGET) + 0.5 * loss(coarse, TARGET.mean((2, 3), keepdim=True))) / 1.5
    assert torch.isclose(loss([LOGITS, coarse], TARGET), expected)


@pytest.mark.parametrize("head", [False, True])
def test_gradients_reach_the_logits(head: bool) -> None:
    """Perfect agreement is not needed for a finite gradient: an empty target trains too."""
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    DiceBCELoss(softmax=head)(logits, torch.zeros(1, 2, 4, 4)).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
