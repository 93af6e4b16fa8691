"""Downloads against a server of our own: resumed where they broke off, whole or not at all."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.data import download as module
from pipeline.data.download import ATTEMPTS, download
from pipeline.errors import InputError, OutputError

sys.path.insert(0, str(Path(__file__).parent))
from http_server import Site, serve

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def site(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    site = Site({"/set.zip": BODY})
    server = serve(site)
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(site, tmp_path):
    def start(path="/set.zip", **how):
        target = tmp_path / "down" / "set.zip"
        download(site.address + path, target, **{"pause": 0.0} | how)
        return target

    return start


def test_a_file_comes_whole_and_once(site, fetch):
    """Its own bytes, nothing left beside it; a second call asks nobody."""
    target = fetch(size=len(BODY))
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["set.zip"]
    fetch()
    assert len(site.asked) == 1 and site.asked[0]["accept-encoding"] == "identity"


def test_a_broken_connection_is_gone_on_with(site, fetch):
    """Twice broken off: the rest is asked for, of that very version, and the file is whole."""
    site.break_after = [18 * 16384, 6 * 16384 + 5]
    assert fetch().read_bytes() == BODY
    assert [asked.get("range") for asked in site.asked] == [None, f"bytes={18 * 16384}-", f"bytes={24 * 16384}-"]
    assert site.asked[1]["if-range"] == '"one"'


def test_a_killed_download_is_gone_on_with_by_the_next_call(site, fetch, tmp_path):
    """What lies there from another process is used."""
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "set.zip.part").write_bytes(BODY[:1000])
    mark = {"url": site.address + "/set.zip", "version": '"one"'}
    (tmp_path / "down" / "set.zip.part.json").write_text(json.dumps(mark))
    assert fetch().read_bytes() == BODY
    assert site.asked[0]["range"] == "bytes=1000-"


@pytest.mark.parametrize("mark", ['{"url": "http://other/", "version": "x"}', "{", "[]", None])
def test_a_part_of_another_file_is_not_gone_on_with(site, fetch, tmp_path, mark):
    """Another address, or nothing to know it by: from the beginning."""
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "set.zip.part").write_bytes(b"something else")
    if mark is not None:
        (tmp_path / "down" / "set.zip.part.json").write_text(mark)
    assert fetch().read_bytes() == BODY
    assert "range" not in site.asked[0]


def test_a_file_that_changed_meanwhile_is_begun_again(site, fetch):
    """The server has another version: it sends all of it, and nothing of the old one stays."""
    site.break_after = [300_000]

    def change(event):
        site.etag, site.files["/set.zip"] = '"two"', BODY[::-1]

    assert fetch(watch=change).read_bytes() == BODY[::-1]
    assert site.asked[1]["if-range"] == '"one"'


@pytest.mark.parametrize(("etag", "ranges"), [('"one"', False), ("", True), ('W/"weak"', True)])
def test_a_server_without_ranges_or_versions_is_begun_again(site, fetch, etag, ranges):
    """Slower, and right."""
    site.etag, site.ranges, site.break_after = etag, ranges, [300_000]
    assert fetch().read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_whole_part_is_taken_as_it_is(site, fetch, tmp_path):
    """Killed between the last byte and the renaming: "nothing beyond that" is the end."""
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "set.zip.part").write_bytes(BODY)
    mark = {"url": site.address + "/set.zip", "version": '"one"'}
    (tmp_path / "down" / "set.zip.part.json").write_text(json.dumps(mark))
    assert fetch(size=len(BODY)).read_bytes() == BODY
    assert len(site.asked) == 1


def test_a_part_that_is_too_long_is_begun_again(site, fetch, tmp_path):
    """The server says there is no such range, and it is not the end either."""
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "set.zip.part").write_bytes(BODY + b"more")
    mark = {"url": site.address + "/set.zip", "version": '"one"'}
    (tmp_path / "down" / "set.zip.part.json").write_text(json.dumps(mark))
    assert fetch().read_bytes() == BODY
    assert [asked.get("range") for asked in site.asked] == [f"bytes={len(BODY) + 4}-", None]


def test_a_busy_server_is_asked_again(site, fetch, monkeypatch):
    """503 and 429 are waited for, as long as the server says."""
    slept = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append))
    site.statuses, site.retry_after = [503, 429], "7"
    assert fetch(pause=1.0).read_bytes() == BODY
    assert slept == [7.0, 7.0]


def test_pauses_grow_and_end(site, fetch, monkeypatch):
    """Doubled from one failure to the next; after so many in a row it is an error that says what to do."""
    slept = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append))
    site.statuses = [500] * 20
    with pytest.raises(InputError, match="6 failures in a row, the last: HTTP 500") as caught:
        fetch(pause=1.0)
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0] and len(site.asked) == ATTEMPTS
    assert "--from" in caught.value.hint


def test_waiting_is_told(site, fetch):
    """Why nothing comes, and when it is tried again."""
    events = []
    site.statuses = [503]
    fetch(watch=events.append)
    assert events[0].fields == {"file": "set.zip", "broken_off": "HTTP 503 Service Unavailable", "again_in": "0 s"}


def test_progress_resets_the_count_of_failures(site, fetch):
    """A line that breaks off again and again, but brings bytes each time, gets there."""
    site.break_after = [50_000] * 15
    assert fetch().read_bytes() == BODY
    assert len(site.asked) == 16


def test_what_is_not_there_is_said_at_once(site, fetch, tmp_path):
    """404 is no matter of patience."""
    with pytest.raises(InputError, match="HTTP 404"):
        fetch("/other.zip")
    assert len(site.asked) == 1
    assert not (tmp_path / "down" / "set.zip").exists()


def test_no_server_is_said(tmp_path):
    """Nobody listens: the address, and that it was tried."""
    with pytest.raises(InputError, match=r"failures in a row, the last: .*Connection refused"):
        download("http://127.0.0.1:9/set.zip", tmp_path / "set.zip", pause=0.0)


def test_a_file_of_another_size_is_refused_before_it_is_fetched(site, fetch, tmp_path):
    """The table says how long it is."""
    with pytest.raises(InputError, match=r"1,048,576 bytes, wanted 7"):
        fetch(size=7)
    assert not list((tmp_path / "down").iterdir())


def test_without_a_length_the_size_on_record_decides(site, fetch):
    """A server that says no length and stops early."""
    site.length, site.etag = False, ""
    assert fetch(size=len(BODY)).read_bytes() == BODY
    site.files["/short.zip"] = BODY[:100]
    with pytest.raises(InputError, match="100 of 1,048,576 bytes"):
        download(site.address + "/short.zip", Path(str(fetch()) + ".short"), size=len(BODY), pause=0.0)


def test_a_disk_that_is_full_is_said_beforehand(site, fetch, monkeypatch):
    """Nothing is fetched that has no room."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="1 MB free"):
        fetch()


def test_a_folder_that_cannot_be_made_is_said(site, tmp_path):
    """A file stands where the folder should."""
    (tmp_path / "down").write_text("")
    with pytest.raises(OutputError, match="a folder to download to"):
        download(site.address + "/set.zip", tmp_path / "down" / "set.zip")


def test_https_is_not_left(tmp_path):
    """A way from https to http is refused: nobody vouches for what comes."""
    part = module._Part(tmp_path / "x.part", "https://here/x")
    with pytest.raises(InputError, match="https to the end"):
        module._check_answer(SimpleNamespace(url="http://there/x", status_code=200, reason="OK"), part)


def test_progress_is_told_in_megabytes(site, fetch):
    """From what is there to the whole; the file's own name."""
    events = []
    site.break_after = [600_000]
    fetch(watch=events.append)
    assert events[-1].done == events[-1].total == 2
    assert events[-1].fields == {"file": "set.zip"} and events[-1].stage == "fetch"
    assert events[0].fields["file"] == "set.zip" and all(a.done <= b.done for a, b in pairwise(events))
