"""Folders of made images, and what is looked at in the results. Not a test; the tests' stand-ins."""

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

STABLE = ("objects.parquet", "images.csv")


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "images.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def fingerprint(out: Path) -> dict[str, str]:
    """Digest of everything that must be byte-identical: labels/, geojson/ and the tables."""
    files = [p for folder in ("labels", "geojson") for p in sorted((out / folder).rglob("*")) if p.is_file()]
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in [*files, *(out / n for n in STABLE)]
    }


def draw(path: Path, objects: int = 3, seed: int = 0, colour: bool = False) -> Path:
    """A dark 48 x 64 image with `objects` bright squares, no two touching."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 30, (48, 64, 3) if colour else (48, 64)).astype(np.uint8)
    for number in range(objects):
        y, x = 4 + 16 * (number // 4), 4 + 16 * (number % 4)
        size = 4 + (number + seed) % 5
        pixels[y : y + size, x : x + size] = 150 + (number + seed) % 100
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def draw_folder(folder: Path, count: int = 6) -> Path:
    for number in range(count):
        draw(folder / f"plate{number % 2}" / f"{number:02d}.png", 1 + number % 5, number, colour=number % 3 == 0)
    return folder


def make_model(folder: Path, name: str = "threshold") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"name": name, "diameter": 8.0}))
    return folder
