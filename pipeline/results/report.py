"""The report of a folder: one HTML file that needs nothing beside it, the worst and the flagged images first.

It runs where scripts may run but nothing may be loaded, linked or stored (MLflow's viewer), and so carries its
pictures, style and script within. What does not fit into 25 MB goes on to further pages beside it.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.results.cards import (
    Card,
    flag_counts,
    group_summaries,
    read_cards,
    summarise,
    values_of,
    worst_first,
)
from pipeline.results.class_areas import class_areas, percent
from pipeline.results.marks import flatten
from pipeline.results.pictures import split_preview
from pipeline.results.plots import dots, histogram, number
from pipeline.results.quality import FLAGS
from pipeline.types import FORMAT_VERSION

if TYPE_CHECKING:
    import pandas as pd

CARDS = 240  # pictures a page
CARD_BYTES = 16_000_000  # of pictures a page, as they stand in the file
PICTURE_BYTES = 2_000_000  # a larger one is left out
ROWS = 3000  # of the table


def _data_uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if data else ""


def _pages(cards: Sequence[Card], pictures: Mapping[str, bytes]) -> Iterator[list[Card]]:
    """The cards with their pictures, as many a page as fit; there is always a first page, be it empty."""
    page: list[Card] = []
    filled = 0
    for card in cards:
        plain, lines = (_data_uri(part) for part in split_preview(pictures.get(card.name, b"")))
        if len(plain) + len(lines) > PICTURE_BYTES:
            plain = lines = ""
        if page and (len(page) >= CARDS or filled + len(plain) + len(lines) > CARD_BYTES):
            yield page
            page, filled = [], 0
        page.append(Card(**{**vars(card), "plain": plain, "lines": lines}))
        filled += len(plain) + len(lines)
    yield page


def _plots(cards: Sequence[Card], objects: "pd.DataFrame | None") -> list[tuple[str, str]]:
    done = [card for card in cards if card.status != "failed"]
    counts, flagged = values_of(done, "objects"), np.array([bool(card.flags) for card in done], bool)
    names = [card.name for card in done]
    found = [
        ("Objects in each image", histogram(counts, "Objects in each image", "objects")),
        (
            "Along the folder",
            dots(counts, flagged, names, "Objects along the folder", "images in order of their names"),
        ),
    ]
    if objects is not None and len(objects):
        unit = "um" if "equivalent_diameter_um" in objects and objects["equivalent_diameter_um"].notna().all() else "px"
        for title, column, label in (
            ("Size of the objects", f"equivalent_diameter_{unit}", f"equivalent diameter, {unit.replace('um', 'µm')}"),
            ("Confidence", "confidence", "how sharp an object is, and how well it agrees with the network, 0 to 1"),
        ):
            if column in objects:
                found.append((title, histogram(np.asarray(objects[column], np.float64), title, label)))
    return [(title, plot) for title, plot in found if plot]


def _facts(run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """run.json as sections of flat facts: each mapping in it a section, the plain values in one called run."""
    plain = {key: value for key, value in run.items() if not isinstance(value, Mapping | list | None)}
    sections = {"run": plain, **{key: value for key, value in run.items() if isinstance(value, Mapping)}}
    return {title.replace("_", " "): flatten(section) for title, section in sections.items() if section}


def _model_name(run: Mapping[str, Any]) -> str:
    model = run.get("model", "")
    if not isinstance(model, Mapping):
        return str(model)
    version = str(model.get("version", ""))
    return f"{model.get('name', '')} {version and 'version ' + version}".strip()


def _when(moment: Any) -> str:
    """A moment in ISO 8601 in this machine's time zone, as people write it; other text as it is."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    except ValueError:
        return str(moment)


def _title(run: Mapping[str, Any]) -> str:
    folder = str(run.get("title") or run.get("folder") or "Segmentation")
    return re.split(r"[\\/]", folder.rstrip("\\/"))[-1] or folder


def render(template: str, **values: Any) -> str:
    """Fill a template that lies beside this module; what is put in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent}
    return environment.get_template(template).render(**values)


def write_report(
    out: Path,
    images: "pd.DataFrame",
    objects: "pd.DataFrame | None",
    pictures: Mapping[str, bytes],
    run: Mapping[str, Any],
) -> Path:
    """Write `out/report.html` and, where the pictures need them, `report-2.html` ... beside it; answers the first.

    Parameters
    ----------
    images : images.csv: case (or path), status, group, objects, density, area, confidence, flags, error, hint, stage
    objects : objects.parquet; `equivalent_diameter_px` (`_um`) and `confidence` are drawn
    pictures : case -> preview or PNG or JPEG bytes; asked for one at a time, so that it may read from the disk
    run : run.json: `folder`, `model`, `started`, `seconds` stand in the head, everything in the details; `classes` are
        the legend of class maps, whose colours then lie over the pictures, and whose parts of the pixels
        (`fraction_NAME` of images.csv) stand where objects would be counted
    """
    legend: Sequence[Mapping[str, Any]] = run.get("classes", ())
    cards = read_cards(images, [entry["name"] for entry in legend])
    shown = worst_first(cards)
    failed = [card for card in cards if card.status == "failed"]
    shared = {
        "title": _title(run),
        "model": _model_name(run),
        "started": _when(run.get("started", "")),
        "summary": summarise(cards),
        "flag_counts": flag_counts(cards),
        "flag_titles": {code: title for code, (title, _) in FLAGS.items()},
        "legend": legend,
        "areas": class_areas(cards, legend),
        "format_version": FORMAT_VERSION,
    }
    first: dict[str, Any] = {
        "failed": failed[:ROWS],
        "groups": group_summaries(cards)[:ROWS],
        "plots": [] if legend else _plots(cards, objects),
        "rows": (failed + shown)[:ROWS],
        "rows_left_out": max(0, len(cards) - ROWS),
        "facts": _facts(run),
    }
    placed = 0
    names = []
    for page, part in enumerate(_pages(shown, pictures), 1):
        placed += len(part)
        rest = first if page == 1 else dict.fromkeys(first, ())
        html = render("report.html", cards=part, page=page, more=placed < len(shown), **shared, **rest)
        names.append("report.html" if page == 1 else f"report-{page}.html")
        atomic_write(out / names[-1], html.encode())
    for old in out.glob("report-*.html"):  # of a run that had more
        if re.fullmatch(r"report-\d+\.html", old.name) and old.name not in names:
            old.unlink()
    return out / "report.html"
