"""A data set from a server of our own to a folder that maskline reads: licence, checksum, resuming, all or nothing."""

import hashlib
import io
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from pipeline.config import IngestConfig
from pipeline.data.arrange import Pairs
from pipeline.data.ingest import ingest
from pipeline.data.public_sets import Archive, PublicSet
from pipeline.errors import InputError, LayoutError, LockedError, OutputError, UsageError
from pipeline.runs import get_data as module
from pipeline.runs.get_data import RECORD, describe_set, get_data

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from http_server import Site, serve


def archive_of(names=("a", "b")):
    """A zip of images and labels."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, name in enumerate(names):
            image = np.random.default_rng(number).integers(0, 255, (80, 90, 3), np.uint8)
            archive.writestr(f"made/images/{name}.png", cv2.imencode(".png", image)[1].tobytes())
            archive.writestr(
                f"made/labels/{name}.png", cv2.imencode(".png", (image[..., 0] > 99).astype(np.uint8))[1].tobytes()
            )
    return file.getvalue()


BODY = archive_of()


@pytest.fixture
def site(monkeypatch, tmp_path):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    site = Site({"/made.zip": BODY})
    server = serve(site)
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def made(site):
    """A set as the table has them; its archive lies on the server."""
    digest = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    return PublicSet(
        name="made",
        title="A made set",
        page="https://example.org/made",
        archives=(Archive("made.zip", f"{site.address}/made.zip", digest, "this test", len(BODY)),),
        licence="CC0 1.0",
        licence_url="https://creativecommons.org/publicdomain/zero/1.0/",
        arrangement=Pairs(r"images/([^/]+)\.png$", r"labels/([^/]+)\.png$"),
        holds="images and labels",
        then="maskline ingest {folder} --masks classes --out made.csv",
    )


def unknown(made, **changes):
    """The same set, for which nobody has published a checksum."""
    return replace(made, archives=(replace(made.archives[0], checksum=None, vouched="", size=None, **changes),))


def beside(out):
    return sorted(path.name for path in out.parent.iterdir() if path.name != "home")


def test_a_set_is_there_in_one_call_and_ingest_reads_it(made, site, tmp_path):
    """Nothing is left beside it; a second call says it is there and asks nobody."""
    out = tmp_path / "made"
    got = get_data(made, out, accepted=True)
    assert got.lines()[0].endswith(": 4 files") and f"maskline ingest {out} --masks" in got.lines()[-1]
    assert beside(out) == ["made"]
    manifest = ingest(IngestConfig(folder=out, manifest=tmp_path / "made.csv", masks="classes")).manifest
    assert [case.id for case in manifest.cases] == ["images/a", "images/b"]
    assert manifest.cases[0].mask_kind == "classes"
    again = get_data(made, out)
    assert again.files is None and again.lines()[0].endswith("is there already")
    assert len(site.asked) == 1


def test_the_record_says_where_it_is_from(made, tmp_path):
    """Addresses, digests, licence, and when it was accepted."""
    get_data(made, tmp_path / "made", accepted=True)
    record = json.loads((tmp_path / "made" / RECORD).read_text())
    assert (record["format_version"], record["name"], record["licence"]) == (1, "made", "CC0 1.0")
    row = record["archives"][0]
    assert row["sha256"] == hashlib.sha256(BODY).hexdigest() and row["md5"] == hashlib.md5(BODY).hexdigest()
    assert row["published_by"] == "this test" and row["bytes"] == len(BODY)


def test_the_licence_has_to_be_accepted(made, site, tmp_path):
    """Before anything is asked for; what has to be read is named, with its size."""
    with pytest.raises(UsageError, match=r"CC0 1\.0.*--accept-licence.*publicdomain"):
        get_data(made, tmp_path / "made")
    assert not site.asked and not (tmp_path / "made").exists()
    told = "\n".join(describe_set(made))
    assert "CC0 1.0" in told and "publicdomain/zero" in told and "MB" in told


def test_a_broken_download_is_gone_on_with_by_the_next_call(made, site, tmp_path, monkeypatch):
    """The line is down for good; the same command later fetches only the rest."""
    monkeypatch.setattr("pipeline.data.download.time.sleep", lambda seconds: None)
    site.break_after = [16384] + [0] * 20
    with pytest.raises(InputError, match="failures in a row"):
        get_data(made, tmp_path / "made", accepted=True)
    assert beside(tmp_path / "made") == [".made.download"]
    site.break_after = []
    get_data(made, tmp_path / "made", accepted=True)
    assert site.asked[-1]["range"] == "bytes=16384-"
    assert beside(tmp_path / "made") == ["made"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_another_checksum_is_refused_before_unpacking(made, site, tmp_path, kind, monkeypatch):
    """The file is removed, so that the next call fetches it again."""
    monkeypatch.setattr(module, "unpack", None)
    wrong = replace(made.archives[0], checksum=f"{kind}:" + "0" * (64 if kind == "sha256" else 32))
    with pytest.raises(InputError, match="this test has another file on record"):
        get_data(replace(made, archives=(wrong,)), tmp_path / "made", accepted=True)
    assert beside(tmp_path / "made") == []


def test_without_a_published_checksum_the_digest_is_told_and_kept(made, site, tmp_path):
    """The first download is believed, a later one that differs is not."""
    first = get_data(unknown(made), tmp_path / "one", accepted=True)
    digest = hashlib.sha256(BODY).hexdigest()
    assert digest in first.lines()[1] and "kept for the next time" in first.lines()[2]
    again = get_data(unknown(made), tmp_path / "two", accepted=True)
    assert "it is what was fetched before" in again.lines()[2]
    site.files["/made.zip"] = archive_of(("c",))
    with pytest.raises(InputError, match="what was fetched from there before was another"):
        get_data(unknown(made), tmp_path / "three", accepted=True)
    (tmp_path / "home" / "downloads.json").write_text("{")
    assert get_data(unknown(made), tmp_path / "three", accepted=True).files == 2


def test_a_set_that_takes_an_account_says_what_to_do(made, tmp_path):
    """What to download, from where, and how to go on; the given file is unpacked and stays."""
    manual = unknown(made, url="")
    with pytest.raises(InputError, match="takes an account") as caught:
        get_data(manual, tmp_path / "made")
    assert "download made.zip from https://example.org/made" in caught.value.hint
    given = tmp_path / "archive(1).zip"
    given.write_bytes(BODY)
    got = get_data(manual, tmp_path / "made", accepted=True, files=[given])
    assert got.files == 4 and given.exists() and hashlib.sha256(BODY).hexdigest() in got.lines()[1]
    assert got.lines()[2].endswith("nobody has published one to compare with")
    assert not (tmp_path / "home" / "downloads.json").exists()


def test_given_files_are_checked_too(made, site, tmp_path):
    """By the published checksum, by number and by name; what a person gave is never removed."""
    other = tmp_path / "made.zip"
    other.write_bytes(b"other")
    with pytest.raises(InputError, match="another file on record"):
        get_data(made, tmp_path / "made", accepted=True, files=[other])
    assert other.exists() and not site.asked
    with pytest.raises(UsageError, match=r"2 files, wanted 1: made\.zip"):
        get_data(made, tmp_path / "made", accepted=True, files=[other, other])
    with pytest.raises(InputError, match="a file that can be read"):
        get_data(made, tmp_path / "made", accepted=True, files=[tmp_path / "nothing.zip"])


def test_a_given_file_is_no_measure_for_downloads(made, site, tmp_path):
    """Whatever a person gave, what is fetched first is what later downloads are compared with."""
    other = tmp_path / "other.zip"
    other.write_bytes(archive_of(("c",)))
    get_data(unknown(made), tmp_path / "one", accepted=True, files=[other])
    get_data(unknown(made), tmp_path / "two", accepted=True)
    assert get_data(unknown(made), tmp_path / "three", accepted=True, files=[other]).files == 2


def test_nothing_is_left_of_a_download_that_never_began(made, site, tmp_path):
    """No empty folder beside the data."""
    site.statuses = [404]
    with pytest.raises(InputError, match="HTTP 404"):
        get_data(made, tmp_path / "made", accepted=True)
    assert beside(tmp_path / "made") == []


def test_files_are_known_by_name_else_by_order(made, tmp_path):
    """Two archives, given the other way round."""
    two = replace(made, archives=(Archive("x.zip"), Archive("y.zip")))
    x, y = tmp_path / "x.zip", tmp_path / "y.zip"
    assert module._given(two, [y, x]) == {"x.zip": x, "y.zip": y}
    assert module._given(two, [y, tmp_path / "z"]) == {"x.zip": y, "y.zip": tmp_path / "z"}


def test_a_folder_with_something_else_is_left_alone(made, site, tmp_path):
    """Of the user, or another set; an empty folder is as none."""
    out = tmp_path / "made"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="got other files, wanted nothing there, or made"):
        get_data(made, out, accepted=True)
    (out / "mine.txt").unlink()
    get_data(made, out, accepted=True)
    with pytest.raises(OutputError, match="got made, wanted nothing there, or else"):
        get_data(replace(made, name="else"), out, accepted=True)


def test_what_fails_leaves_nothing_behind_but_the_download(made, site, tmp_path):
    """An archive of another set: no half-filled folder; what an earlier, killed call left is cleared."""
    (tmp_path / ".made.unpacking" / "archive").mkdir(parents=True)
    (tmp_path / ".made.unpacking" / "archive" / "old.png").write_text("")
    with pytest.raises(LayoutError, match="set's own archive"):
        get_data(replace(made, arrangement=Pairs(r"(x)\.jpg", r"(x)\.png")), tmp_path / "made", accepted=True)
    assert beside(tmp_path / "made") == [".made.download"]


def test_two_at_a_time_are_kept_apart(made, tmp_path):
    """The second is told to wait."""
    with FileLock(tmp_path / ".made.lock"), pytest.raises(LockedError, match="one at a time"):
        get_data(made, tmp_path / "made", accepted=True)


def test_the_command_asks_shows_and_refuses(made, site, tmp_path, monkeypatch, capsys):
    """Licence and page are shown; without a terminal and without the flag nothing is fetched, with exit code 2."""
    from flows.cli import run

    monkeypatch.setattr("pipeline.data.public_sets.SETS", {"made": made})
    monkeypatch.setenv("MASKLINE_DATA", str(tmp_path / "sets"))
    assert run(["data", "get", "made"]) == 2
    shown = capsys.readouterr()
    assert "licence   CC0 1.0" in shown.out and "--accept-licence" in shown.err and not site.asked
    assert run(["data", "get", "nothing"]) == 2
    assert run(["data", "get", "made", "--accept-licence"]) == 0
    shown = capsys.readouterr()
    assert f"next      maskline ingest {tmp_path / 'sets' / 'made'}" in shown.out
    assert run(["data", "get", "made"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert run(["data", "list"]) == 0
    assert "made  A made set" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_a_person_is_asked(made, tmp_path, monkeypatch, answer, code):
    """On a terminal, yes goes on and no does not."""
    import click

    from flows.cli import run

    monkeypatch.setattr("pipeline.data.public_sets.SETS", {"made": made})
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda text, default: answer == "y\n")
    assert run(["data", "get", "made", "--out", str(tmp_path / "made")]) == code
    assert (tmp_path / "made").exists() == (code == 0)
