"""What a training lets people see: the cases it begins with, and one image's answer after every epoch as a GIF."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import ClassesTarget, TrainConfig
from pipeline.data.files import atomic_write
from pipeline.model.targets import decode, encode
from pipeline.results.class_pictures import class_sample
from pipeline.results.pictures import Picture, png, titled, training_sample
from pipeline.training.dataset import Example
from pipeline.training.train import Training
from pipeline.training.validate import WINDOW, Answer, answers, usual_thresholds
from pipeline.types import Geometry, Image, Labels

GIF = "epochs.gif"
FRAMES = 60  # of a GIF at most, spread over the epochs
_PACE, _REST = 400, 2000  # ms a frame, and the last one


def show_example(example: Example, predicted: Labels | None, config: TrainConfig, side: int = 320) -> Picture:
    """Image, truth and prediction (where there is one) side by side, as the target has them."""
    image = Image(example.pixels, Geometry.pixels(example.labels.ndim))
    if isinstance(config.target, ClassesTarget):
        classes = encode(example.labels, config.target).astype(np.uint32)
        return class_sample(image, classes, predicted, config.target, side)
    return training_sample(image, example.labels, predicted, side)


def write_first_pictures(
    learn: Sequence[Example], check: Sequence[Example], config: TrainConfig, out: Path
) -> Path | None:
    """`data/train-NNN.png` and `data/val-NNN.png`: a few cases drawn from the seed; None where none are wanted."""
    if not config.sample_pictures:
        return None
    generator = np.random.default_rng(config.seed)
    (out / "data").mkdir(exist_ok=True)
    for split, examples in (("train", learn), ("val", check)):
        many = min(config.sample_pictures, len(examples))
        for i in sorted(generator.choice(len(examples), many, replace=False).tolist()):
            atomic_write(out / "data" / f"{split}-{i:03d}.png", png(show_example(examples[i], None, config)))
    return out / "data"


@dataclass
class Film:
    """One example's answer after each epoch: frames in `out/epochs/`, put together as `out/epochs.gif`."""

    training: Training
    example: Example
    out: Path

    def take(self) -> None:
        """The frame of the epoch that has just ended, with the weights that were validated; then the GIF anew."""
        config, epoch = self.training.config, self.training.progress.epoch
        network = self.training.average if config.ema else self.training.network
        answer: Answer = next(
            answers(network, [self.example], config, self.training.loss, self.training.device, WINDOW)
        )
        predicted = decode(answer.probabilities, config.target, usual_thresholds(config.target))
        (self.out / "epochs").mkdir(exist_ok=True)
        frame = titled(show_example(answer.example, predicted, config, side=240), f"epoch {epoch}")
        atomic_write(self.out / "epochs" / f"{epoch:05d}.png", png(frame))
        atomic_write(self.out / GIF, self._cut(epoch))

    def _cut(self, epoch: int) -> bytes:
        from PIL import Image as Pillow

        files = [file for file in sorted((self.out / "epochs").glob("*.png")) if int(file.stem) <= epoch]
        kept = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, FRAMES).round().astype(int))]
        frames = [Pillow.open(file).quantize(128) for file in kept]
        pace = [_PACE] * (len(frames) - 1) + [_REST]
        gif = io.BytesIO()
        frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=pace, loop=0)
        return gif.getvalue()
