"""How long a person waits on whole pages of a run of 100,000 images, in a real browser.

    python -m benchmarks.pages

The app itself runs on a made-up workspace. Each figure is a median over repetitions; the ratio is the time
asked for over the time taken.
"""

import os
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.interaction import ROOT, asked_row, chromium, draw_lasso, opened, server
from benchmarks.large_run import make_large_run
from benchmarks.table import Row, markdown

__all__ = ["rows"]

TURNS = 7
OPENING, LASSO, EXACT = 1.5, 0.6, 0.6  # seconds asked for; nothing is asked of the last
SIZE = "100,000 images"
SET_SLIDER = """
    async (slider, value) => {
        slider.valueAsNumber = value;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        slider.dispatchEvent(new Event("change", { bubbles: true }));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
"""


def rows() -> list[Row]:
    """Measure every page and return the table's rows."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        question = make_large_run(home)
        environment = {**os.environ, "NNGUIDE_HOME": str(home)}
        with server(ROOT / "app.py", environment) as url, chromium() as browser:
            page = opened(browser, f"{url}/?run={question[:16]}")
            page.get_by_text("Choose an image above").wait_for(timeout=120_000)
            return [_map_openings(page), _lassos(page), _releases(page)]


def _map_openings(page: Page) -> Row:
    """Time the way from another page to the first picture of the map."""
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        page.get_by_role("link", name="Map").click()
        page.locator(".stage[data-drawn]").wait_for()
        seconds.append(time.perf_counter() - start)
        page.get_by_role("link", name="Data").click()
        page.get_by_role("option").first.wait_for()
        page.wait_for_timeout(500)
    return asked_row("map page: from another page to the first picture", SIZE, seconds[1:], OPENING)


def _lassos(page: Page) -> Row:
    page.get_by_role("link", name="Map").click()
    page.locator(".stage[data-drawn]").wait_for()
    page.get_by_label("select with a lasso").check()
    seconds = [draw_lasso(page, step) for step in range(TURNS)][1:]
    return asked_row("map page: lasso to the gallery's first image", SIZE, seconds, LASSO)


def _releases(page: Page) -> Row:
    """Time the way from a released slider to the exact values in the table below."""
    page.get_by_role("link", name="Scores").click()
    page.locator("input.k").wait_for()
    page.get_by_text("Which bank images do the work?").wait_for()
    seconds = []
    for step in range(TURNS):
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        start = time.perf_counter()
        page.locator("input.k").evaluate(SET_SLIDER, 3 + 2 * step)
        words = page.locator(".scores output").first.inner_text()
        page.get_by_text(f"{words}  ·").first.wait_for()
        seconds.append(time.perf_counter() - start)
    return asked_row("scores page: slider released to the strip's new k", SIZE, seconds[1:], EXACT)


if __name__ == "__main__":
    print(markdown(rows()))
