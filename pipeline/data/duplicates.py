"""Near-duplicates: images that show, in part or whole, the same pixels again, and tiles of one picture.

Features stand for the image from then on (some 10 kB): a thumbnail for copies of the whole frame, bit strings of small
patches around the extremes of a band-passed image for crops, and the profiles of its edges for tiles. A patch is turned
into a canonical orientation first, so that flips and quarter turns need no trying; two images that share patches must
agree on one placement of the one over the other.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.seams import Edges, edges_of, find_seams
from pipeline.types import Array, Image, Pixels

THUMBNAIL = 32  # px a side
FINE, COARSE = 1.5, 4.0  # px, the band in which extremes are looked for
SPACING = 8  # px: an extreme is the largest within so far on all sides
REACH, STRIDE = 14, 2  # px: a patch is sampled this far around its extreme, every so often
BITS, PIECE = 128, 16  # a patch's bit string, and the pieces of it that are looked up
FAINTEST = 0.05  # of an image that spans 255
MAX_POINTS = 4000  # the strongest are kept
NEAR_BITS = 14  # of 128: about a correlation of 0.94
MAX_BUCKET = 24  # patches found in more images than this say nothing
SAME_FRAME = 0.9  # correlation of band-passed thumbnails
SAME_ASPECT = 0.02  # of the logarithm of height / width
BLOCK = 1024  # thumbnails compared with all others at a time
# Patches that agree on one placement, and their share of those in the overlap: few will do if most agree, many if some
# do; dust on a camera, the same in all its pictures, gives 3 to 8 at 0.003.
FEW, MANY = (5, 0.25), (16, 0.05)

Kind = Literal["exact", "frame", "crop", "neighbour"]


@dataclass(frozen=True)
class Features:
    """What `group` needs of an image.

    `shape` (Y, X); `pixels_sha256` of the decoded pixels; `thumbnail` (32, 32) float32 of length 1 (all zero if the
    image is flat); `points` (N, 2) int32 in (y, x); `turns` (N,) uint8: what brings the patch into its canonical
    orientation, bits 1 flip y, 2 flip x, then 4 transpose; `bits` (N, 16) uint8; `edges` left, right, top, bottom.
    """

    name: str
    shape: tuple[int, int]
    pixels_sha256: str
    thumbnail: Pixels
    points: NDArray[np.int32]
    turns: NDArray[np.uint8]
    bits: NDArray[np.uint8]
    edges: Edges


@dataclass(frozen=True)
class Match:
    """Why two images (by their place in the sequence) are one group; `score` is a correlation or a share of patches."""

    first: int
    second: int
    kind: Kind
    score: float
    votes: int = 0


def features(name: str, image: Image) -> Features:
    """The features of a 2-D image `(C, Y, X)` of any dtype (volumes are seen by their middle slice)."""
    pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[:, image.pixels.shape[1] // 2]
    digest = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    grey = _grey(pixels)
    low, high = float(grey.min()), float(grey.max())
    scaled = np.asarray((grey - low) * (255 / (high - low) if high > low else 0), np.float32)
    band = np.asarray(cv2.GaussianBlur(scaled, (0, 0), FINE) - cv2.GaussianBlur(scaled, (0, 0), COARSE), np.float32)
    points = _extremes(band)
    turns, bits = _describe(band, points)
    return Features(name, grey.shape, digest.hexdigest(), _thumbnail(scaled), points, turns, bits, edges_of(grey))


def _grey(pixels: Array) -> Pixels:
    """(Y, X) mean of the channels of (C, Y, X); what is not finite becomes 0."""
    grey: Pixels = pixels[0].astype(np.float32)
    for channel in pixels[1:]:
        grey += channel
    grey /= len(pixels)
    return grey if pixels.dtype.kind in "ui" else np.asarray(np.nan_to_num(grey, posinf=0, neginf=0))


def _thumbnail(grey: Pixels) -> Pixels:
    whole = np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.float32)
    small: Pixels = whole - np.asarray(cv2.GaussianBlur(whole, (0, 0), 4.0), np.float32)
    length = float(np.linalg.norm(small))
    return np.asarray(small / length if length > 1e-3 else np.zeros_like(small), np.float32)


def _extremes(band: Pixels) -> NDArray[np.int32]:
    """(N, 2) places (y, x) where |band| is the largest within SPACING, far enough from the border for a whole patch."""
    strength = np.abs(band)
    peak = strength >= cv2.dilate(strength, np.ones((2 * SPACING + 1,) * 2, np.uint8))
    peak &= strength > FAINTEST
    inside = np.zeros_like(peak)
    inside[REACH:-REACH, REACH:-REACH] = True
    points = np.argwhere(peak & inside).astype(np.int32)
    if len(points) > MAX_POINTS:
        points = points[np.sort(np.argsort(-strength[tuple(points.T)], kind="stable")[:MAX_POINTS])]
    return points


@lru_cache(maxsize=1)
def _projections() -> Pixels:
    """(side * side, BITS): random directions, weighted to the centre of the patch."""
    axis = np.arange(-REACH, REACH + 1, STRIDE)
    weight = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (REACH * 0.6) ** 2))
    random = np.random.default_rng(20180116).standard_normal((len(axis) ** 2, BITS))
    random = random * weight.reshape(-1, 1)
    return np.asarray(random - random.mean(axis=0), np.float32)


def _project(patches: Pixels) -> Pixels:
    """(N, side * side) -> (N, BITS), eight rows at a time: too little for the BLAS to start threads of its own.

    Images are described in many threads at once, and a BLAS that answers each with threads mostly waits for them.
    """
    padded = np.pad(patches, ((0, -len(patches) % 8), (0, 0)))
    values: Pixels = padded.reshape(-1, 8, patches.shape[1]) @ _projections()
    return values.reshape(-1, BITS)[: len(patches)]


def _describe(band: Pixels, points: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each patch turned so that its first moments satisfy 0 <= my <= mx, then the signs of its projections."""
    axis = np.arange(-REACH, REACH + 1, STRIDE)
    if not len(points):
        return np.zeros(0, np.uint8), np.zeros((0, BITS // 8), np.uint8)
    patches = band[points[:, 0, None, None] + axis[:, None], points[:, 1, None, None] + axis]
    weight = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (REACH * 0.6) ** 2)).astype(np.float32)
    square = patches * weight
    my = (square * axis[:, None]).sum(axis=(1, 2))
    mx = (square * axis).sum(axis=(1, 2))
    turns = (my < 0) | ((mx < 0) << 1) | ((np.abs(my) > np.abs(mx)) << 2)
    for bit, axes in ((1, (1,)), (2, (2,))):
        chosen = (turns & bit) > 0
        patches[chosen] = np.flip(patches[chosen], axes)
    chosen = (turns & 4) > 0
    patches[chosen] = patches[chosen].transpose(0, 2, 1)
    bits = np.packbits(_project(patches.reshape(len(points), -1)) > 0, axis=1)
    return turns.astype(np.uint8), bits


