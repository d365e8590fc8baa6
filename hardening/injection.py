"""Pages, hovers, menus, errors, exports and report of a run with hostile names only, in a real Chromium."""

import csv
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Error, Page, expect, sync_playwright
from pyarrow import parquet

from hardening.hostile import CODE, ELSEWHERE, FORMULAS, MARKUP, make_workspace, write_images
from hardening.server import serve
from hardening.table import Row, must_be_zero
from scripts.find_chromium import find_chromium

__all__ = ["Found", "rows", "walk"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_WAIT = 150_000  # ms for anything to appear, also on a busy machine
_STEPS = 9  # places hovered over, across and down each figure
_TOKENS = {  # a word of each name -> how it looks where it was not read as markup
    "p1cture": "![p1cture](",
    "l1nk": "[l1nk](",
    "c0lour": ":red[c0lour]",
    "b0ld": "**b0ld**",
    "c0de": "`c0de`",
    "f0rmula": "$f0rmula_1$",
    "h7ml": "<b>h7ml<",
    "onerror": "<img src=x onerror=",
}
_OPEN_ALL = "() => document.querySelectorAll('details:not([open]) > summary').forEach((each) => each.click())"
_LOOK = """([tokens, elsewhere]) => {
  const words = [], wrong = [];
  const bad = `[onerror],[onload],[src*="${elsewhere}"],[href*="${elsewhere}"],[href^="javascript"],.katex`;
  const visit = (root) => {
    for (const element of root.querySelectorAll("*")) {
      if (element.matches(bad)) wrong.push(element.outerHTML.slice(0, 200));
      if (element.shadowRoot) visit(element.shadowRoot);
      const own = element.tagName === "STYLE" || element.tagName === "SCRIPT" ? [] : [...element.childNodes];
      words.push(...own.filter((node) => node.nodeType === 3).map((node) => node.data));
      if (element.value && typeof element.value === "string") words.push(element.value);
      for (const name of ["title", "aria-label", "alt"]) words.push(element.getAttribute(name) ?? "");
    }
  };
  visit(document);
  let seen = 0;
  for (const text of words)
    for (const [token, literal] of Object.entries(tokens))
      if (text.includes(token)) {
        seen += 1;
        if (!text.includes(literal) && !text.includes("…")) wrong.push(text.slice(0, 200));
      }
  return { seen, wrong, mark: window.__mark ?? 0 };
}"""


@dataclass
class Found:
    """What the walk came to."""

    views: int = 0  # pages, menus, hovers and files that were looked at
    places: int = 0  # texts in which a hostile name was seen
    marks: int = 0  # of scripts that ran
    wrong: list[str] = field(default_factory=list)  # names that became markup
    requests: list[str] = field(default_factory=list)  # to other hosts
    formulas: list[str] = field(default_factory=list)  # cells that a spreadsheet would run
    unseen: list[str] = field(default_factory=list)  # views in which no name was seen


def rows() -> Iterable[Row]:
    """Walk, and count."""
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made)
        run = make_workspace(folder / "workspace", folder / "images")
        upload = write_images(folder / "uploads" / f"{CODE} {MARKUP[0].replace('/', ' ')}", 3)
        browser = playwright.chromium.launch(executable_path=find_chromium(playwright), args=list(FLAGS))
        with serve(folder, {"NNGUIDE_DATA_ROOTS": str(folder / "images")}) as server:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            try:
                found = walk(page, server.url, run.question, upload, folder)
            except Error as error:
                raise RuntimeError(f"The walk broke off: {error}") from error
        browser.close()
    for line in (*found.wrong, *found.requests, *found.formulas, *found.unseen)[:20]:
        print(line)
    return [
        Row("injection", "views looked at", found.views, least=25),
        Row("injection", "texts with a hostile name", found.places, least=200),
        must_be_zero("injection", "views that should show one and do not", len(found.unseen)),
        must_be_zero("injection", "scripts that ran", found.marks),
        must_be_zero("injection", "names that became markup", len(found.wrong)),
        must_be_zero("injection", "requests to other hosts", len(found.requests)),
        must_be_zero("injection", "cells that a spreadsheet would run", len(found.formulas)),
    ]


