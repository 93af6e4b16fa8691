"""Batches that are augmented at once, on the device where the images lie, are those of the samples one by one."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import CONFIG, example
from monai.transforms.transform import MapTransform, Randomizable
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from pipeline.config import (
    BorderWeighted,
    ClassesTarget,
    CropSampling,
    Divide,
    LossConfig,
    MaskTarget,
    NoAugmentation,
    NucleiAugmentation,
    NucleiUNet,
    PrepareConfig,
    SeparatedTarget,
    SizeWeighted,
    Target,
    ThreeClassTarget,
    TrainConfig,
)
from pipeline.model.prepare import fit
from pipeline.model.targets import encode, touching_border
from pipeline.training import gaps, loader
from pipeline.training.batch_targets import batch_border, batch_distance, encode_batch
from pipeline.training.batched import BatchAugmentd, ResidentLoader, gaussian
from pipeline.training.dataset import CropDataset, Example
from pipeline.training.loader import EpochLoader, load_for

TURNED = NucleiAugmentation(rotate=False, scale=(1.0, 1.0), noise=0.0)  # nothing is resampled, nothing random by value
FREE = NucleiAugmentation(noise=0.0, stain=0.2, grey=0.3, tint=0.5, invert=0.3)


def config(augmentation: NucleiAugmentation | NoAugmentation, **other: object) -> TrainConfig:
    sampling = CropSampling(size=48, per_epoch=40)
    return CONFIG.model_copy(update={"augmentation": augmentation, "sampling": sampling, **other})


def coloured(seed: int, side: tuple[int, int] = (70, 50), dtype: type = np.uint8) -> Example:
    """An image of three unlike channels that is not square."""
    rng = np.random.default_rng(seed)
    labels = cv2.resize(rng.integers(0, 4, (7, 5)).astype(np.uint8), side[::-1], interpolation=cv2.INTER_NEAREST)
    smooth = cv2.GaussianBlur(rng.random((*side, 3)), (0, 0), 3)
    pixels = np.moveaxis(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), 2, 0).astype(dtype)  # type: ignore[call-overload]
    return Example(example(seed).case, pixels, labels.astype(np.uint32), fit(pixels, PrepareConfig(), stride=16))


def data(settings: TrainConfig, *more: Example) -> CropDataset:
    examples = (example(0, side=64), example(1, side=33), coloured(2), *more)
    assert isinstance(settings.sampling, CropSampling)
    return CropDataset(examples, settings, settings.sampling)


def both(crops: CropDataset, epoch: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All samples of an epoch, one by one and as one batch."""
    crops.start_epoch(epoch)
    each = [crops[index] for index in range(len(crops))]
    one = {key: torch.stack([sample[key] for sample in each]) for key in each[0]}
    batch = next(iter(ResidentLoader(crops, len(crops), "cpu").epoch(epoch)))
    return one, batch


