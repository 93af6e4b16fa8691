"""What ingest keeps so that the next run need not read the data again: sealed files under a folder by their key.

A sealed file's first line holds the sha256 of all that follows; a file that does not check out counts as missing, and
is made again. Everything here can be deleted at any time.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from pipeline.data.files import atomic_write, maskline_home
from pipeline.errors import OutputError
from pipeline.types import FORMAT_VERSION, Labels

log = logging.getLogger(__name__)


def cache_folder(cache: Path | None) -> Path:
    """The cache that a config names, else `cache` under maskline's home."""
    return cache.absolute() if cache else maskline_home() / "cache"


def labels_path(cache: Path, key: str) -> Path:
    """Where the label image of the content `key` (a case's sha256) lies."""
    return cache / "labels" / key[:2] / f"{key}.labels"


def summary_path(cache: Path, key: str) -> Path:
    """Where the result of a whole ingest lies."""
    return cache / "ingest" / f"{key}.json"


def write_sealed(path: Path, body: bytes) -> None:
    """Write `body` below its checksum; a cache that cannot be written is missed later, so that is only logged."""
    try:
        atomic_write(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body, durable=False)
    except OutputError as error:
        log.warning("not cached: %s", error)


def read_sealed(path: Path) -> bytes | None:
    """The body of a sealed file, or None where it is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = data[65:]
    if data[64:65] == b"\n" and hashlib.sha256(body).hexdigest().encode() == data[:64]:
        return body
    log.warning("%s is damaged; it is made again", path)
    return None


def write_labels_cache(path: Path, labels: Labels) -> None:
    """Keep a label image ((Z,) Y, X), compressed."""
    small = labels.astype("<u2" if labels.max(initial=0) <= 65_535 else "<u4")
    about = {"format_version": FORMAT_VERSION, "shape": labels.shape, "dtype": small.dtype.str}
    write_sealed(path, json.dumps(about).encode() + b"\n" + bytes(imagecodecs.zstd_encode(small.tobytes(), 1)))


def read_labels_cache(path: Path) -> Labels | None:
    """A label image that was kept, uint32, or None where it is missing, damaged or of another format version."""
    body = read_sealed(path)
    if body is None:
        return None
    head, _, packed = body.partition(b"\n")
    about = json.loads(head)
    if about["format_version"] != FORMAT_VERSION:
        return None
    flat = np.frombuffer(imagecodecs.zstd_decode(packed), about["dtype"])
    return flat.reshape(about["shape"]).astype(np.uint32)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Keep what an ingest found."""
    body = json.dumps({"format_version": FORMAT_VERSION, **summary}, separators=(",", ":"))
    write_sealed(path, body.encode())


def read_summary(path: Path) -> dict[str, Any] | None:
    """What an earlier ingest found, or None where that is missing, damaged or of another format version."""
    body = read_sealed(path)
    summary: dict[str, Any] | None = None if body is None else json.loads(body)
    return summary if summary and summary.get("format_version") == FORMAT_VERSION else None