def walk(page: Page, url: str, question: str, upload: Path, folder: Path, steps: int = _STEPS) -> Found:
    """Look at everything that shows names of the run with this question, and take down what went wrong.

    Args:
        page: of a browser; its requests are counted.
        url: of a server whose workspace has the run.
        question: of the run.
        upload: a folder of images to upload.
        folder: for what is downloaded.
        steps: places hovered over, across and down each figure.
    """
    walker = _Walk(page, f"{url}/{{}}?run={question[:16]}", folder, steps)
    walker.scores_page()
    walker.triage_page()
    walker.map_page()
    walker.data_page(upload)
    walker.export_page()
    walker.addresses(url)
    return walker.found


class _Walk:
    def __init__(self, page: Page, address: str, folder: Path, steps: int) -> None:
        self.page, self.address, self.folder, self.steps = page, address, folder, steps
        self.found = Found()
        page.set_default_timeout(_WAIT)
        # Without the picker, which has no window here, a table's own download is an ordinary one.
        page.add_init_script("delete window.showSaveFilePicker")
        page.context.on("request", lambda request: self._request(request.url))
        page.on("websocket", lambda socket: self._request(socket.url))

    def scores_page(self) -> None:
        """The score board, the metrics and the curves."""
        self._open("scores")
        self._look("scores")
        self._hover("[data-testid=stBidiComponentRegular], .js-plotly-plot", "scores")
        self._table()

    def triage_page(self) -> None:
        """The queue, the filters, an image with its why, its verdict and note."""
        self._open("triage")
        self.page.get_by_role("option").first.click()
        self.page.get_by_text("Why?", exact=True).wait_for()
        self._settle()
        self._look("triage")
        for name in ("dataset", "class", "predicted class"):
            self.page.get_by_role("combobox", name=name, exact=False).first.click()
            self._look(f"triage, {name}")
            self.page.keyboard.press("Escape")
        self._hover(".js-plotly-plot", "triage")
        self.page.get_by_text("verdicts change").click()
        self._look("triage, verdicts")

    def map_page(self) -> None:
        """The map with its colours by dataset and class, a hovered image and a selection."""
        self._open("map")
        self.page.get_by_text("The map locates, it never decides").wait_for()
        for color in ("dataset", "class", "predicted class"):
            self.page.get_by_text(color, exact=True).first.click()
            self._settle()
            self._look(f"map by {color}")
        self._hover(".stage", "map", pause=600)
        self.page.get_by_label("select a box").check()
        box = self.page.locator(".stage").bounding_box()
        assert box is not None, "the map has no place on the page"
        self.page.mouse.move(box["x"] + 5, box["y"] + 5)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5, steps=8)
        self.page.mouse.up()
        self.page.get_by_text("images selected").wait_for()
        self._settle()
        self._look("map, selection")

    def data_page(self, upload: Path) -> None:
        """The open run, the earlier ones, a run to be made, its check, an upload, and what is refused."""
        self._open("")
        self._look("data")
        self._table()
        self._way("Earlier runs")
        self._look("data, earlier runs")
        self._way("Own images")
        self._refused_path()
        self._add_known()
        self._upload(upload)
        self._check()

    def export_page(self) -> None:
        """The tables and the report, as files."""
        self._open("export")
        data = self._download("test images, CSV")
        self._cells(data, "images.csv")
        self._names(self._download("test images, Parquet"))
        self._report(self._download("Download report.html"))

    def addresses(self, url: str) -> None:
        """Addresses that anyone can send to someone."""
        for query in (f"run={CODE}", f"image={MARKUP[0]}", f"k={CODE}", f"threshold={MARKUP[2]}"):
            self.page.goto(f"{url}/?{query}")
            self._settle()
            self._look(f"?{query}", shown=False)

    def _open(self, name: str) -> None:
        self.page.goto(self.address.format(name))
        self.page.get_by_role("heading", level=1).wait_for()  # until then nothing runs that could be over
        self._settle()

    def _settle(self) -> None:
        self.page.wait_for_timeout(400)
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        self.page.wait_for_timeout(400)

    def _look(self, where: str, *, shown: bool = True) -> None:
        self.found.views += 1
        seen = self.page.evaluate(_LOOK, [_TOKENS, ELSEWHERE])
        self.found.places += seen["seen"]
        self.found.marks += bool(seen["mark"])
        self.found.wrong += [f"{where}: {each}" for each in seen["wrong"]]
        if shown and not seen["seen"]:
            self.found.unseen.append(where)

    def _hover(self, selector: str, where: str, pause: int = 60) -> None:
        """Move the pointer over everything that a selector finds, and look at what appears."""
        for target in self.page.locator(selector).all():
            try:
                target.scroll_into_view_if_needed(timeout=5_000)
            except Error:
                continue  # a carrier, which shows nothing
            box = target.bounding_box()
            if box is None or box["height"] < 50:
                continue
            for step in range(self.steps**2):
                across, down = (step % self.steps + 0.5) / self.steps, (step // self.steps + 0.5) / self.steps
                self.page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
                self.page.wait_for_timeout(pause if step % 4 == 0 else 10)
                if step % 4 == 0:
                    self._look(f"{where}, hover", shown=False)

    def _way(self, name: str) -> None:
        self.page.get_by_text(name, exact=True).first.click()
        self._settle()

    def _refused_path(self) -> None:
        for path in (f"/etc/{CODE}", f"{MARKUP[0]}"):
            box = self.page.get_by_label("path of a folder")
            box.fill(path)
            box.press("Enter")
            self.page.get_by_text("not in a folder that may be read here").wait_for()
            self._look("data, refused path", shown=False)

    def _add_known(self) -> None:
        """Add the datasets that the workspace knows, one of them twice."""
        self._way("opened before")
        self.page.get_by_role("combobox", name="dataset").first.click()
        self._look("data, opened before")
        options = self.page.get_by_role("option")
        count = options.count()
        self.page.keyboard.press("Escape")
        for number in (*range(count), 0):
            self.page.get_by_role("combobox", name="dataset").first.click()
            options.nth(number).click()
            self._settle()
            self.page.get_by_role("button", name="Add", exact=True).click()
            self._settle()
            self._look("data, own images")

    def _upload(self, upload: Path) -> None:
        self._way("upload a folder")
        self.page.locator("input[type=file][webkitdirectory]").first.set_input_files(upload)
        expect(self.page.get_by_text("images: 3, no classes, 1 skipped")).to_be_visible(timeout=_WAIT)
        self._settle()
        self._look("data, uploaded")

    def _check(self) -> None:
        self.page.get_by_role("button", name="Check", exact=True).click()
        self.page.get_by_text("What the network really sees").wait_for()
        self._settle()
        self.page.evaluate(_OPEN_ALL)
        self._settle()
        self._look("data, check")

    def _table(self) -> None:
        """Take a table's own download."""
        table = self.page.get_by_test_id("stDataFrame").first
        table.scroll_into_view_if_needed()
        table.hover()
        with self.page.expect_download() as started:
            # By script: the toolbar comes and goes with the pointer.
            self.page.get_by_role("button", name="Download as CSV").first.evaluate("(each) => each.click()")
        self._cells(Path(started.value.path()).read_bytes(), "a table's own download")

    def _download(self, label: str) -> bytes:
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name=label).click()
        return Path(started.value.path()).read_bytes()

    def _cells(self, data: bytes, where: str) -> None:
        self.found.views += 1
        cells = [cell for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) for cell in row]
        self.found.places += sum(token in cell for cell in cells for token in _TOKENS)
        starts = ("=", "+", "-", "@", "\t", "\r", "\n")
        bad = [cell for cell in cells if cell.startswith(starts) and not _is_number(cell)]
        self.found.formulas += [f"{where}: {cell[:80]!r}" for cell in bad]

    def _names(self, data: bytes) -> None:
        """Parquet keeps names as they are: nothing runs them there."""
        self.found.views += 1
        names = set(parquet.read_table(io.BytesIO(data))["dataset"].to_pylist())
        if not any(each.startswith(FORMULAS[0]) for each in names):
            self.found.unseen.append("images.parquet")

    def _report(self, data: bytes) -> None:
        """Open the report from a file, without a network, and hover over its figures."""
        file = self.folder / "report.html"
        file.write_bytes(data)
        browser = self.page.context.browser
        assert browser is not None, "the page belongs to no browser"
        context = browser.new_context(offline=True)
        context.on("request", lambda request: self._request(request.url))
        outer, self.page = self.page, context.new_page()
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(".js-plotly-plot .main-svg")
        self._look("report")
        self._hover(".js-plotly-plot", "report")
        self.page = outer
        context.close()

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob", "file"} and parts.hostname != "127.0.0.1":
            self.found.requests.append(url)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
