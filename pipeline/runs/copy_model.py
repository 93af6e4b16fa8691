"""A copy of a model whose record says something else: a rule for background, other thresholds."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.files import atomic_write, move_into_place, temporary_name
from pipeline.errors import OutputError


def refuse_existing(out: Path) -> None:
    """Raise OutputError where `out` exists; asked before work begins."""
    if out.exists():
        raise OutputError(str(out), "something there already", "a new folder", "give another --out")


def copy_model(folder: Path, out: Path, changes: Mapping[str, Any], note: str) -> None:
    """All of the model's folder but its int8 graph, which belongs to the other's digest; the record with `changes`.

    A card is about the model that was copied: `note`, a sentence on what differs now, goes below its title.
    """
    from pipeline.model.bundle import CARD, RECORD

    refuse_existing(out)
    copy = temporary_name(out)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("int8-*"))
    tree = json.loads((folder / RECORD).read_text(encoding="utf-8")) | changes
    atomic_write(copy / RECORD, (json.dumps(tree, indent=2) + "\n").encode())
    card = copy / CARD
    if card.is_file():
        title, _, rest = card.read_text(encoding="utf-8").partition("\n")
        told = f"{title}\n\n> {note} What follows was written of the model before that.\n{rest}"
        atomic_write(card, told.encode())
    move_into_place(copy, out)
