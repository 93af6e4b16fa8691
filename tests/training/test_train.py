"""The training loop: repeatable, resumable bit for bit, stopped cleanly, learning something."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_examples import CONFIG, example

from pipeline.config import (
    CropSampling,
    EarlyStopping,
    FixedSize,
    MaskTarget,
    PrepareConfig,
    TrainConfig,
    WholeSampling,
)
from pipeline.errors import TrainingError
from pipeline.training.dataset import CropDataset, build_dataset, draw_weights, merged_target
from pipeline.training.train import (
    Training,
    resume_training,
    run_training,
    start_training,
)
from pipeline.training.validate import answers, tune_thresholds, usual_thresholds, validate


def train(
    folder: Path, config: TrainConfig = CONFIG, epochs: int | None = None, resume: bool = False, device: str = "cpu"
) -> Training:
    training = start_training(config, device)
    if resume:
        resume_training(training, folder, "id")
    results = run_training(training, [example(1), example(2)], [example(3)], folder, "id")
    for result in results:
        if epochs is not None and result.epoch >= epochs:
            break
    return training


def same(a: Training, b: Training) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    more = zip(a.average.state_dict().values(), b.average.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in (*pairs, *more))


def test_two_trainings_are_the_same_and_another_seed_is_not(tmp_path: Path) -> None:
    """Bit for bit on the CPU."""
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    other = train(tmp_path / "c", CONFIG.model_copy(update={"seed": 1}))
    assert first.progress.epoch == 3 and same(first, second) and not same(first, other)


@pytest.mark.gpu
def test_two_deterministic_trainings_on_a_gpu_are_the_same(tmp_path: Path) -> None:
    """Bit for bit, with the switch."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config = CONFIG.model_copy(update={"deterministic": True})
    try:
        assert same(train(tmp_path / "a", config, device="cuda"), train(tmp_path / "b", config, device="cuda"))
    finally:
        torch.use_deterministic_algorithms(False)


def test_resume_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Stopped after one epoch and resumed: weights, averages, best and history are those of an undisturbed run."""
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", epochs=1)
    resumed = train(tmp_path / "parts", resume=True)
    assert resumed.progress.epoch == 3 and same(whole, resumed)
    assert all(torch.equal(whole.best[name], resumed.best[name]) for name in whole.best)
    for key in ("train_loss", "val_loss", "val_map", "lr"):
        assert [h[key] for h in whole.progress.history] == [h[key] for h in resumed.progress.history]


def test_resume_refuses_another_config_and_damage(tmp_path: Path) -> None:
    """A checkpoint belongs to one config and one data set; a damaged or missing one is named."""
    train(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="another config"):
        resume_training(start_training(CONFIG, "cpu"), tmp_path, "other")
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TrainingError, match="no usable checkpoint"):
        resume_training(start_training(CONFIG, "cpu"), tmp_path, "id")
    with pytest.raises(TrainingError, match=r"no usable checkpoint.*leave --resume out"):
        resume_training(start_training(CONFIG, "cpu"), tmp_path / "none", "id")


def test_resume_refuses_other_bytes(tmp_path: Path) -> None:
    """A checkpoint whose weights still load, but are not those that were written, is damaged."""
    train(tmp_path, epochs=1)
    weights = next(tmp_path.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TrainingError, match=r"a damaged checkpoint.*another --out"):
        resume_training(start_training(CONFIG, "cpu"), tmp_path, "id")


def test_resume_refuses_another_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`precision: auto` that came to bfloat16 does not go on in float32; a checkpoint that does not say goes on."""
    monkeypatch.setattr("pipeline.training.precision.processor_has_bfloat16", lambda: True)
    train(tmp_path, epochs=1)
    monkeypatch.setattr("pipeline.training.precision.processor_has_bfloat16", lambda: False)
    with pytest.raises(TrainingError, match="a training in bfloat16, wanted float32"):
        resume_training(start_training(CONFIG, "cpu"), tmp_path, "id")
    path = tmp_path / "checkpoint.json"
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "precision"}
    path.write_text(json.dumps(old))
    training = start_training(CONFIG, "cpu")
    resume_training(training, tmp_path, "id")
    assert training.progress.epoch == 1


def test_patience_stops_and_best_is_kept(tmp_path: Path) -> None:
    """With a learning rate of next to nothing the first epoch stays the best; patience 1 ends it after the second."""
    frozen = {"optimiser": {"kind": "adam", "lr": 1e-12}, "stopping": {"patience": 1, "minimum_epochs": 0}, "epochs": 9}
    config = TrainConfig.model_validate({**CONFIG.model_dump(), **frozen, "network": CONFIG.network, "ema": 0.0})
    config = config.model_copy(update={"stopping": EarlyStopping(patience=1, minimum_epochs=0, watch="score")})
    training = train(tmp_path, config)
    assert training.progress.best_epoch == 0 and training.progress.epoch == 2


