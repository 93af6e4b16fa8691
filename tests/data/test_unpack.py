"""Archives from elsewhere: what is plain comes out, what would leave the folder or fill the disk does not."""

import gzip
import io
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from pipeline.data import unpack as module
from pipeline.data.unpack import unpack
from pipeline.errors import InputError, OutputError

FILES = {"set/images/a.png": b"image", "set/labels/a.png": b"label", "set/empty.txt": b""}


def make_zip(path, files=FILES, **modes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = modes.get("mode", 0o644) << 16
            archive.writestr(info, content)
    return path


def make_tar(path, files=FILES, kind=tarfile.REGTYPE, link="", how="w:gz"):
    with tarfile.open(path, how) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o4777
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def out(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "out"


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_plain_archives_come_out_as_they_are(tmp_path, out, how):
    """Every file with its content; what mode the archive claims is not taken."""
    archive = make_zip(tmp_path / "a.zip") if how == "zip" else make_tar(tmp_path / "a.tar", how=how)
    assert unpack(archive, out) == 3
    assert everything(out) == FILES
    assert not any(path.stat().st_mode & stat.S_ISUID for path in out.rglob("*"))


@pytest.mark.parametrize(("make", "total"), [(make_zip, 3), (make_tar, 0)])
def test_progress_is_told(tmp_path, out, make, total):
    """One event a member; how many there are is known of a zip alone."""
    events = []
    unpack(make(tmp_path / "a"), out, events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("unpack", n, total) for n in (1, 2, 3)]


def test_what_macos_leaves_is_passed_over(tmp_path, out):
    """It looks like images, and is none."""
    litter = {"set/._a.png": b"x", "__MACOSX/set/a.png": b"x", "set/.DS_Store": b"x"}
    unpack(make_zip(tmp_path / "a.zip", FILES | litter), out)
    assert everything(out) == FILES


@pytest.mark.parametrize(
    "name",
    ["../evil", "set/../../evil", "/evil", "C:/evil", "C:evil", "..\\evil", "\\evil", "set/..", "a\\..\\..\\evil"],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_that_leads_out_is_refused(tmp_path, out, name, make):
    """Above, absolute, by drive, with either slash; nothing is written outside, and nothing of that name inside."""
    with pytest.raises(InputError, match="leads out of its folder"):
        unpack(make(tmp_path / "a", {"set/fine.png": b"fine", name: b"evil"}), out)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, out, kind):
    """A link may lead anywhere, and the next member through it."""
    archive = make_tar(tmp_path / "a.tar", {"set/link": b""}, kind, "../../outside")
    with pytest.raises(InputError, match=r"a (link|device), wanted plain files"):
        unpack(archive, out)
    assert not out.exists() or not any(out.rglob("*"))


def test_links_of_a_zip_are_refused(tmp_path, out):
    """As Unix writes them: a mode, and the place it leads to as content."""
    archive = make_zip(tmp_path / "a.zip", {"set/link": b"/etc"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(InputError, match="a link, wanted"):
        unpack(archive, out)


def test_an_encrypted_zip_is_refused(tmp_path, out):
    """Nobody knows the password."""
    path = make_zip(tmp_path / "a.zip", {"a.png": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="a file with a password"):
        unpack(path, out)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb_is_refused_before_it_is_written(tmp_path, out, make, monkeypatch):
    """Far more than its own size, in one member or in many: nothing of it is on the disk."""
    monkeypatch.setattr(module, "ALWAYS", 1000)
    with pytest.raises(InputError, match="at most 20 times as much"):
        unpack(make(tmp_path / "a", {"zeros": bytes(5_000_000)}), out)
    assert not out.exists()
    monkeypatch.setattr(module, "MOST_FILES", 10)
    monkeypatch.setattr(module, "ALWAYS", 10**9)
    with pytest.raises(InputError, match="more than 10 files"):
        unpack(make(tmp_path / "b", {f"{n}.png": b"" for n in range(11)}), out)


def test_a_zip_that_lies_about_a_size_is_damaged(tmp_path, out):
    """What it says is small is not read further than that, and its checksum does not agree."""
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(100_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="damaged archive"):
        unpack(path, out)


@pytest.mark.parametrize("content", [b"no archive at all", gzip.compress(b"no tar", mtime=0), b"PK\x03\x04 cut"])
def test_what_is_no_archive_is_said(tmp_path, out, content):
    """An error page that was saved as a zip, say."""
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a whole \.zip or \.tar"):
        unpack(tmp_path / "a.zip", out)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_that_ends_early_is_said(tmp_path, out, make):
    """Cut in the middle of its data."""
    path = make(tmp_path / "a", {f"{n}": bytes(range(256)) * (n + 1) for n in range(60)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged archive"):
        unpack(path, out)


def test_empty_archives_and_names_twice_are_said(tmp_path, out):
    """Nothing comes out of the one; of the other, nobody knows which is meant."""
    with pytest.raises(InputError, match="without files"):
        unpack(make_zip(tmp_path / "a.zip", {}), out)
    with pytest.raises(InputError, match="a name twice"):
        unpack(make_tar(tmp_path / "b.tar", {"x/a": b"1", "x//a": b"2"}), out)


def test_a_disk_that_is_full_is_said(tmp_path, out, monkeypatch):
    """Before the member that does not fit."""
    archive = make_zip(tmp_path / "a.zip")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=7))
    with pytest.raises(OutputError, match="make room"):
        unpack(archive, out)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, out):
    """A file stands in the way."""
    out.write_text("")
    with pytest.raises(OutputError, match="an archive that can be unpacked"):
        unpack(make_zip(tmp_path / "a.zip"), out)
