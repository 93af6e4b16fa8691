"""Elastic deformation: smooth, the same for image and labels, and as large as it was told."""

import numpy as np
from monai.transforms.spatial.dictionary import Rand2DElasticd

from pipeline.config import NucleiAugmentation, PrepareConfig, SeparatedTarget
from pipeline.model.prepare import fit
from pipeline.training.augment import build_augmentation, seed_sample
from pipeline.training.elastic import RandElasticd


def ramps(side: int = 96) -> dict[object, object]:
    """An image whose two channels are its coordinates, so that it says where each pixel came from."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return {"image": np.dstack([y, x]), "label": (1 + y // 24 * 4 + x // 24).astype(np.uint16)}


def bent(std: float, spacing: int = 32, seed: int = 0) -> dict[object, object]:
    return RandElasticd(std, spacing).set_random_state(seed=seed)(ramps())


def test_labels_go_where_the_image_goes() -> None:
    """Each pixel's label is that of the place its image value came from, but for half a pixel at the edges."""
    sample = bent(4.0)
    y, x = np.moveaxis(sample["image"], 2, 0)
    sure = (np.abs(y % 24 - 11.5) < 10) & (np.abs(x % 24 - 11.5) < 10)  # a pixel and more inside its square
    assert sure.mean() > 0.4 and sample["label"].dtype == np.uint16
    np.testing.assert_array_equal(sample["label"][sure], (1 + y // 24 * 4 + x // 24)[sure])


def test_it_is_as_large_as_told_and_smooth() -> None:
    """Displacements grow with `std`, are of its size, and neighbours move almost alike."""

    def moved(std: float) -> np.ndarray:
        inner = np.s_[20:76, 20:76]
        still = bent(0.0)["image"][inner]  # MONAI's own grid lies a pixel or two off, for image and labels alike
        return np.stack([bent(std, seed=seed)["image"][inner] - still for seed in range(30)])

    small, large = moved(1.0), moved(3.0)
    assert 0.6 < small.std() < 1.1 and 2.0 < large.std() / small.std() < 4.0
    assert np.abs(np.diff(small, axis=1)).max() < 0.5


def test_it_is_monais() -> None:
    """The same seed and options give MONAI's own answer."""
    data, how = ramps(), {"spacing": (24, 24), "magnitude_range": (3.0, 3.0), "prob": 1.0}
    peer = Rand2DElasticd(("image",), **how, mode="bilinear", padding_mode="reflection").set_random_state(seed=5)
    np.testing.assert_allclose(
        np.moveaxis(bent(3.0, 24, seed=5)["image"], 2, 0),
        np.asarray(peer({"image": np.moveaxis(data["image"], 2, 0)})["image"]),
    )


def test_the_config_asks_for_it_and_the_sample_repeats() -> None:
    """`elastic: 6` bends a crop, the same one for the same seed and another for another."""
    labels = ramps()["label"]
    pixels = (labels * 10).astype(np.uint8)
    preparation = fit(np.repeat(pixels[None], 3, axis=0), PrepareConfig(), stride=16)

    def crop(elastic: float, seed: int) -> np.ndarray:
        config = NucleiAugmentation(rotate=False, scale=(1.0, 1.0), elastic=elastic)
        transform = build_augmentation(config, 64, 3, SeparatedTarget())
        seed_sample(transform, seed)
        return transform({"image": pixels[:, :, None], "label": labels, "preparation": preparation})["target"]

    np.testing.assert_array_equal(crop(6.0, 1), crop(6.0, 1))
    assert not np.array_equal(crop(6.0, 1), crop(0.0, 1)) and not np.array_equal(crop(6.0, 1), crop(6.0, 2))