def test_time_budget_stops_within_an_epoch(tmp_path: Path) -> None:
    """A budget that is over at once still gives one validated epoch of one step."""
    training = start_training(CONFIG.model_copy(update={"epochs": 50}), "cpu", budget=0.01)
    training.progress.elapsed = 0.0
    results = list(run_training(training, [example(1)], [example(3)], tmp_path, "id"))
    assert len(results) == 1 and training.progress.step == 1 and training.best


def test_it_learns(tmp_path: Path) -> None:
    """Bright discs on dark: after some epochs the foreground's Dice passes .8 on an image it has not seen."""
    config = CONFIG.model_copy(
        update={"epochs": 40, "sampling": CropSampling(size=64, per_epoch=12), "batch_size": 4, "ema": 0.8}
    )
    training = train(tmp_path, config)
    assert max(h["val_dice"] for h in training.progress.history) > 0.8
    assert training.progress.history[-1]["train_loss"] < 0.9 * training.progress.history[0]["train_loss"]


def test_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    """A learning rate far too high ends in an error, not in a model of NaN."""
    config = CONFIG.model_copy(update={"epochs": 30, "clip": 0.0})
    training = start_training(config, "cpu")
    with torch.no_grad():
        next(training.network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite"):
        list(run_training(training, [example(1)], [example(3)], tmp_path, "id"))


def test_sampler_balances_modalities() -> None:
    """One stained image among nine: drawn for a tenth of the samples unbalanced, for half with balance 1."""
    examples = [example(i, modality="stained" if i == 0 else "fluorescence") for i in range(10)]
    assert draw_weights(examples, 0.0)[0] == pytest.approx(0.1)
    assert draw_weights(examples, 1.0)[0] == pytest.approx(0.5)
    data = CropDataset(examples, CONFIG, CropSampling(size=16, per_epoch=2000, balance=1.0))
    assert 0.45 < np.mean(data.chosen == 0) < 0.55


def test_epochs_differ_and_order_of_asking_does_not_matter() -> None:
    """Sample 4 of epoch 1 is the same whether or not others were drawn before."""
    data = build_dataset([example(1), example(2)], CONFIG)
    data.start_epoch(1)
    first = data[4]["image"]
    data.start_epoch(0)
    other = data[4]["image"]
    data.start_epoch(1)
    _ = data[0], data[1]
    assert torch.equal(first, data[4]["image"]) and not torch.equal(first, other)


def test_literal_target_is_the_union_of_each_mask_resized() -> None:
    """The guide resizes every mask with anti-aliasing and takes what is not zero: the shortcut gives the same."""
    from skimage.transform import resize

    labels = example(5).labels
    brute = np.zeros((24, 24), bool)
    for number in range(1, int(labels.max()) + 1):
        one = resize((labels == number) * 255.0, (24, 24), mode="constant", preserve_range=True, anti_aliasing=True)
        brute |= one > 0
    assert brute.any() and not brute.all()
    np.testing.assert_array_equal(merged_target(labels, (24, 24), MaskTarget(merge="literal"))[0] > 0, brute)
    clean = merged_target(labels, (24, 24), MaskTarget(merge="clean"))[0].mean()
    assert clean == pytest.approx((labels > 0).mean(), rel=0.1) and brute.mean() > 1.2 * clean


def test_whole_images_need_a_fixed_size() -> None:
    """Images of different sizes cannot be one batch: said before training starts; the guide's target must be a mask."""
    with pytest.raises(TrainingError, match="fixed size"):
        build_dataset([example(1)], CONFIG.model_copy(update={"sampling": WholeSampling()}))
    fixed = CONFIG.model_copy(update={"sampling": WholeSampling(), "prepare": PrepareConfig(size=FixedSize())})
    with pytest.raises(TrainingError, match="mask, with a fixed size"):
        build_dataset([example(1, fixed)], fixed)
    data = build_dataset([example(1, fixed)], fixed.model_copy(update={"target": MaskTarget()}))
    assert data[0]["image"].shape == (3, 128, 128) and data[0]["target"].shape == (1, 128, 128)


def test_tuned_thresholds_are_no_worse_than_the_usual(tmp_path: Path) -> None:
    """On the images they are tuned on."""
    training = train(tmp_path)
    training.average.load_state_dict(training.best)
    found = list(answers(training.average, [example(3)], CONFIG, training.loss, "cpu"))
    usual = usual_thresholds(CONFIG.target)
    before = validate(training.average, [example(3)], CONFIG, usual, training.loss, "cpu")["val_map"]
    assert tune_thresholds(found, CONFIG.target)[1] >= before


def test_the_last_epoch_is_kept_where_the_config_says_so(tmp_path: Path) -> None:
    """However the scores go: a rate that makes nothing better. Patience, which would not be asked, is refused."""
    with pytest.raises(ValueError, match="patience and minimum_epochs mean nothing"):
        EarlyStopping(patience=1, watch="last")
    stopping = EarlyStopping(watch="last")
    still = CONFIG.optimiser.model_copy(update={"lr": 1e-12})
    training = train(tmp_path, CONFIG.model_copy(update={"stopping": stopping, "optimiser": still, "epochs": 4}))
    assert training.progress.epoch == 4 and training.progress.best_epoch == 3
    state = training.average.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in training.best.items())