def group(seen: Sequence[Features]) -> tuple[list[set[int]], list[Match]]:
    """Sets of two or more images that belong together (by their place in `seen`), largest first, and the evidence."""
    matches = [*_same_pixels(seen), *_same_frame(seen), *_shared_patches(seen), *_neighbours(seen)]
    best: dict[tuple[int, int], Match] = {}
    for match in matches:
        best.setdefault((match.first, match.second), match)
    parent = list(range(len(seen)))

    def find(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for first, second in best:
        a, b = sorted((find(first), find(second)))
        parent[b] = a
    sets: dict[int, set[int]] = defaultdict(set)
    for k in range(len(seen)):
        sets[find(k)].add(k)
    groups = sorted((s for s in sets.values() if len(s) > 1), key=lambda s: (-len(s), min(s)))
    return groups, sorted(best.values(), key=lambda m: (m.first, m.second))


def find_duplicates(images: Iterable[tuple[str, Image]]) -> tuple[list[set[str]], list[Match]]:
    """`group` for images that come one by one with their names; only their features are kept."""
    seen = [features(name, image) for name, image in images]
    groups, matches = group(seen)
    return [{seen[k].name for k in members} for members in groups], matches


def _same_pixels(seen: Sequence[Features]) -> Iterator[Match]:
    first: dict[str, int] = {}
    for k, f in enumerate(seen):
        earlier = first.setdefault(f.pixels_sha256, k)
        if earlier != k:
            yield Match(earlier, k, "exact", 1.0)


def _same_frame(seen: Sequence[Features]) -> Iterator[Match]:
    """Thumbnails that correlate in one of eight orientations, and frames of the same proportions."""
    if not seen:
        return
    stack = np.stack([f.thumbnail for f in seen])
    aspect = np.log([f.shape[0] / f.shape[1] for f in seen])
    for first in range(0, len(seen), BLOCK):
        block = stack[first : first + BLOCK]
        score = np.zeros((len(block), len(seen)), np.float32)
        for transpose in (False, True):
            own = -aspect[first : first + BLOCK] if transpose else aspect[first : first + BLOCK]
            fits = np.abs(own[:, None] - aspect) < SAME_ASPECT
            turned = block.transpose(0, 2, 1) if transpose else block
            for variant in (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1]):
                found = variant.reshape(len(block), -1) @ stack.reshape(len(seen), -1).T
                np.maximum(score, np.where(fits, found, 0), out=score)
        for i, j in np.argwhere(np.triu(score, 1 + first) > SAME_FRAME):
            yield Match(first + int(i), int(j), "frame", round(float(score[i, j]), 3))


