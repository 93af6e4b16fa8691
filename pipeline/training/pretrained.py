"""Weights that a training may begin with: `pretrained: none | imagenet | PATH | URL#sha256=...`.

Using a trained model needs none of this. Files are `.pth` (tensors alone are read, never code) or `.safetensors`.
Downloads are checked, kept in `MASKLINE_HOME/weights`, and not repeated.
"""

import hashlib
import logging
import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.data.files import maskline_home
from pipeline.data.manifest import data_folder
from pipeline.errors import TrainingError
from pipeline.types import Event, Watch, unwatched
from unet.published import Published, load_weights

log = logging.getLogger("maskline.training")

_URL = re.compile(r"https?://")
_NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$")  # as torch.hub names its files

_MORE_THAN_TENSORS: type[Exception] = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Source:
    """A file of weights: the name it has, the beginning of its sha256 ("" where nobody said), where it can be had."""

    file: str
    digest: str
    url: str = ""
    places: tuple[Path, ...] = ()
    hint: str = ""

    @property
    def cached(self) -> Path:
        """Where a download is kept, and where it can be put by hand."""
        return maskline_home() / "weights" / self.file


def start_from(network: nn.Module, pretrained: str, watch: Watch = unwatched) -> dict[str, Any]:
    """Put pretrained weights into `network` in place; answers what was taken, for the record ({} for `none`).

    A network with a published encoder takes that part of the file alone; any other all of its tensors. Raises
    TrainingError where the file is missing, damaged, or lacks a tensor.
    """
    if pretrained == "none":
        return {}
    published: Published | None = getattr(network, "published", None)
    path = _fetch(_source(pretrained, published), watch)
    own, theirs = (published.own, published.theirs) if published else ("", "")
    try:
        loaded = load_weights(network, read_weights(path), own, theirs)
    except ValueError as error:
        raise TrainingError(
            f"pretrained: {path}", str(error), f"the tensors of {own or 'the network'}*", "give weights of this network"
        ) from None
    log.info("%s: %d tensors taken", path, len(loaded.taken))
    for word in ("missing", "ignored"):
        if names := getattr(loaded, word):
            log.info("%s: %d tensors %s: %s", path, len(names), word, ", ".join(names))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"source": pretrained, "file": path.name, "sha256": sha256, **asdict(loaded)}


def _source(pretrained: str, published: Published | None) -> Source:
    if pretrained == "imagenet":
        if published is None:
            raise TrainingError(
                "pretrained: imagenet", "a network without published weights", "one with", "set pretrained=none"
            )
        return Source(published.file, published.digest, published.url, _places(published), published.hint)
    if not _URL.match(pretrained):
        path = Path(pretrained).expanduser()
        return Source(path.name, "", places=(path,), hint="check the path of pretrained")
    url, _, told = pretrained.partition("#sha256=")
    name = PurePosixPath(unquote(urlsplit(url).path)).name or "weights"
    named = _NAMED_DIGEST.search(name)
    digest = told.lower() or (named[1] if named else "")
    if not re.fullmatch("[0-9a-f]{8,64}", digest):
        raise TrainingError(
            f"pretrained: {pretrained}", "no checksum", "URL#sha256=...", "add the sha256 its publisher gives"
        )
    return Source(_kept_as(name, digest), digest, url, hint=f"check the address {url}")


def _kept_as(name: str, digest: str) -> str:
    """The name of a download among those of other addresses: with its digest, where it does not say it.

    >>> _kept_as("net.pth", "57934424" + 56 * "0"), _kept_as("net-57934424.pth", "57934424")
    ('net-57934424.pth', 'net-57934424.pth')
    """
    path = PurePosixPath(name)
    return name if path.stem.endswith(f"-{digest[:8]}") else f"{path.stem}-{digest[:8]}{path.suffix}"


def _places(published: Published) -> tuple[Path, ...]:
    """Where the file may lie already: below `$MASKLINE_DATA/weights`, or in an installed package."""
    places = [data_folder() / "weights" / published.folder / published.file]
    package = find_spec(published.package) if published.package else None
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "models" / published.file)
    return tuple(places)


def _fetch(source: Source, watch: Watch) -> Path:
    """The file, from where it lies or by a download; its checksum agrees."""
    for place in (*source.places, source.cached):
        if place.is_file():
            return _checked(place, source)
    if source.url:
        _download(source, watch)
        return _checked(source.cached, source)
    raise TrainingError("pretrained", "no weight file", " or ".join(map(str, source.places)), source.hint)


def _checked(path: Path, source: Source) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(source.digest):
        raise TrainingError(
            str(path), f"sha256 {digest[:12]}...", f"{source.digest[:12]}...", f"remove the file; {source.hint}"
        )
    return path


class _Progress:
    """What pooch reports a download to, passed on as events in kB."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.total, self._done, self._watch, self._name = 0, 0, watch, name

    def update(self, size: int) -> None:
        self._done += size
        self._watch(Event("download", self._done // 1000, self.total // 1000, {"file": self._name}))

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _download(source: Source, watch: Watch) -> None:
    import pooch
    import requests

    target = source.cached
    whole = len(source.digest) == 64
    getter = pooch.HTTPDownloader(progressbar=_Progress(watch, source.file), timeout=30)
    try:
        pooch.retrieve(
            source.url,
            f"sha256:{source.digest}" if whole else None,
            fname=target.name,
            path=target.parent,
            downloader=getter,
        )
    except (requests.RequestException, OSError, ValueError) as error:
        raise TrainingError(
            source.url,
            str(error).splitlines()[0],
            "the weights",
            f"without a network, fetch it elsewhere and put it at {target}",
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file by name; raises TrainingError where it holds anything else."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, SafetensorError, _MORE_THAN_TENSORS) as error:
        raise TrainingError(
            str(path), f"no readable weights ({str(error).splitlines()[0]})", "tensors alone", "get the file again"
        ) from None
    if not isinstance(weights, dict) or not all(torch.is_tensor(value) for value in weights.values()):
        raise TrainingError(str(path), "more than tensors by name", "a state_dict", "save network.state_dict() alone")
    return weights
