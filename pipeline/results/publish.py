"""What a lab member finds on a segmentation's MLflow page: counts, flags and failures, then pictures and report."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.results.cards import Card, flag_counts, pooled_fractions, read_cards, summarise, worst_first
from pipeline.results.class_areas import percent
from pipeline.results.pictures import contact_sheet, is_picture, png
from pipeline.results.plots import number
from pipeline.results.run import Run

if TYPE_CHECKING:
    import pandas as pd

NOTE = 7500  # characters; MLflow keeps 8,000 of a description
NAMES = 6  # images named a line
FAILURES = 12
TILES = 12


def _safe(text: str, most: int = 160) -> str:
    """Text that is only text in a Markdown table.

    >>> _safe("a|b <i>.png")
    'a&#124;b &lt;i&gt;.png'
    """
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    plain = " ".join(short.replace("&", "&amp;").split())
    for raw, safe in (("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"), ("*", "&#42;"), ("_", "&#95;")):
        plain = plain.replace(raw, safe)
    return plain


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] if rows else []


def _named(cards: Sequence[Card]) -> str:
    more = f" and {len(cards) - NAMES:,} more" if len(cards) > NAMES else ""
    return ", ".join(_safe(card.name, 60) for card in cards[:NAMES]) + more


def _read(images: "pd.DataFrame", run: Mapping[str, Any]) -> list[Card]:
    return read_cards(images, [entry["name"] for entry in run.get("classes", ())])


def _found(cards: Sequence[Card], numbers: Mapping[str, float]) -> str:
    """What is in the images: how many objects, or how much of which classes."""
    parts = sorted(pooled_fractions(cards).items(), key=lambda pair: -pair[1])
    if parts:
        return f"{', '.join(f'{_safe(name, 60)} {percent(part)}' for name, part in parts[:NAMES])}**"
    median = f"{number(numbers['median_objects'])} an image" if numbers["done"] else "–"
    return f"{number(numbers['objects'])} objects** (median {median})"


def write_note(images: "pd.DataFrame", run: Mapping[str, Any], picture: str = "") -> str:
    """The description of a segmentation run, in Markdown: counts and flags in the first lines, which stand open.

    `picture` is the address of the gallery, seen from the page.
    """
    cards = _read(images, run)
    numbers = summarise(cards)
    done = worst_first(cards)
    failed = [card for card in cards if card.status == "failed"]
    raised = flag_counts(cards)
    flags = [
        [f"**{title}**", number(many), _named([card for card in done if code in card.flags]), advice]
        for code, title, advice, many in raised
    ]
    failures = [[_safe(c.name), _safe(c.error, 240), _safe(c.hint, 240)] for c in failed[:FAILURES]]
    parts = [
        f"**{number(numbers['done'])} images · {_found(cards, numbers)} · "
        f"**{number(numbers['flagged'])} to look at · {number(numbers['failed'])} failed**",
        "",
        *(["To look at: " + ", ".join(f"{title} {many:,}" for _, title, _, many in raised), ""] if raised else []),
        "All pictures, flagged first: tab **Artifacts**, `report.html`",
        "",
        *([f"![the first pictures of the report]({picture})", ""] if picture else []),
        *_table(["flag", "images", "which", "look for"], flags),
        "",
        *_table(["failed", "what happened", "what to do"], failures),
        "",
        *(f"{name}: {_safe(str(run[name]), 300)}  " for name in ("folder", "out") if run.get(name)),
    ]
    note = "\n".join(parts).rstrip()
    return note if len(note) <= NOTE else f"{note[:NOTE].rpartition(chr(10))[0]}\n\n… more in report.html"


def gallery(images: "pd.DataFrame", pictures: Mapping[str, bytes]) -> bytes:
    """One PNG of the first pictures of the report, outlined; b"" where there is none."""
    chosen: list[tuple[str, bytes]] = []
    for card in worst_first(read_cards(images)):
        if len(chosen) == TILES:
            break
        data = pictures.get(card.name)
        if data and is_picture(data):
            counted = f"{number(card.objects)}  " if math.isfinite(card.objects) else ""
            chosen.append((counted + card.name, data))
    return png(contact_sheet(chosen)) if chosen else b""


def publish(run: Run, images: "pd.DataFrame", pictures: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Put what a folder looks like on its MLflow run: metrics (flags, medians, classes), description, gallery.png.

    The three last are what `write_report` was given. Files (report.html, images.csv) are the caller's to log.
    """
    cards = _read(images, facts)
    numbers = summarise(cards)
    medians = {name: numbers[name] for name in ("flagged", "median_objects", "median_area", "confidence")}
    parts = {f"fraction/{name}": part for name, part in pooled_fractions(cards).items()}
    run.log_metrics(medians | parts | {f"flags/{code}": float(many) for code, _, _, many in flag_counts(cards)})
    sheet = gallery(images, pictures)
    if sheet:
        run.log_picture(sheet, "gallery.png")
    run.set_note(write_note(images, facts, f"get-artifact?path=gallery.png&run_uuid={run.id}" if sheet else ""))
