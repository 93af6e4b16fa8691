"""The report says what is in the tables, the worst first, in one file that needs nothing else."""

import base64
import doctest
import html
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pipeline.results import class_areas, plots, publish, report
from pipeline.results.cards import group_summaries, pooled_fractions, read_cards, summarise, worst_first
from pipeline.results.class_areas import percent
from pipeline.results.pictures import contact_sheet, preview, split_preview
from pipeline.results.plots import dots, histogram, number, ticks
from pipeline.results.publish import gallery, write_note
from pipeline.results.report import write_report
from pipeline.types import Geometry, Image

RUN = {
    "folder": "/screens/plate7",
    "started": "2026-11-20T22:00:00+00:00",
    "model": {"name": "nuclei", "version": "3"},
    "config": {"channel": None, "nested": {"deep": 1}},
    "ledger_root": "abc123",
}


def table() -> pd.DataFrame:
    """Four done and one failed: b has two flags, c one, d is the least sure of the two without."""
    rows = [
        ("a.png", "done", "p1", 10, "", 0.95, "", ""),
        ("b.png", "done", "p1", 0, "blurred;saturated", 0.9, "", ""),
        ("c.png", "done", "p2", 30, "no_objects", 0.9, "", ""),
        ("d.png", "done", "p2", 20, "", 0.7, "", ""),
        ("<x>&é細胞.png", "failed", "p2", np.nan, "", np.nan, "got <script>alert(1)</script>", "copy it again"),
    ]
    names = ["path", "status", "group", "objects", "flags", "confidence", "error", "hint"]
    return pd.DataFrame(rows, columns=names).assign(stage=["", "", "", "", "open"], density=100.0, area=50.0)


def picture(level: int = 50) -> bytes:
    labels = np.zeros((40, 40), np.uint32)
    labels[10:20, 10:20] = 1
    return preview(Image(np.full((1, 40, 40), level, np.uint8), Geometry.pixels()), labels)


def pictures() -> dict[str, bytes]:
    return {f"{name}.png": picture() for name in "abcd"}


def objects() -> pd.DataFrame:
    return pd.DataFrame({"image": ["a.png"] * 5, "equivalent_diameter_px": [8, 9, 10, 11, 12.0], "confidence": 0.9})


class Page(HTMLParser):
    """What stands in a page: tags with their attributes, in order, and whether they are closed."""

    VOID = ("meta", "img", "input", "line", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def written(folder, images=None, **changed) -> Page:
    given = {"objects": objects(), "pictures": pictures(), "run": RUN} | changed
    path = write_report(folder, table() if images is None else images, **given)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [class_areas, report, plots, publish])
def test_doctests_hold(module):
    """The examples in the modules are true."""
    assert doctest.testmod(module).failed == 0


def test_the_seam_score_stands_with_streamed_images_alone(tmp_path):
    """Two numbers in the picture's text and the row of the one that has them; no columns where none was streamed."""
    images = table().assign(model_seams=[0.97, *[np.nan] * 4], model_agreement=[0.995, *[np.nan] * 4])
    written(tmp_path, images)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("seams 0.97 · agreement 0.995") == 1
    assert 'data-value="0.97"' in text and ">agreement</button>" in text
    written(tmp_path)
    assert "agreement" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_missing_tiles_are_numbered_with_the_image_alone(tmp_path):
    """The flag's name, and how many of how many, in the text of the one image that lacks them."""
    images = table()
    images = images.assign(missing_tiles=[10, *[np.nan] * 4], tiles=[20, *[np.nan] * 4])
    images.loc[0, "flags"] = "missing_tiles"
    written(tmp_path, images)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("10 of 20 tiles are not in the file") == 1 and "Missing tiles" in text
    written(tmp_path)
    assert "not in the file" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_worst_come_first(tmp_path):
    """Two flags before one, one before none, and the unsure before the sure."""
    assert [card.name for card in worst_first(read_cards(table()))] == ["b.png", "c.png", "d.png", "a.png"]
    assert [a["data-name"] for a in written(tmp_path).all("article")] == ["b.png", "c.png", "d.png", "a.png"]


