"""Ingest a folder and write what came of it: the manifest, the findings, and a page that shows the near-duplicates."""

import csv
import html
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import IngestConfig
from pipeline.data.files import atomic_write
from pipeline.data.images import open_image
from pipeline.data.ingest import Ingested, ingest
from pipeline.data.manifest import write_manifest
from pipeline.errors import InputError
from pipeline.types import FORMAT_VERSION, Case, Finding, Watch, unwatched

COLUMNS = ("case", "file", "severity", "code", "what", "fix")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="format_version" content="{version}">
<title>{title}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fff; color: #1b1b1f }}
section {{ border-top: 1px solid #ccc; padding: .5rem 0 1rem }}
figure {{ display: inline-block; margin: 0 .75rem .5rem 0; width: 180px; vertical-align: top }}
img {{ max-width: 180px; max-height: 180px }} figcaption {{ font-size: 12px; overflow-wrap: anywhere }}
li {{ font-size: 13px; overflow-wrap: anywhere }} details {{ margin-top: .25rem }}
</style></head><body>
<h1>{title}</h1><p>{lead}</p>
{sections}
</body></html>
"""


def findings_path(manifest: Path) -> Path:
    """Where the findings of a manifest lie: `data.csv` -> `data.findings.csv`."""
    return manifest.with_suffix(".findings.csv")


def groups_path(manifest: Path) -> Path:
    """Where the page of near-duplicates lies: `data.csv` -> `data.groups.html`."""
    return manifest.with_suffix(".groups.html")


def ingest_folder(config: IngestConfig, watch: Watch = unwatched) -> Ingested:
    """Ingest `config.folder` and write manifest, findings and groups beside each other, each whole or not at all.

    With `config.strict`, errors and warnings raise InputError once everything is written; notes do not.
    """
    ingested = ingest(config, watch)
    manifest = config.manifest.absolute()
    write_manifest(manifest, ingested.manifest)
    atomic_write(findings_path(manifest), write_findings(ingested.findings).encode(errors="surrogateescape"))
    page = show_groups(manifest.stem, ingested.manifest.cases, ingested.merged_groups)
    atomic_write(groups_path(manifest), page.encode(errors="replace"))
    serious = [finding for finding in _worst_first(ingested.findings) if finding.severity != "note"]
    if config.strict and serious:
        first = serious[0]
        where = f"{config.folder}, {first.case or 'data set'}, {first.file}"
        came = f"{len(serious)} findings, the first {first.code}: {first.what}"
        raise InputError(where, came, "none (strict)", f"see {findings_path(manifest)}; {first.fix}")
    return ingested


def write_findings(findings: Sequence[Finding]) -> str:
    """The findings as CSV, errors first, below a line that names the format."""
    text = io.StringIO()
    text.write(f"# maskline findings format_version={FORMAT_VERSION}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for finding in _worst_first(findings):
        table.writerow([getattr(finding, column) for column in COLUMNS])
    return text.getvalue()


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def show_groups(title: str, cases: Sequence[Case], groups: Sequence[Mapping[str, Any]]) -> str:
    """One self-contained page: each set of near-duplicates, its pictures, and why they were taken for the same."""
    known = {case.id: case for case in cases}
    sections = [_section(number, group, known) for number, group in enumerate(groups, start=1)]
    count = sum(len(group["cases"]) for group in groups)
    lead = f"{len(groups)} sets of {count} images show the same thing in part or whole; each set lies in one split."
    heading = html.escape(f"{title}: near-duplicates")
    return _PAGE.format(version=FORMAT_VERSION, title=heading, lead=lead, sections="\n".join(sections))


def _section(number: int, group: Mapping[str, Any], known: Mapping[str, Case]) -> str:
    members = [known[name] for name in group["cases"]]
    figures = "".join(
        f'<figure><img alt="" src="{_picture(case)}"><figcaption>{html.escape(case.id)}</figcaption></figure>'
        for case in members
    )
    reasons = "".join(
        f"<li>{html.escape(m['first'])} – {html.escape(m['second'])}: {m['kind']}, {m['score']:.2f}</li>"
        for m in group["evidence"]
    )
    splits = ", ".join(sorted({case.split for case in members}))
    why = f"<details><summary>{len(group['evidence'])} matches</summary><ul>{reasons}</ul></details>"
    return f"<section><h2>{number}. {len(members)} images, {splits}</h2>{figures}{why}</section>"


def _picture(case: Case) -> str:
    from pipeline.results.pictures import jpeg, thumbnail

    image = open_image(case.image, pages=case.pages).read()
    return "data:image/jpeg;base64," + b64encode(jpeg(thumbnail(image, 180), 70)).decode()
