"""`ingest_folder` writes the manifest, the findings and the page of near-duplicates, or says why not."""

import csv

import pytest

from pipeline.config import IngestConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.simulate import simulate_dataset
from pipeline.errors import InputError
from pipeline.runs.ingest_folder import findings_path, groups_path, ingest_folder, show_groups, write_findings
from pipeline.types import Finding


@pytest.fixture
def config(tmp_path):
    simulate_dataset(tmp_path / "data", images=4, mosaic=False, broken=True)
    first = tmp_path / "data" / "fluorescence_000"
    copy = tmp_path / "data" / "copy"
    for path in sorted(first.rglob("*.png")):
        target = copy / path.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return IngestConfig(folder=tmp_path / "data", manifest=tmp_path / "out" / "cells.csv", cache=tmp_path / "cache")


def test_three_files_lie_beside_each_other(config):
    """The manifest is what was ingested; the findings have a row each; the page shows the copies in a set."""
    ingested = ingest_folder(config)
    assert read_manifest(config.manifest).digest == ingested.manifest.digest
    lines = findings_path(config.manifest).read_text().splitlines()
    assert findings_path(config.manifest).name == "cells.findings.csv"
    assert lines[0] == "# maskline findings format_version=1"
    rows = list(csv.DictReader(lines[1:]))
    assert len(rows) == len(ingested.findings)
    assert {row["code"] for row in rows} >= {"image_unreadable", "mask_wrong_size", "mask_empty", "duplicate_exact"}
    assert all(row["what"] and row["fix"] for row in rows)
    page = groups_path(config.manifest).read_text()
    assert groups_path(config.manifest).name == "cells.groups.html"
    assert "fluorescence_000" in page
    assert "exact" in page
    assert page.count("<img") == sum(len(group["cases"]) for group in ingested.merged_groups)
    assert 'src="data:image/jpeg;base64,' in page
    assert "http" not in page


def test_a_second_run_writes_the_same_bytes(config):
    """Warm or cold."""
    paths = [path(config.manifest) for path in (findings_path, groups_path, lambda manifest: manifest)]
    ingest_folder(config)
    before = [path.read_bytes() for path in paths]
    assert ingest_folder(config).warm
    assert [path.read_bytes() for path in paths] == before


def test_strict_turns_findings_into_failure_and_still_writes_them(config):
    """The error names the first finding and where all of them are."""
    with pytest.raises(InputError, match=r"findings, the first image_unreadable.*cells\.findings\.csv"):
        ingest_folder(config.model_copy(update={"strict": True}))
    assert findings_path(config.manifest).exists()


def test_strict_passes_where_there_are_notes_only(tmp_path):
    """That masks are 0/255 is worth a note, not a failure."""
    simulate_dataset(tmp_path / "data", images=2, mosaic=False, broken=False)
    config = IngestConfig(folder=tmp_path / "data", manifest=tmp_path / "a.csv", cache=tmp_path / "cache", strict=True)
    ingested = ingest_folder(config)
    assert {finding.severity for finding in ingested.findings} <= {"note"}
    assert ingested.findings


def test_errors_come_first():
    """Then warnings, then notes; commas and quotes are kept."""
    rows = [Finding("a", "", "n", 'say "x", y', "f", "note"), Finding("b", "", "e", "w", "f", "error")]
    text = write_findings(rows)
    assert [row["case"] for row in csv.DictReader(text.splitlines()[1:])] == ["b", "a"]
    assert list(csv.DictReader(text.splitlines()[1:]))[1]["what"] == 'say "x", y'


def test_a_page_without_groups_says_so():
    """No near-duplicates: a page that counts 0; names are escaped."""
    page = show_groups("<cells>", [], [])
    assert "0 sets of 0 images" in page
    assert "<cells>" not in page
