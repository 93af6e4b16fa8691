"""Made images of nuclei, for the demo and the tests: what they show is known exactly.

Two kinds: `fluorescence` (grey, light on dark: uneven light, out-of-focus glow, shot and read noise) and `tissue`
(purple nuclei on a pink ground with fibres, as haematoxylin and eosin stain it). Some nuclei touch, as real ones do.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import imagecodecs
import numpy as np

from pipeline.data.files import atomic_write
from pipeline.errors import OutputError
from pipeline.types import Array, Labels, Pixels

Kind = Literal["fluorescence", "tissue"]
SHAPES: tuple[tuple[int, int], ...] = ((256, 256), (256, 320), (360, 360))
MOSAIC = (1536, 2048)
FIELD = (
    512  # px: what is larger than two of them on a side was stitched from fields of this size, each lit in its middle
)
RUN_LENGTHS, NO_FILTER = 3, 8  # Z_RLE of zlib and PNG_FILTER_NONE of libpng
STAIN = {"haematoxylin": (0.55, 0.72, 0.30), "eosin": (0.07, 0.62, 0.16)}  # optical density of R, G and B


def simulate_dataset(
    folder: Path, *, images: int = 24, seed: int = 0, mosaic: bool = True, broken: bool = True
) -> None:
    """Write a labelled data set in the Data Science Bowl layout: `ID/images/ID.png` and one `ID/masks/*.png` a nucleus.

    Parameters
    ----------
    folder : Path
        Made if missing; must be empty.
    images : int
        How many small ones. Every fourth is tissue, and the last one of twelve or more shows no nucleus at all.
    seed : int
        The same seed writes the same files.
    mosaic : bool
        Add one fluorescence mosaic of 1536 x 2048, stitched from 512 x 512 fields.
    broken : bool
        Add cases with an image cut short, a text file named .png, a mask of the wrong size and an empty mask.

    Raises
    ------
    OutputError
        The folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(str(folder), "something already there", "an empty or new folder", "name another folder")
    rng = np.random.default_rng(seed)
    for n in range(images):
        kind: Kind = "tissue" if n % 4 == 3 else "fluorescence"
        shape = SHAPES[n % len(SHAPES)]
        bare = n == images - 1 and images >= 12
        _write_case(folder, f"{kind}_{n:03d}", *simulate_image(rng, kind, shape, density=0.0 if bare else None))
    if mosaic:
        _write_case(folder, "mosaic_000", *simulate_image(rng, "fluorescence", MOSAIC, density=0.14, radius=20.0))
    if broken:
        _write_broken(folder, rng)


def simulate_image(
    rng: np.random.Generator,
    kind: Kind,
    shape: tuple[int, int],
    *,
    density: float | None = None,
    radius: float | None = None,
) -> tuple[Array, Labels]:
    """One made image and the truth about it.

    Parameters
    ----------
    rng : numpy.random.Generator
        All chance comes from here.
    kind : {"fluorescence", "tissue"}
    shape : (Y, X)
    density : float, optional
        Part of the area to be covered by nuclei; drawn from 0.08-0.3 by default. 0 gives none.
    radius : float, optional
        Typical radius of a nucleus in px; drawn from 7-13 by default.

    Returns
    -------
    image : uint8
        `(Y, X)` for fluorescence, `(Y, X, 3)` RGB for tissue.
    labels : uint32 (Y, X)
        0 is background; ids are 1..N without gaps, and every nucleus is one piece.
    """
    cover = float(rng.uniform(0.08, 0.3)) if density is None else density
    typical = float(rng.uniform(7.0, 13.0)) if radius is None else radius
    labels = _place_nuclei(rng, shape, cover, typical, elongation=1.35 if kind == "fluorescence" else 1.6)
    body = _bodies(rng, labels)
    if kind == "fluorescence":
        return _fluorescence(rng, labels, body), labels
    return _tissue(rng, labels, body), labels


