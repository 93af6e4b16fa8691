"""The losses against arithmetic, torch and MONAI."""

from typing import get_args

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from torch.nn import functional as F

from pipeline.config import LossConfig
from unet.losses import Loss, build_loss, class_planes, coarser, loss_kinds

LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
TARGET = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
RANDOM = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(1))
CONFIGS = {config.model_fields["kind"].default: config for config in get_args(get_args(LossConfig)[0])}


def make(kind: str, softmax: bool = False, **changes: object) -> Loss:
    parameters = CONFIGS[kind]().loss_parameters() | changes
    return build_loss(kind, softmax=softmax, **parameters)


def planes(classes: torch.Tensor, number: int = 3) -> torch.Tensor:
    return F.one_hot(classes, number).movedim(-1, 1).float()


def test_every_loss_is_configured_and_every_config_is_a_loss() -> None:
    """The config's union and the table of losses name the same kinds."""
    assert set(CONFIGS) == set(loss_kinds())
    with pytest.raises(KeyError):
        build_loss("unknown", softmax=False)


def test_binary_cross_entropy_by_hand() -> None:
    """At logit 0 a pixel costs log 2 whatever it is; with positive weight 3 a foreground pixel costs three."""
    zeros = torch.zeros(1, 1, 2, 2)
    assert make("bce")(zeros, TARGET).item() == pytest.approx(0.693147, abs=1e-6)
    assert make("weighted_bce", positive=3.0)(zeros, TARGET).item() == pytest.approx(2 * 0.693147, abs=1e-6)
    assert torch.isclose(make("bce")(LOGITS, TARGET), F.binary_cross_entropy_with_logits(LOGITS, TARGET))


def test_each_term_of_dice_and_bce_is_the_published_one() -> None:
    """With one weight at 0 the loss is BCE alone, or MONAI's batch Dice with squared predictions alone."""
    bce = F.binary_cross_entropy_with_logits(LOGITS, TARGET)
    dice = DiceLoss(sigmoid=True, squared_pred=True, batch=True)(LOGITS, TARGET)
    assert torch.isclose(make("dice_bce", dice=0.0)(LOGITS, TARGET), bce)
    assert torch.isclose(make("dice_bce", bce=0.0)(LOGITS, TARGET), dice)
    assert torch.isclose(make("dice")(LOGITS, TARGET), dice)
    assert torch.isclose(make("dice_bce", dice=2.0, bce=3.0)(LOGITS, TARGET), 2 * dice + 3 * bce)


def test_dice_by_hand() -> None:
    """Half the foreground found and nothing else: 2 * 1 / (1 + 2) of Dice, so the loss is a third."""
    sure = torch.tensor([[[[50.0, -50.0], [-50.0, -50.0]]]])
    assert make("dice")(sure, TARGET).item() == pytest.approx(1 / 3, abs=1e-4)


def test_channel_weights_choose_channels() -> None:
    """A weight of 0 takes a channel out; weights are relative."""
    logits, target = torch.cat([LOGITS, -LOGITS], 1), torch.cat([TARGET, TARGET], 1)
    for kind in ("bce", "dice", "dice_bce", "focal", "tversky", "border_weighted", "size_weighted"):
        alone = make(kind)(LOGITS, TARGET)
        assert torch.isclose(make(kind, channels=(5.0, 0.0))(logits, target), alone), kind


def test_soft_target_has_its_minimum_at_itself() -> None:
    """For a distance of 0.3 the loss is lowest where the sigmoid says 0.3."""
    target = torch.full((1, 1, 4, 4), 0.3)
    values = [make("dice_bce")(torch.full_like(target, v).logit(), target).item() for v in (0.2, 0.3, 0.4)]
    assert values[1] < values[0] and values[1] < values[2]


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5)])
def test_cross_entropy_is_torchs(weights: tuple[float, ...]) -> None:
    """Of class numbers or of planes, with class weights, with pixels that are ignored."""
    weight = torch.tensor(weights) if weights else None
    loss = make("cross_entropy", softmax=True, classes=weights)
    expected = F.cross_entropy(RANDOM, CLASSES, weight)
    assert torch.isclose(loss(RANDOM, CLASSES), expected) and torch.isclose(loss(RANDOM, planes(CLASSES)), expected)
    holes = CLASSES.clone()
    holes[:, 1:3, 2:] = 255
    expected = F.cross_entropy(RANDOM, holes, weight, ignore_index=255)
    assert torch.isclose(loss(RANDOM, holes.to(torch.uint8)), expected)


def test_softmax_heads_have_cross_entropy_for_bce() -> None:
    """With classes that exclude each other the BCE of Dice + BCE is cross-entropy, and Dice + CE is the same sum."""
    assert torch.isclose(make("dice_bce", True, dice=0.0)(RANDOM, planes(CLASSES)), F.cross_entropy(RANDOM, CLASSES))
    assert torch.isclose(make("dice_bce", True)(RANDOM, planes(CLASSES)), make("dice_ce", True)(RANDOM, CLASSES))


def test_ignored_pixels_are_as_if_they_were_not_there() -> None:
    """Dice + CE of an image with an ignored half is that of the other half alone, whatever the logits say there."""
    holes = CLASSES.clone()
    holes[:, 2:] = 255
    changed = RANDOM.clone()
    changed[:, :, 2:] += 7
    loss = make("dice_ce", softmax=True)
    assert torch.isclose(loss(changed, holes), loss(RANDOM[:, :, :2], CLASSES[:, :2]))