def test_report_needs_nothing_else(tmp_path):
    """No address, file or style from outside: pictures are within, and the page itself forbids anything else."""
    page = written(tmp_path)
    assert page.open == []
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "data", "action"):
            assert name not in attributes or attributes[name].startswith("data:image/"), (tag, name)
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "iframe", "object", "embed", "base")
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|fetch\(|localStorage|document\.cookie", text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_pictures_are_those_that_were_given(tmp_path):
    """Each image's own bytes, plain and outlines apart, so that the lines can be taken off."""
    given = {f"{name}.png": picture(level) for level, name in enumerate("abcd")}
    images = written(tmp_path, pictures=given).all("img")
    plain = {i["alt"]: i["src"] for i in images if i["alt"]}
    assert len(images) == 8 and set(plain) == set(given)
    for name, data in given.items():
        assert base64.b64decode(plain[name].partition(",")[2]) == split_preview(data)[0]


def class_table() -> pd.DataFrame:
    """a is 100 px, half of it road; b is 300 px without any; the third failed."""
    rows = [
        ("a.png", "done", "p1", 0.9, 10, 10, 0.5, 0.5, 0.0),
        ("b.png", "done", "p2", 0.8, 10, 30, 0.75, 0.0, 0.25),
        ("c.png", "failed", "p2", *[np.nan] * 6),
    ]
    names = [
        "path",
        "status",
        "group",
        "confidence",
        "height",
        "width",
        "fraction_sky",
        "fraction_road",
        "fraction_<car>",
    ]
    return pd.DataFrame(rows, columns=names).assign(planes=1, objects=np.nan, flags="", error="", hint="", stage="")


def legend(*names: str) -> dict[str, object]:
    return RUN | {"classes": [{"value": n, "name": name, "colour": [n, 0, 0]} for n, name in enumerate(names)]}


def test_class_maps_are_told_by_parts_of_the_area(tmp_path):
    """Parts of all pixels, weighed by size: road 50 of 400; no object is counted, and nothing is per megapixel."""
    run = legend("sky", "road", "<car>")
    cards = read_cards(class_table(), ["sky", "road", "<car>"])
    assert pooled_fractions(cards) == {"sky": 275 / 400, "road": 50 / 400, "<car>": 75 / 400}
    areas = class_areas.class_areas(cards, run["classes"])
    assert [(area.name, area.fraction, area.most, area.images) for area in areas] == [
        ("sky", 0.6875, 0.75, 2),
        ("road", 0.125, 0.5, 1),
        ("<car>", 0.1875, 0.25, 1),
    ]
    written(tmp_path, class_table(), run=run, objects=None)
    text = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    heads = [html.unescape(head) for head in re.findall(r'<th scope="col"[^>]*><button type="button">(.*?)<', text)]
    assert heads == [
        *("class", "of all pixels", "most in an image", "images with it"),
        *("group", "images", "failed", "flagged", "sky", "road", "<car>", "confidence"),
        *("image", "group", "status", "sky", "road", "<car>", "confidence", "flags"),
    ]
    shown = text.partition("<h1>")[2].partition("<script>")[0]
    assert "12.5 %" in shown and "objects" not in shown and "megapixel" not in shown
    assert "road <b>50.0 %</b>" in text and 'data-class1="0.5"' in text and "most &lt;car&gt;" in text
    note = write_note(class_table(), run).replace("\N{NO-BREAK SPACE}", " ")
    assert note.startswith("**2 images · sky 68.8 %, &lt;car&gt; 18.8 %, road 12.5 %** · **0 to look at · 1 failed**")


def test_of_very_many_classes_the_largest_are_shown(tmp_path):
    """Class n fills n of 1275: of 51 the last 24 stay, in the order of the legend; images of old runs have none."""
    names = [f"c{n}" for n in range(51)]
    images = pd.DataFrame([{f"fraction_c{n}": n / 1275 for n in range(51)} | {"path": "a.png"}])
    shown = class_areas.class_areas(
        read_cards(images.assign(height=1, width=1, planes=1), names), legend(*names)["classes"]
    )
    assert [area.value for area in shown] == list(range(27, 51))
    unknown = class_areas.class_areas(read_cards(table(), names[:2]), legend(*names[:2])["classes"])
    assert [(area.name, area.images, percent(area.fraction)) for area in unknown] == [("c0", 0, "–"), ("c1", 0, "–")]
    written(tmp_path, run=legend(*names[:2]))


def test_names_and_errors_are_only_text(tmp_path):
    """Whatever a file is called, it is shown and not run."""
    page = written(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert len(page.all("script")) == 1 and "<script>alert" not in text
    assert html.escape("got <script>alert(1)</script>") in text and "&lt;x&gt;&amp;é細胞.png" in text
    assert "copy it again" in text


def test_everything_has_a_name(tmp_path):
    """Buttons, fields, pictures and plots can be told apart without seeing them; every id is there once."""
    page = written(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert all("alt" in image for image in page.all("img"))
    assert all(plot.get("aria-label") for plot in page.all("svg", role="img"))
    for button in re.findall(r"<button(.*?)>(.*?)</button>", text, re.S):
        assert "aria-label=" in button[0] or re.sub(r"<.*?>|\s", "", button[1]), button
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    assert page.all("html")[0]["lang"] == "en" and page.all("meta", name="viewport")


def test_numbers_are_those_of_the_table():
    """Failed images count as images, and nowhere else."""
    numbers = summarise(read_cards(table()))
    assert (numbers["images"], numbers["done"], numbers["failed"], numbers["flagged"]) == (5, 4, 1, 2)
    assert (numbers["objects"], numbers["median_objects"]) == (60, 15)
    one, two = group_summaries(read_cards(table()))
    assert (one["group"], one["images"], one["objects"], one["flagged"]) == ("p1", 2, 10, 1)
    assert (two["group"], two["failed"], two["median_objects"]) == ("p2", 1, 25)
    assert group_summaries(read_cards(table().assign(group="p1"))) == []


def test_report_tells_how_it_was_made(tmp_path):
    """Folder, model, settings and digest stand in the page."""
    written(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<h1>plate7</h1>" in text and "nuclei version 3" in text and "abc123" in text and "nested.deep" in text


@pytest.mark.parametrize("kind", ["empty", "all_failed", "bare", "from_csv"])
def test_thin_tables_make_a_report_too(tmp_path, kind):
    """No image, none that worked, no column but the name, and texts read from a CSV: a whole page each time."""
    tables = {
        "empty": table().iloc[:0],
        "all_failed": table().iloc[4:],
        "bare": pd.DataFrame({"case": ["a.png", "b.png"]}),
        "from_csv": table().astype(object).where(table().notna(), None).astype(str).replace("nan", ""),
    }
    page = written(tmp_path, tables[kind], objects=None, pictures={}, run={})
    assert page.open == [] and len(page.all("article")) == {"empty": 0, "all_failed": 0, "bare": 2, "from_csv": 4}[kind]


def test_many_pictures_go_on_to_further_pages(tmp_path, monkeypatch):
    """Three a page: the flagged ones on the first, no picture lost, and pages of an earlier, longer run are gone."""
    monkeypatch.setattr(report, "CARDS", 3)
    (tmp_path / "report-7.html").write_text("old")
    (tmp_path / "report-mine.html").write_text("mine")
    images = pd.concat([table().assign(path=[f"{i}{n}" for n in table()["path"]]) for i in range(2)], ignore_index=True)
    written(tmp_path, images, pictures={name: picture() for name in images["path"]})
    names = ["report.html", "report-2.html", "report-3.html"]
    pages = [Page((tmp_path / name).read_text()) for name in names]
    shown = [[a["data-name"] for a in page.all("article")] for page in pages]
    assert [len(part) for part in shown] == [3, 3, 2]
    assert sorted(name for part in shown for name in part) == sorted(images["path"][images["status"] == "done"])
    assert {name[1] for name in shown[0]} <= {"b", "c"}
    assert [[a["href"] for a in page.all("a")][1:] for page in pages] == [
        ["report-2.html"],
        ["report.html", "report-3.html"],
        ["report-2.html"],
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "report-mine.html"])


def test_report_stays_below_25_megabytes(tmp_path):
    """400 pictures of noise, 130 KB each, and 5,000 rows with long names: every page can still be sent about."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 380, 380)).astype(np.uint8)
    data = preview(Image(noise, Geometry.pixels()), np.zeros((380, 380), np.uint32))
    assert len(data) > 100_000
    names = [f"{'folder/' * 60}{i:05}.png" for i in range(5000)]
    images = pd.DataFrame({"path": names, "status": "done", "objects": 7, "flags": "blurred;saturated", "group": "g"})
    write_report(tmp_path, images, None, dict.fromkeys(names[:400], data), RUN)
    sizes = [page.stat().st_size for page in tmp_path.glob("report*.html")]
    assert len(sizes) > 3 and max(sizes) < 25_000_000
    assert "2,000 more are in images.csv" in (tmp_path / "report.html").read_text()


def test_pictures_that_are_too_large_are_left_out(tmp_path, monkeypatch):
    """One giant cannot push a page over its limit."""
    monkeypatch.setattr(report, "PICTURE_BYTES", 100)
    assert written(tmp_path).all("img") == []


def test_units_are_taken_where_they_are_known(tmp_path):
    """Sizes are drawn in µm when every object has them, else in px."""
    written(tmp_path, objects=objects().assign(equivalent_diameter_um=[1.0, 2, 3, 4, 5]))
    assert "equivalent diameter, µm" in (tmp_path / "report.html").read_text()
    written(tmp_path, objects=objects().assign(equivalent_diameter_um=[1.0, 2, 3, 4, np.nan]))
    assert "equivalent diameter, px" in (tmp_path / "report.html").read_text()


def test_histogram_counts_what_numpy_counts():
    """Every value stands in a bar, and a bar is as high as its count."""
    values = np.random.default_rng(0).normal(100, 20, 1000)
    bars = ET.fromstring(histogram(values, "t", "<label>")).findall(".//rect")
    counts = [int(bar[0].text.rpartition(": ")[2].replace(",", "")) for bar in bars]
    assert sum(counts) == 1000 and len(counts) > 10
    heights = np.array([float(bar.get("height")) for bar in bars])
    assert np.allclose(heights / heights.max(), np.array(counts) / max(counts), atol=0.01)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e9, -1e9], [0.5, np.nan], list(range(100)), [1e-7, 2e-7]])
def test_plots_of_any_values_are_whole(values):
    """One value, equal ones, huge, tiny and missing ones: well-formed, with all marks inside the frame."""
    for plot in (
        histogram(np.array(values), "t", "x"),
        dots(np.abs(values), np.zeros(len(values), bool), ["<n>"] * len(values), "t", "x"),
    ):
        for mark in ET.fromstring(plot).iter():
            x = float(mark.get("x") or mark.get("cx") or 0)
            y = float(mark.get("y") or mark.get("cy") or 0)
            assert 0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT


def test_plots_of_nothing_are_left_out():
    """No values, no plot."""
    nothing = np.array([np.nan])
    assert histogram(nothing, "t", "x") == "" and dots(nothing, np.zeros(1, bool), ["a"], "t", "x") == ""


def test_marked_dots_are_never_thinned():
    """Of 9,000 images some are drawn, but each of the marked."""
    marked = np.arange(9000) % 1000 == 1
    plot = ET.fromstring(dots(np.arange(9000.0), marked, [str(i) for i in range(9000)], "t", "x"))
    kinds = [circle.get("class") for circle in plot.findall(".//circle")]
    assert kinds.count("dot flagged") == 9 and 1500 < len(kinds) < 2100


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 97), (3, 3), (-5, 5), (0, 1e6), (0.001, 0.0012)])
def test_ticks_span_the_values(low, high):
    """Ticks rise, are few, and enclose what they are for."""
    got = ticks(low, high)
    assert got[0] <= low and got[-1] >= high and 2 <= len(got) <= 12 and got == sorted(set(got))


def test_numbers_for_people():
    """Three figures are enough."""
    assert [number(v) for v in (0.0, 7.0, 0.123456, 1234567.8, float("nan"))] == ["0", "7", "0.123", "1,234,568", "–"]


def test_note_opens_with_counts_and_flags():
    """The first lines, which MLflow shows unasked, hold the counts and the flags; then picture and tables."""
    note = write_note(table(), RUN | {"out": "/runs/7"}, "get-artifact?path=gallery.png")
    lines = [line for line in note.splitlines() if line]
    assert "4 images · 60 objects" in lines[0] and "2 to look at · 1 failed" in lines[0]
    assert lines[1] == "To look at: No objects 1, Blurred 1, Saturated 1"
    assert "![the first pictures of the report](get-artifact?path=gallery.png)" in note
    assert "&lt;script&gt;" in note and "<script>" not in note and "copy it again" in note


def test_note_fits_into_a_tag():
    """Thousands of failures with long words are cut, on a whole line."""
    failed = pd.concat([table().iloc[4:].assign(error="x" * 5000, path="y" * 400)] * 2000, ignore_index=True)
    flagged = pd.concat([table().iloc[1:2].assign(path="z" * 400)] * 2000, ignore_index=True)
    note = write_note(pd.concat([failed, flagged], ignore_index=True), RUN)
    assert len(note) <= 8000 and "2,000 failed" in note and "and 1,994 more" in note


def test_gallery_shows_the_first_of_the_report():
    """The same order as the report; damaged and missing pictures are left out."""
    given = pictures()
    expected = [("0  b.png", given["b.png"]), ("20  d.png", given["d.png"]), ("10  a.png", given["a.png"])]
    assert gallery(table(), given | {"c.png": b"damaged"}) == publish.png(contact_sheet(expected))
    assert gallery(table(), {}) == b""


class Heard:
    """Stands in for a run and remembers what it was told."""

    id = "r1"

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.pictures: list[str] = []
        self.note = ""

    def log_metrics(self, values, step=0):
        self.metrics |= values

    def log_picture(self, picture, name):
        self.pictures.append(name)

    def set_note(self, markdown):
        self.note = markdown


@pytest.mark.parametrize(("given", "names"), [(pictures, ["gallery.png"]), (dict, [])])
def test_published_run_has_flags_picture_and_note(given, names):
    """Flags are metrics, so that runs can be compared by them; the picture, if any, stands in the description."""
    run = Heard()
    publish.publish(run, table(), given(), RUN)
    assert run.metrics["flags/blurred"] == 1 and run.metrics["flagged"] == 2
    assert run.pictures == names and ("run_uuid=r1" in run.note) == bool(names)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_report_works_in_a_sandbox(tmp_path):
    """In a frame that may run scripts and nothing else, outlines, filters, order, tables and keys work."""
    playwright = pytest.importorskip("playwright.sync_api")
    written(tmp_path)
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page()
        trouble: list[str] = []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.set_content('<iframe sandbox="allow-scripts" style="width:1200px;height:900px"></iframe>')
        frame_html = (tmp_path / "report.html").read_text()
        page.evaluate("text => { document.querySelector('iframe').srcdoc = text }", frame_html)
        frame = page.frame_locator("iframe")
        first = frame.locator(".card").first
        lines = first.locator(".lines")
        assert lines.is_visible()
        first.locator(".picture").click()
        assert lines.is_hidden()
        frame.locator("#lines").click()  # off for all
        assert frame.locator(".lines:visible").count() == 0
        frame.locator("#lines").click()
        assert frame.locator(".lines:visible").count() == 4
        frame.get_by_role("button", name="Blurred 1").click()
        assert frame.locator(".card:visible").count() == 1
        frame.get_by_role("button", name="Blurred 1").click()
        frame.get_by_role("searchbox").fill("nothing like it")
        frame.get_by_role("button", name="Show all").click()
        assert frame.locator(".card:visible").count() == 4
        frame.get_by_label("Order").select_option("-objects")
        assert first.get_attribute("data-name") == "c.png"
        first.locator(".zoom").click()
        assert frame.locator("#large-name").inner_text() == "c.png"
        page.keyboard.press("ArrowRight")
        assert frame.locator("#large-name").inner_text() == "d.png"
        page.keyboard.press("Escape")
        assert frame.locator("#large").is_hidden()
        head = frame.locator("section:has(#table-title) thead").get_by_role("button", name="objects", exact=True)
        rows = frame.locator("section:has(#table-title) tbody th")
        head.click()
        assert rows.all_inner_texts()[:2] == ["b.png", "a.png"] and rows.last.inner_text().startswith("<x>")
        head.click()
        assert rows.all_inner_texts()[:2] == ["c.png", "d.png"] and rows.last.inner_text().startswith("<x>")
        browser.close()
    assert trouble == []