def _neighbours(seen: Sequence[Features]) -> Iterator[Match]:
    for i, j, score in find_seams([f.edges for f in seen]):
        yield Match(min(i, j), max(i, j), "neighbour", round(score, 3))


def _shared_patches(seen: Sequence[Features]) -> Iterator[Match]:
    """Pairs of images whose patches agree on one placement of the one over the other."""
    counts = [len(f.points) for f in seen]
    if sum(counts) < 2:
        return
    owner = np.repeat(np.arange(len(seen)), counts)
    bits = np.concatenate([f.bits for f in seen])
    points = np.concatenate([f.points for f in seen])
    turns = np.concatenate([f.turns for f in seen])
    near = _near_patches(bits, owner)
    pair = owner[near[:, 0]] * len(seen) + owner[near[:, 1]]
    order = np.argsort(pair, kind="stable")
    near, pair = near[order], pair[order]
    starts = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]]) if len(pair) else np.zeros(0, int)
    for start, stop in zip(starts, np.r_[starts[1:], len(pair)], strict=False):
        if stop - start < FEW[0]:
            continue
        i, j = near[start:stop].T
        a, b = (int(k) for k in divmod(pair[start], len(seen)))
        votes, share = _agree((points[i], turns[i]), (points[j], turns[j]), seen[a], seen[b])
        if any(votes >= least and share >= part for least, part in (FEW, MANY)):
            yield Match(a, b, "crop", round(share, 3), votes)


def _near_patches(bits: NDArray[np.uint8], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, 2) patches of different images, i < j, within NEAR_BITS of each other and alike in at least one piece."""
    pieces = bits.view(f">u{PIECE // 8}")
    found = [np.zeros((0, 2), np.int64)]
    for column in range(pieces.shape[1]):
        order = np.argsort(pieces[:, column], kind="stable")
        keys = pieces[order, column].astype(np.int64)
        few = np.bincount(keys, minlength=1 << PIECE)[keys] <= MAX_BUCKET
        order, keys = order[few], keys[few]
        for step in range(1, MAX_BUCKET):
            alike = np.flatnonzero(keys[step:] == keys[:-step])
            i, j = order[alike], order[alike + step]
            i, j = np.minimum(i, j), np.maximum(i, j)
            apart = owner[i] != owner[j]
            i, j = i[apart], j[apart]
            close = np.bitwise_count(bits[i] ^ bits[j]).sum(axis=1) <= NEAR_BITS
            found.append(np.stack([i[close], j[close]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _matrices(turns: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 2, 2): what brings an offset (y, x) in the image into the patch's canonical orientation."""
    sign = np.stack([1 - 2 * (turns & 1).astype(np.int64), 1 - (turns & 2).astype(np.int64)], axis=1)
    flips = sign[:, :, None] * np.eye(2, dtype=np.int64)
    return np.where((turns & 4)[:, None, None] > 0, flips[:, ::-1], flips)


Placed = tuple[NDArray[np.int32], NDArray[np.uint8]]


def _agree(one: Placed, other: Placed, a: Features, b: Features) -> tuple[int, float]:
    """The most votes for one placement q = R p + t, and their share of the patches that it lays over each other."""
    turn = _matrices(other[1]).transpose(0, 2, 1) @ _matrices(one[1])
    shift = other[0] - (turn @ one[0][:, :, None])[:, :, 0]
    code = turn.reshape(-1, 4) @ np.array([27, 9, 3, 1])
    same = (code[:, None] == code) & (np.abs(shift[:, None] - shift).max(axis=2) <= 2)
    best = int(same.sum(axis=1).argmax())
    inliers = np.flatnonzero(same[best])
    votes = min(len(np.unique(side[0][inliers], axis=0)) for side in (one, other))
    r, t = turn[best], np.round(shift[inliers].mean(axis=0)).astype(np.int64)
    over = min(_inside(a.points @ r.T + t, b.shape), _inside((b.points - t) @ r, a.shape))
    return votes, votes / max(over, 1)


def _inside(points: NDArray[np.int64], shape: tuple[int, int]) -> int:
    return int(((points >= REACH) & (points < np.array(shape) - REACH)).all(axis=1).sum())