def test_everything_ignored_is_no_loss() -> None:
    """A crop without a single labelled pixel gives a finite loss and no gradient."""
    logits = RANDOM.clone().requires_grad_()
    make("cross_entropy", softmax=True)(logits, torch.full((2, 4, 6), 255)).backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("softmax", [False, True])
def test_focal_is_monais(softmax: bool) -> None:
    """gamma 2; and with gamma 0 it is the entropy itself."""
    target = planes(CLASSES)
    expected = FocalLoss(gamma=2.0, use_softmax=softmax)(RANDOM, target)
    assert torch.isclose(make("focal", softmax)(RANDOM, target), expected)
    if not softmax:
        assert torch.isclose(make("focal", gamma=0.0)(RANDOM, target), make("bce")(RANDOM, target))


def test_tversky_is_monais_and_dice_between() -> None:
    """alpha weighs false positives, beta false negatives."""
    target = planes(CLASSES)
    for alpha, beta in ((0.3, 0.7), (0.5, 0.5)):
        expected = TverskyLoss(softmax=True, alpha=alpha, beta=beta, batch=True)(RANDOM, target)
        assert torch.isclose(make("tversky", True, alpha=alpha, beta=beta)(RANDOM, target), expected)
    plain = DiceLoss(softmax=True, batch=True)(RANDOM, target)
    assert torch.isclose(make("tversky", True, alpha=0.5, beta=0.5)(RANDOM, target), plain, atol=1e-4)


@pytest.mark.parametrize("softmax", [False, True])
def test_border_weights_weigh_pixels(softmax: bool) -> None:
    """The weighted mean of the pixels' own losses; all weights alike, it is the plain one."""
    target, pixels = planes(CLASSES), torch.rand(2, 1, 4, 6) + 0.5
    loss = make("border_weighted", softmax)
    if softmax:
        each = F.cross_entropy(RANDOM, CLASSES, reduction="none")[:, None]
    else:
        each = F.binary_cross_entropy_with_logits(RANDOM, target, reduction="none").mean(1, keepdim=True)
    assert torch.isclose(loss(RANDOM, target, pixels), (each * pixels).sum() / pixels.sum())
    assert torch.isclose(loss(RANDOM, target, torch.full_like(pixels, 3.0)), loss(RANDOM, target))


@pytest.mark.parametrize("softmax", [False, True])
def test_size_weights_weigh_both_terms(softmax: bool) -> None:
    """A pixel of weight 2 is two pixels, to Dice and to the entropy; all weights alike, it is Dice + BCE."""
    target, pixels = planes(CLASSES), torch.ones(2, 1, 4, 6)
    loss = make("size_weighted", softmax)
    assert torch.isclose(loss(RANDOM, target, 3 * pixels), make("dice_bce", softmax)(RANDOM, target), atol=1e-5)
    pixels[..., 3:] = 2
    twice = [torch.cat([values, values[..., 3:]], dim=-1) for values in (RANDOM, target)]
    assert torch.isclose(loss(RANDOM, target, pixels), make("dice_bce", softmax)(*twice), atol=1e-5)


def test_deep_supervision_weighs_levels_by_halves() -> None:
    """Two levels: (1 * fine + 1/2 * coarse) / 1.5, the target averaged down."""
    loss, coarse = make("dice_bce"), torch.tensor([[[[0.7]]]])
    expected = (loss(LOGITS, TARGET) + 0.5 * loss(coarse, TARGET.mean((2, 3), keepdim=True))) / 1.5
    assert torch.isclose(loss([LOGITS, coarse], TARGET), expected)


@pytest.mark.parametrize("kind", loss_kinds())
@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6)], ids=["images", "volumes"])
def test_every_loss_takes_levels_and_volumes_and_gives_gradients(kind: str, shape: tuple[int, ...]) -> None:
    """Three levels of which one is coarser, 2-D and 3-D, with weights: finite, and every logit has a say."""
    softmax = kind in ("cross_entropy", "dice_ce")
    fine, middle, coarse = (torch.randn(2, 3, *s) for s in (shape, shape, tuple(side // 2 for side in shape)))
    levels = [level.requires_grad_() for level in (fine, middle, coarse)]
    classes = torch.randint(0, 3, (2, *shape))
    value = make(kind, softmax)(levels, planes(classes), torch.ones(2, 1, *shape))
    assert torch.isclose(value, make(kind, softmax)(levels, planes(classes)))
    value.backward()
    assert all(level.grad is not None and torch.isfinite(level.grad).all() for level in levels)
    assert all(level.grad.abs().flatten(2).sum(2).all() for level in levels if level.grad is not None)


def test_coarse_targets_are_the_mean_of_what_counts() -> None:
    """Of four pixels one is ignored: the coarse target is the mean of three, its weight three quarters."""
    target, pixels = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    down, weight = coarser(target, pixels, torch.Size((1, 1)))
    assert weight is not None and down.item() == pytest.approx(2 / 3) and weight.item() == 0.75


def test_one_class_is_the_plane_of_number_one() -> None:
    """A binary label image of 0, 1 and 255 for a single output channel."""
    found, weights = class_planes(torch.tensor([[[0, 1, 255]]]), 1, 255, None)
    assert found.flatten().tolist() == [0, 1, 0] and weights.flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize("softmax", [False, True])
def test_an_empty_target_trains_too(softmax: bool) -> None:
    """Perfect agreement is not needed for a finite gradient."""
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    make("dice_bce", softmax)(logits, torch.zeros(1, 2, 4, 4)).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