@pytest.mark.parametrize("augmentation", [NoAugmentation(), TURNED])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_without_resampling_they_are_equal(augmentation: NucleiAugmentation | NoAugmentation, dtype: type) -> None:
    """Grey and colour, images smaller than the crop, mirrored; 8-bit and not: rounding of float32 alone differs."""
    one, batch = both(data(config(augmentation), coloured(3, dtype=dtype)))
    assert batch["image"].dtype == torch.float32 and batch["image"].shape == (40, 3, 48, 48)
    torch.testing.assert_close(batch["image"], one["image"], atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(batch["target"][:, :2], one["target"][:, :2], atol=0, rtol=0)
    assert (batch["target"][:, 2] - one["target"][:, 2]).abs().max() < 0.06  # OpenCV's distances are approximate


def test_resampled_ones_differ_by_rounding_alone() -> None:
    """Rotated and scaled: values within what OpenCV rounds (a grey level of 255, stretched), nearly all labels."""
    one, batch = both(data(config(FREE)))
    difference = (batch["image"] - one["image"]).abs()
    assert difference.mean() < 0.005 and difference.quantile(0.999) < 0.05
    assert (batch["target"][:, 0] != one["target"][:, 0]).float().mean() < 0.002
    assert (batch["target"][:, 2] - one["target"][:, 2]).abs().mean() < 0.01


def test_gaps_are_drawn_where_they_are_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In colour images, bright enough, and not on nuclei; a steep outline makes more of what float32 rounds."""
    crops = data(config(TURNED.model_copy(update={"gaps": 0.7})))
    one, batch = both(crops)
    torch.testing.assert_close(batch["image"], one["image"], atol=2e-3, rtol=1e-3)
    monkeypatch.setattr(gaps, "BRIGHT", 2.0)
    plain, _ = both(crops)
    changed = (one["image"] != plain["image"]).flatten(1).any(1)
    assert 3 < changed.sum() < 20


def test_pixels_of_small_objects_weigh_what_they_do_one_by_one() -> None:
    """The same map, some of it above 1; labels that are not resampled make it of the same areas."""
    one, batch = both(data(config(TURNED, loss=SizeWeighted(area=900.0))))
    assert one["weight"].shape == (40, 1, 48, 48) and one["weight"].max() > 1.5
    torch.testing.assert_close(batch["weight"], one["weight"], atol=0, rtol=1e-6)


def test_fluorescence_in_one_channel_fills_all_three() -> None:
    """What `Preparation.normalise` does with constant channels."""
    blue = coloured(4)
    pixels = blue.pixels.copy()
    pixels[:2] = 0
    alone = Example(blue.case, pixels, blue.labels, fit(pixels, PrepareConfig(), stride=16))
    one, batch = both(data(config(TURNED), alone))
    torch.testing.assert_close(batch["image"], one["image"], atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels: int) -> None:
    """One, and more than colours."""
    prepare = PrepareConfig(channels=channels, normalise=Divide())
    settings = config(TURNED, prepare=prepare, network=NucleiUNet(filters=(4, 8, 8), in_channels=channels))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (channels, 60, 70)).astype(np.uint8)
    labels = rng.integers(0, 3, (60, 70)).astype(np.uint32)
    assert isinstance(settings.sampling, CropSampling)
    made = Example(example(0).case, pixels, labels, fit(pixels, prepare, stride=16))
    one, batch = both(CropDataset([made], settings, settings.sampling))
    assert batch["image"].shape == (40, channels, 48, 48)
    torch.testing.assert_close(batch["image"], one["image"], atol=3e-5, rtol=1e-4)


def test_noise_has_the_deviation_that_was_drawn_and_is_the_same_again() -> None:
    """Its values are torch's: equal for equal seeds, whatever the batch; of the deviation that the CPU's have."""
    crops = data(config(NucleiAugmentation(rotate=False, scale=(1.0, 1.0), noise=0.2)))
    quiet = data(config(TURNED))
    one, batch = both(crops)
    plain, _ = both(quiet)
    wanted, found = ((each - plain["image"]).std((1, 2, 3)) for each in (one["image"], batch["image"]))
    assert (wanted > 1e-3).sum() >= 5
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0.05)
    small = torch.cat([part["image"] for part in ResidentLoader(crops, 7, "cpu").epoch(0)])
    torch.testing.assert_close(small, batch["image"], atol=1e-6, rtol=1e-6)


def test_epochs_differ_and_come_again() -> None:
    """Any epoch in any order; the last batch is smaller."""
    made = ResidentLoader(data(config(FREE)), 16, "cpu")
    first, second, again = (list(made.epoch(number)) for number in (0, 1, 0))
    assert len(made) == 3 and [len(batch["image"]) for batch in first] == [16, 16, 8]
    assert not torch.equal(first[0]["image"], second[0]["image"])
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["target"], other["target"])


CLASSES = ClassesTarget(names=("ground", "cell", "other"))
SCENE = ClassesTarget(names=("ground", "object"), trimap=0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(3, 24), st.integers(3, 24))
@settings(max_examples=60)
def test_targets_are_those_of_the_cpu(seed: int, size: int, height: int, width: int) -> None:
    """Blocks of objects of any size, also all foreground and none: borders exactly, distances as scipy has them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (2, -(-height // size), -(-width // size))) * rng.integers(0, 2, (2, 1, 1))
    labels = np.kron(coarse, np.ones((1, size, size), int))[:, :height, :width]
    batch = torch.from_numpy(labels.astype(np.int32))
    for number, plane in enumerate(labels):
        np.testing.assert_array_equal(batch_border(batch)[number].numpy(), touching_border(plane.astype(np.uint16)))
        np.testing.assert_allclose(batch_distance(batch)[number].numpy(), exact_distance(plane), atol=1e-5)
    targets: tuple[Target, ...] = (MaskTarget(), ThreeClassTarget(), CLASSES, SCENE)
    for target in targets:
        wanted = np.stack([encode(plane.astype(np.uint32), target) for plane in labels])
        np.testing.assert_array_equal(encode_batch(batch, target).numpy(), wanted)
    assert encode_batch(batch, SeparatedTarget()).shape == (2, 3, height, width)


def exact_distance(labels: np.ndarray) -> np.ndarray:
    """`own_distance`, by scipy: to the nearest pixel at an object's edge or outside, by the object's largest."""
    padded = np.pad(labels, 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    core = (middle > 0) & np.logical_and.reduce([middle == other for other in beside])
    far = sum(labels.shape)
    distance = (distance_transform_edt(core) if not core.all() else np.full(labels.shape, far)) + 1
    scaled = np.zeros(labels.shape)
    for value in np.unique(labels[labels > 0]):
        inside = labels == value
        scaled[inside] = distance[inside] / distance[inside].max()
    return scaled


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.5])
def test_the_blur_is_opencvs(sigma: float) -> None:
    """What it makes of a line, one pixel wide."""
    line = np.zeros((9, 41), np.float32)
    line[:, 20] = 1
    profile, kernel = cv2.GaussianBlur(line, (0, 0), sigma)[4], gaussian(sigma)
    reach = len(kernel) // 2
    np.testing.assert_allclose(profile[20 - reach : 21 + reach], kernel, atol=1e-6)
    assert profile[: 20 - reach].max() == 0


def test_it_is_a_monai_transform() -> None:
    """Dictionary in, dictionary out, drawing by `randomize`."""
    change = BatchAugmentd(data(config(FREE)), "cpu")
    assert isinstance(change, MapTransform) and isinstance(change, Randomizable)
    batch = change({"index": np.array([2, 0]), "seed": np.array([5, 6])})
    assert set(batch) == {"image", "target"} and len(batch["image"]) == 2


@pytest.mark.parametrize(
    ("augmentation", "loss", "able"),
    [
        (FREE, CONFIG.loss, True),
        (NoAugmentation(), CONFIG.loss, True),
        (NucleiAugmentation(elastic=3.0), CONFIG.loss, False),
        (NucleiAugmentation(touch=0.5), CONFIG.loss, False),
        (FREE, BorderWeighted(), False),
        (FREE, SizeWeighted(), True),
    ],
)
def test_a_gpu_makes_its_crops_where_it_can(
    augmentation: NucleiAugmentation | NoAugmentation,
    loss: LossConfig,
    able: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a change is made one by one, or the images do not fit, worker processes make the samples; on a CPU always
    this process does."""
    crops = data(config(augmentation, loss=loss))
    need = BatchAugmentd.bytes_needed(crops)
    assert need == (64**2 + 33**2 + 70 * 50) * (3 + 4)
    made: list[str] = []
    monkeypatch.setattr(loader, "ResidentLoader", lambda *given: made.append(given[2]))
    for free in (2 * need + 2, 2 * need):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        load_for("cuda:0", crops, 2)
    assert made == (["cuda:0"] if able else [])
    assert isinstance(load_for("cpu", crops, 2), EpochLoader)


@pytest.mark.gpu
def test_on_a_gpu_they_are_what_they_are_on_a_cpu() -> None:
    """The loader that a training there has, but for the values of noise; again the same."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    crops = data(config(FREE))
    made = load_for("cuda", crops, 40)
    assert isinstance(made, ResidentLoader)
    (found,), (again,), (wanted,) = made.epoch(3), made.epoch(3), ResidentLoader(crops, 40, "cpu").epoch(3)
    assert found["image"].device.type == "cuda" and torch.equal(found["image"], again["image"])
    assert ((found["image"].cpu() - wanted["image"]).abs() > 1e-2).float().mean() < 1e-3
    assert ((found["target"].cpu() - wanted["target"]).abs() > 1e-3).float().mean() < 1e-3
