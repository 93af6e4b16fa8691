"""Check a results folder against its ledger, byte by byte, where `segment` trusts the file system's stamps."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.files import sha256_file, walk_files
from pipeline.errors import InputError, LockedError, OutputError
from pipeline.results.ledger import Entry, Ledger, Product, seal_segment, segment_name
from pipeline.results.lock import STATE, hold_folder
from pipeline.runs.collect_results import forget_tables, read_mark
from pipeline.runs.segment_chunk import LEDGER, SHARDS
from pipeline.types import Event, Finding, Watch, unwatched

_AGAIN = "run maskline segment on the folder again: it is done anew"


@dataclass(frozen=True)
class Verified:
    """`checked` files were hashed; `findings` are those that are not as the ledger has them (notes are no trouble)."""

    out: Path
    checked: int
    images: int
    root: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 3

    def lines(self) -> list[str]:
        """For a person: every finding, then the sum."""
        lines = [f"{f.severity:<8} {f.file}: {f.what}; {f.fix}" for f in self.findings]
        wrong = sum(finding.severity != "note" for finding in self.findings)
        verdict = "everything is as it was written" if self.ok else f"{wrong:,} not as written"
        return [
            *lines,
            f"{self.checked:,} files of {self.images:,} images checked: {verdict} (ledger {self.root[:12]})",
        ]


def _differs(path: Path, product: Product) -> str:
    """What is wrong with a file, by its content; "" when nothing is."""
    if not path.exists():
        return "it is missing"
    try:
        return "" if sha256_file(path) == product.sha256 else "its content has changed since it was written"
    except InputError as error:
        return f"it cannot be read ({error.came})"


def _check_entry(out: Path, entry: Entry) -> Iterator[Finding]:
    for name, product in entry.outputs.items():
        wrong = _differs(out / name, product)
        if wrong:
            yield Finding(entry.path, name, "output_changed", wrong, _AGAIN, "error")


def _check_files(out: Path, ledger: Ledger) -> Iterator[Finding]:
    """Segments, shards that are needed, and the tables."""
    for name in ledger.damaged:
        yield Finding("", f"{LEDGER}/{name}", "segment_damaged", "its seal does not fit", _AGAIN, "error")
    for name in sorted({entry.shard for entry in ledger.entries.values() if entry.shard}):
        wrong = (
            _differs(out / SHARDS / name, ledger.shards[name]) if name in ledger.shards else "nothing vouches for it"
        )
        if wrong:
            yield Finding("", f"{SHARDS}/{name}", "shard_changed", wrong, _AGAIN, "error")
    for name, product in read_mark(out).items():
        wrong = _differs(out / name, product)
        if wrong:
            fix = "run maskline segment on the folder again: it is written anew"
            yield Finding("", name, "table_changed", wrong, fix, "error")


def _strangers(out: Path, ledger: Ledger) -> Iterator[Finding]:
    known = {name for entry in ledger.entries.values() for name in entry.outputs}
    labels = out / "labels"
    for path in sorted(walk_files(labels)):
        name = path.relative_to(out).as_posix()
        if path.exists() and name not in known:
            yield Finding("", name, "not_on_record", "not in the ledger", "move it elsewhere if it is yours", "note")


def _withdraw(ledger: Ledger, findings: Iterable[Finding]) -> None:
    """Put on record what does not check out, so that the next run does it again whatever the stamps say."""
    names = {f.file.rpartition("/")[2] for f in findings if f.code == "shard_changed"}
    cases = {f.case for f in findings if f.code == "output_changed"}
    wrong = [e for e in ledger.entries.values() if e.status == "done" and (e.path in cases or e.shard in names)]
    if wrong:
        name = segment_name(ledger.next_run(), 0)
        seal_segment(ledger.folder, name, [replace(entry, status="withdrawn", shard="") for entry in wrong])


def verify_folder(out: Path, watch: Watch = unwatched) -> Verified:
    """Hash every output, shard and table of `out` and compare with the ledger.

    What does not check out is withdrawn in the ledger (where the folder can be written), so that the next
    `maskline segment` does it again. Raises OutputError when `out` is no results folder, and LockedError while a run
    holds it.
    """
    if not (out / STATE).is_dir():
        came = "no results of maskline" if out.is_dir() else "nothing there"
        raise OutputError(f"folder {out}", came, "the --out folder of a segmentation", "check the path")
    with contextlib.ExitStack() as stack:
        writable = True
        try:
            stack.enter_context(hold_folder(out, mark=False))
        except LockedError:
            raise
        except OutputError:  # a read-only archive can be verified too
            writable = False
        ledger = Ledger(out / LEDGER)
        entries = [entry for entry in ledger.entries.values() if entry.status == "done"]
        findings: list[Finding] = []
        for number, entry in enumerate(entries):
            findings += _check_entry(out, entry)
            watch(Event("verify", number + 1, len(entries), {"wrong": len(findings)}))
        findings += [*_check_files(out, ledger), *_strangers(out, ledger)]
        if writable:
            _withdraw(ledger, findings)
            if any(finding.code == "table_changed" for finding in findings):
                forget_tables(out)
    checked = (
        sum(len(entry.outputs) for entry in entries) + len({e.shard for e in entries if e.shard}) + len(read_mark(out))
    )
    return Verified(out, checked, len(entries), ledger.root, tuple(findings))
