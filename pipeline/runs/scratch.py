"""Where the work on a large image lies until it is done, so that a run that was killed goes on."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.files import atomic_write, remove, sha256_file
from pipeline.errors import ImageError, InputError
from pipeline.results.lock import STATE, writing
from pipeline.types import FORMAT_VERSION, Case

_FOLDER, _ABOUT = f"{STATE}/large", "work.json"


def name_work(case: Case, sha256: str, model: str, settings: str) -> str:
    """What the work on an image of this content is of, and by whom; a copy of the image has work of its own."""
    return f"{case.relative} {sha256} {model} {settings}"


def scratch_folder(out: Path, identity: str) -> Path:
    """Where an image's work lies until it is done: found again by a run that goes on with the same work."""
    return out / _FOLDER / hashlib.sha256(identity.encode()).hexdigest()[:16]


@contextmanager
def begin_work(out: Path, identity: str, case: Case, sha256: str) -> Iterator[Path]:
    """The scratch folder of the work called `identity` on an image whose content is `sha256`.

    What is wrong with the image itself (ImageError) will be wrong again: the folder is removed. Raises OutputError.
    """
    folder = scratch_folder(out, identity)
    about = {"format_version": FORMAT_VERSION, "identity": identity, "image": case.relative, "sha256": sha256}
    atomic_write(folder / _ABOUT, json.dumps(about).encode(), durable=False)
    try:
        yield folder
    except ImageError:
        remove(folder)
        raise


def drop_others(out: Path, cases: Iterable[Case], model: str, settings: str) -> int:
    """Remove the work on what is not to be done: other images, other content, model or settings; returns how many.

    Of the images that were begun alone the content is read. Only for who holds the folder. Raises OutputError.
    """
    known = {case.relative: case for case in cases}
    with writing(out):
        others = [folder for folder in (out / _FOLDER).glob("*") if not _wanted(folder, known, model, settings)]
        for folder in others:
            remove(folder)
    return len(others)


def _wanted(folder: Path, known: dict[str, Case], model: str, settings: str) -> bool:
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        case, sha256, identity = known[about["image"]], about["sha256"], about["identity"]
        return bool(about["format_version"] == FORMAT_VERSION) and (
            identity == name_work(case, sha256, model, settings) and sha256_file(case.image) == sha256
        )
    except InputError:  # cannot be read now, which says nothing of what it holds
        return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