def _place_nuclei(
    rng: np.random.Generator, shape: tuple[int, int], cover: float, typical: float, elongation: float
) -> Labels:
    """Wobbly ellipses, a third of them in contact with an earlier one, until `cover` of the area is theirs."""
    labels = np.zeros(shape, np.uint32)
    wanted, covered, placed = cover * labels.size, 0, 0
    last = rng.uniform((0, 0), shape)
    for _ in range(int(6 * wanted / (np.pi * typical**2)) + 1):
        if covered >= wanted:
            break
        beside = placed > 0 and rng.random() < 0.35
        angle, step = rng.uniform(0, 2 * np.pi), typical * rng.uniform(1.7, 2.2)
        centre = last + step * np.array([np.sin(angle), np.cos(angle)]) if beside else rng.uniform((0, 0), shape)
        new = _stamp(labels, _outline(rng, centre, typical * float(rng.lognormal(0, 0.18)), elongation), placed + 1)
        if new:
            placed, covered, last = placed + 1, covered + new, centre
    return labels


def _outline(rng: np.random.Generator, centre: Array, radius: float, elongation: float) -> Array:
    """(48, 2) corners (x, y) in px of an ellipse with a slow random wobble."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    wobble = 1 + sum(rng.normal(0, 0.05 / k) * np.cos((k + 1) * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    stretch = float(rng.uniform(1, elongation))
    x, y = radius * wobble * np.cos(angle) * stretch, radius * wobble * np.sin(angle) / stretch
    turn = rng.uniform(0, np.pi)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([centre[1] + c * x - s * y, centre[0] + s * x + c * y], axis=1)


def _stamp(labels: Labels, outline: Array, label: int) -> int:
    """Draw a nucleus where nothing is yet and return its area, or 0: too little, or several pieces, would be seen."""
    low = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, labels.shape[::-1])
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, labels.shape[::-1])
    part = labels[low[1] : high[1], low[0] : high[0]]
    if min(part.shape) < 2:
        return 0
    drawn = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(drawn, [np.round(outline - low).astype(np.int32)], 1)
    free = (drawn > 0) & (part == 0)
    if (
        free.sum() < max(12, 0.8 * drawn.sum())
        or cv2.connectedComponents(free.astype(np.uint8), connectivity=4)[0] != 2
    ):
        return 0
    part[free] = label
    return int(free.sum())


def _bodies(rng: np.random.Generator, labels: Labels) -> Pixels:
    """(Y, X) how much chromatin there is: each nucleus has its own brightness, a soft rim and a mottled inside."""
    own = np.concatenate([[0], rng.lognormal(0, 0.3, int(labels.max()))]).astype(np.float32)
    padded = np.pad(labels, 1, mode="edge")
    inner = np.ones(labels.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]] == labels
    depth = cv2.distanceTransform((inner & (labels > 0)).astype(np.uint8), cv2.DIST_L2, 3)
    rim = 0.55 + 0.45 * (1 - np.exp(-depth / 2.5))
    return np.asarray(own[labels] * rim * (1 + 0.22 * _cloud(rng, labels.shape, 2.0)), np.float32)


def _cloud(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Pixels:
    """Smooth noise of mean about 0 and deviation 1; `scale` (px) is the size of its lumps."""
    step = max(1, int(scale / 2))
    white = rng.standard_normal((shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    small = cv2.GaussianBlur(white, (0, 0), scale / step)
    small = (small - small.mean()) / max(float(small.std()), 1e-6)
    return np.asarray(cv2.resize(small, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)[: shape[0], : shape[1]])


def _fluorescence(rng: np.random.Generator, labels: Labels, body: Pixels) -> Array:
    """uint8 (Y, X): blurred bodies with a glow, times uneven light, plus background, shot noise and read noise."""
    photons = float(rng.uniform(40, 220))
    sharp = cv2.GaussianBlur(body, (0, 0), float(rng.uniform(0.7, 1.3)))
    glow = cv2.GaussianBlur(body, (0, 0), 14.0)
    light = np.exp(0.28 * _cloud(rng, labels.shape, max(labels.shape) / 3.0)) * _fields(labels.shape)
    clean = (sharp + 0.22 * glow) * light + float(rng.uniform(0.02, 0.12)) * (
        1 + 0.15 * _cloud(rng, labels.shape, 20.0)
    )
    seen = rng.poisson(np.clip(clean, 0, None) * photons) / photons + rng.normal(0, 0.008, labels.shape)
    return np.asarray(np.clip(seen * float(rng.uniform(55, 150)) + 4, 0, 255), np.uint8)


def _fields(shape: tuple[int, ...]) -> Pixels:
    """(Y, X) how much light falls where: even in one field; in a mosaic each field is darker towards its corners."""
    if max(shape) <= 2 * FIELD:
        return np.ones(shape, np.float32)
    y, x = (((np.arange(n) % FIELD) / (FIELD / 2) - 1) ** 2 for n in shape)
    return np.asarray(1 - 0.22 * (y[:, None] + x), np.float32)


def _tissue(rng: np.random.Generator, labels: Labels, body: Pixels) -> Array:
    """uint8 (Y, X, 3) RGB by Beer-Lambert: haematoxylin in the nuclei, eosin in ground and fibres, light uneven."""
    shape = labels.shape
    blue = 0.85 * cv2.GaussianBlur(body, (0, 0), 0.8) + 0.05
    fibres = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigmaX=9.0, sigmaY=1.6)
    fibres = cv2.warpAffine(
        np.asarray(fibres / max(float(fibres.std()), 1e-6), np.float32),
        cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), float(rng.uniform(0, 180)), 1.0),
        shape[::-1],
        borderMode=cv2.BORDER_REFLECT,
    )
    ground = np.clip(0.42 + 0.12 * _cloud(rng, shape, 30.0) + 0.09 * fibres, 0.04, None)
    ground *= np.where(_cloud(rng, shape, 24.0) > 1.5, 0.25, 1.0)  # gaps in the tissue
    pink = cv2.GaussianBlur(ground.astype(np.float32), (0, 0), 1.0) * (1 - 0.5 * np.clip(body, 0, 1))
    density = blue[..., None] * np.array(STAIN["haematoxylin"]) + pink[..., None] * np.array(STAIN["eosin"])
    light = 240 * np.exp(0.04 * _cloud(rng, shape, max(shape) / 2.0))[..., None]
    return np.asarray(np.clip(light * np.exp(-1.5 * density) + rng.normal(0, 2.5, (*shape, 3)), 0, 255), np.uint8)


def _mask_png(mask: Array) -> bytes:
    """PNG of a mostly empty (Y, X): rows unfiltered and run lengths only, five times as fast as the default."""
    return bytes(imagecodecs.png_encode(mask, level=1, strategy=RUN_LENGTHS, filter=NO_FILTER))


def _masks(labels: Labels) -> Iterator[Array]:
    for label in range(1, int(labels.max()) + 1):
        yield np.asarray((labels == label) * np.uint8(255), np.uint8)


def _write_case(folder: Path, name: str, image: Array, labels: Labels) -> None:
    (folder / name / "masks").mkdir(parents=True, exist_ok=True)
    atomic_write(folder / name / "images" / f"{name}.png", bytes(imagecodecs.png_encode(image)), durable=False)
    for n, mask in enumerate(_masks(labels)):
        atomic_write(folder / name / "masks" / f"{n:05d}.png", _mask_png(mask), durable=False)


def _write_broken(folder: Path, rng: np.random.Generator) -> None:
    """Four cases that an ingest has to notice, each with one thing wrong."""
    for name in ("broken_truncated", "broken_not_an_image", "broken_mask_size", "broken_mask_empty"):
        _write_case(folder, name, *simulate_image(rng, "fluorescence", (128, 160), density=0.15))
    cut = folder / "broken_truncated" / "images" / "broken_truncated.png"
    atomic_write(cut, cut.read_bytes()[: cut.stat().st_size // 2], durable=False)
    text = folder / "broken_not_an_image" / "images" / "broken_not_an_image.png"
    atomic_write(text, b"this is not an image\n", durable=False)
    wrong = np.zeros((64, 64), np.uint8)
    wrong[20:40, 20:40] = 255
    atomic_write(folder / "broken_mask_size" / "masks" / "00000.png", _mask_png(wrong), durable=False)
    atomic_write(
        folder / "broken_mask_empty" / "masks" / "00000.png", _mask_png(np.zeros((128, 160), np.uint8)), durable=False
    )
