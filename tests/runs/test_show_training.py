"""What a training shows on its way: random cases before it, one image's answer after each epoch."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.config import ClassesTarget, CropSampling, EarlyStopping, NucleiUNet, PrepareConfig, TrainConfig
from pipeline.data.simulate import simulate_dataset
from pipeline.model.prepare import fit
from pipeline.runs.show_training import FRAMES, Film, show_example, write_first_pictures
from pipeline.runs.train_model import train_model
from pipeline.training.dataset import Example
from pipeline.training.train import start_training
from pipeline.types import Case

CONFIG = TrainConfig(
    name="shown",
    network=NucleiUNet(filters=(4, 8, 8)),
    sampling=CropSampling(size=64, per_epoch=4),
    batch_size=4,
    epochs=3,
    stopping=EarlyStopping(patience=9, minimum_epochs=0),
    ema=0.5,
    sample_pictures=2,
    film=True,
    tune_thresholds=False,
)


def example(name: str = "a") -> Example:
    """A dark image of 64 x 48 with one bright object."""
    labels = np.zeros((64, 48), np.uint32)
    labels[10:30, 10:30] = 1
    pixels = np.repeat((labels * 200).astype(np.uint8)[None], 3, axis=0)
    return Example(Case(name, Path(name), name), pixels, labels, fit(pixels, PrepareConfig(), stride=16))


def frames(out: Path) -> int:
    with Pillow.open(out / "epochs.gif") as gif:
        return int(gif.n_frames)


def test_the_curves_have_a_gif_and_pictures_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame an epoch, kept on the way so that a resumed training goes on with it; all of it lands in MLflow."""
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    simulate_dataset(tmp_path / "made", images=8, mosaic=False, broken=False)
    out = tmp_path / "run"
    train_model(CONFIG.model_copy(update={"epochs": 2}), tmp_path / "made", out, track=True, device="cpu")
    assert frames(out) == 2 and len(list((out / "epochs").glob("*.png"))) == 2
    train = sorted(file.name for file in (out / "data").glob("train-*.png"))
    assert len(train) == 2 and list((out / "data").glob("val-*.png"))
    kept = {path.relative_to(tmp_path / "home").name for path in (tmp_path / "home" / "mlflow").rglob("*.*")}
    assert {"epochs.gif", "history.csv", "train.json", *train} <= kept


def test_a_film_is_cut_to_its_epoch_and_its_length(tmp_path: Path) -> None:
    """Frames of later epochs (of a training that was put back) are left out; of many, first and last are kept."""
    training = start_training(CONFIG, "cpu")
    film = Film(training, example(), tmp_path)
    for epoch in range(1, FRAMES + 12):
        training.progress.epoch = epoch
        if epoch in (1, 2, FRAMES + 11):
            film.take()
        else:
            source = tmp_path / "epochs" / "00002.png"
            (tmp_path / "epochs" / f"{epoch:05d}.png").write_bytes(source.read_bytes())
    assert 2 < frames(tmp_path) <= FRAMES
    training.progress.epoch = 2
    film.take()
    assert frames(tmp_path) <= 2  # equal frames may be one


def test_without_a_prediction_there_are_two_panels() -> None:
    """Image and truth; with a prediction three, of objects and of classes alike."""
    one = example()
    classes = TrainConfig(
        network=NucleiUNet(out_channels=2), target=ClassesTarget(names=("none", "cell")), loss={"kind": "dice_ce"}
    )
    for config in (CONFIG, classes):
        two = show_example(one, None, config)
        three = show_example(one, one.labels, config)
        assert three.shape[0] == two.shape[0] and three.shape[1] * 2 == two.shape[1] * 3 + 4


def test_none_wanted_none_written(tmp_path: Path) -> None:
    """`sample_pictures: 0` writes nothing; more than there are cases writes those there are."""
    assert (
        write_first_pictures([example()], [example()], CONFIG.model_copy(update={"sample_pictures": 0}), tmp_path)
        is None
    )
    assert not list(tmp_path.iterdir())
    folder = write_first_pictures([example()], [example()], CONFIG, tmp_path)
    assert folder is not None and sorted(p.name for p in folder.iterdir()) == ["train-000.png", "val-000.png"]
