from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from scipy import ndimage

from pipeline.data.simulate import MOSAIC, simulate_dataset, simulate_image
from pipeline.errors import OutputError


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("kind", "axes"), [("fluorescence", ()), ("tissue", (3,))])
def test_an_image_and_its_truth(kind, axes):
    """uint8 and uint32 of the shape asked for; ids without gaps; every nucleus one piece of at least 12 px."""
    image, labels = simulate_image(np.random.default_rng(3), kind, (200, 240))
    assert image.dtype == np.uint8 and image.shape == (200, 240, *axes)
    assert labels.dtype == np.uint32 and labels.shape == (200, 240)
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    assert len(ids) > 10 and list(ids) == list(range(1, len(ids) + 1)) and areas.min() >= 12
    for label, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), 1):
        assert ndimage.label(labels[box] == label)[1] == 1


def test_nuclei_touch_and_are_still_apart():
    """Fewer pieces of foreground than nuclei, over a few images."""
    pieces = nuclei = 0
    for seed in range(3):
        _, labels = simulate_image(np.random.default_rng(seed), "fluorescence", (256, 256))
        pieces += ndimage.label(labels > 0, np.ones((3, 3)))[1]
        nuclei += int(labels.max())
    assert 0.2 * nuclei < pieces < 0.95 * nuclei


def test_nuclei_look_different_from_the_ground():
    """Brighter in fluorescence; in tissue darker in red, as haematoxylin absorbs it."""
    image, labels = simulate_image(np.random.default_rng(5), "fluorescence", (256, 256))
    assert np.median(image[labels > 0]) > 2 * np.median(image[labels == 0])
    image, labels = simulate_image(np.random.default_rng(5), "tissue", (256, 256))
    assert np.median(image[labels > 0][:, 0]) < 0.7 * np.median(image[labels == 0][:, 0])


def test_light_is_uneven_and_pixels_are_noisy():
    """The ground of an image differs from quarter to quarter, and from pixel to pixel."""
    image, labels = simulate_image(np.random.default_rng(8), "fluorescence", (256, 256))
    ground = np.where(labels == 0, image, np.nan).astype(float)
    quarters = [np.nanmean(ground[y : y + 128, x : x + 128]) for y in (0, 128) for x in (0, 128)]
    assert max(quarters) > 1.1 * min(quarters)
    assert np.nanstd(np.diff(ground, axis=1)) > 0.5


def test_density_and_radius_are_obeyed():
    """0 gives none; more radius gives larger nuclei; the area wanted is about the area covered."""
    rng = np.random.default_rng(0)
    assert simulate_image(rng, "fluorescence", (64, 64), density=0)[1].max() == 0
    _, small = simulate_image(rng, "fluorescence", (400, 400), density=0.2, radius=7)
    _, large = simulate_image(rng, "fluorescence", (400, 400), density=0.2, radius=20)
    for labels, radius in ((small, 7), (large, 20)):
        assert 0.12 < (labels > 0).mean() < 0.26
        assert 0.5 < np.median(np.bincount(labels.ravel())[1:]) / (np.pi * radius**2) < 1.5


def test_a_small_shape_works():
    """Down to a few pixels, without an error."""
    for shape in ((1, 1), (5, 40), (16, 16)):
        image, labels = simulate_image(np.random.default_rng(0), "tissue", shape)
        assert image.shape == (*shape, 3) and labels.shape == shape


def test_the_layout_is_the_bowls(tmp_path):
    """`ID/images/ID.png` and a PNG a nucleus in {0, 255}, which add up to the truth without overlap."""
    simulate_dataset(tmp_path / "d", images=4, seed=1, mosaic=False, broken=False)
    folders = sorted((tmp_path / "d").iterdir())
    assert [f.name for f in folders] == ["fluorescence_000", "fluorescence_001", "fluorescence_002", "tissue_003"]
    for folder in folders:
        assert {p.name for p in folder.iterdir()} == {"images", "masks"}
        image = imagecodecs.imread(folder / "images" / f"{folder.name}.png")
        masks = np.stack([imagecodecs.imread(p) for p in sorted((folder / "masks").iterdir())])
        assert set(np.unique(masks)) == {0, 255} and masks.shape[1:] == image.shape[:2]
        assert (masks > 0).sum(axis=0).max() == 1 and (masks > 0).any(axis=(1, 2)).all()


def test_the_seed_decides_every_byte(tmp_path):
    """Twice the same with one seed, different with another."""
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        simulate_dataset(tmp_path / name, images=2, seed=seed, mosaic=False)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")


def test_one_image_shows_nothing(tmp_path):
    """The last of twelve has no nucleus: an empty folder of masks."""
    simulate_dataset(tmp_path / "d", images=12, mosaic=False, broken=False)
    empty = [f.name for f in sorted((tmp_path / "d").iterdir()) if not any((f / "masks").iterdir())]
    assert empty == ["tissue_011"]


def test_the_broken_ones_are_broken(tmp_path):
    """A PNG cut short, a text named .png, a mask of another size, a mask of zeros; nothing else is."""
    simulate_dataset(tmp_path / "d", images=0, mosaic=False)
    assert len(list((tmp_path / "d").iterdir())) == 4
    image = {
        name: tmp_path / "d" / name / "images" / f"{name}.png" for name in ("broken_truncated", "broken_mask_size")
    }
    whole = image["broken_mask_size"].read_bytes()
    cut = image["broken_truncated"].read_bytes()
    assert cut[:8] == whole[:8] and b"IEND" in whole and b"IEND" not in cut
    text = tmp_path / "d" / "broken_not_an_image" / "images" / "broken_not_an_image.png"
    assert text.read_text() == "this is not an image\n"
    mask = imagecodecs.imread(tmp_path / "d" / "broken_mask_size" / "masks" / "00000.png")
    assert mask.shape == (64, 64) != imagecodecs.imread(image["broken_mask_size"]).shape and mask.any()
    assert not imagecodecs.imread(tmp_path / "d" / "broken_mask_empty" / "masks" / "00000.png").any()


@pytest.mark.slow
def test_the_mosaic_is_large_and_stitched(tmp_path):
    """1536 x 2048; the fields it is made of are darker in their corners than in their middles."""
    simulate_dataset(tmp_path / "d", images=0, broken=False)
    image = imagecodecs.imread(tmp_path / "d" / "mosaic_000" / "images" / "mosaic_000.png").astype(float)
    masks = list((tmp_path / "d" / "mosaic_000" / "masks").iterdir())
    assert image.shape == MOSAIC and len(masks) > 200
    fields = image.reshape(3, 512, 4, 512).transpose(0, 2, 1, 3).reshape(12, 512, 512)
    ground = np.percentile(fields, 20, axis=0)
    assert ground[192:320, 192:320].mean() > ground[:48, :48].mean()


def test_what_is_there_is_not_overwritten(tmp_path):
    """A folder that holds something, or a file, is refused; an empty folder is taken."""
    (tmp_path / "x").write_text("mine")
    for taken in (tmp_path, tmp_path / "x"):
        with pytest.raises(OutputError, match="already there"):
            simulate_dataset(taken, images=1, mosaic=False, broken=False)
    (tmp_path / "empty").mkdir()
    simulate_dataset(tmp_path / "empty", images=1, mosaic=False, broken=False)
    assert (tmp_path / "empty" / "fluorescence_000").is_dir()
