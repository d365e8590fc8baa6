"""How long a person waits in the browser: dragging a slider, opening the map, selecting with a lasso.

    python -m benchmarks.interaction

A real Chromium without a GPU opens benchmarks/interaction_app.py on this machine. Each figure is a median
over repetitions. Where the peer is the time that was asked for, a ratio of at least 1 meets it.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.table import Row, Timing, markdown
from scripts.find_chromium import find_chromium

__all__ = ["asked_row", "chromium", "draw_lasso", "opened", "rows", "server"]

ROOT = Path(__file__).parents[1]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
DRAGS = 60
OPENINGS = 5
SMALL = 1_000  # points of the map that the openings are compared with
LASSOS = 7
FRAME = 1 / 60  # seconds
REDRAW = 0.016  # seconds
ASKED_COUNT, OPENING, LASSO = 100_000, 1.5, 0.6  # points, and the seconds asked for at that size

# Adds up, per frame, the time that the page's own drawing takes.
TIME_FRAMES = """
    window.drawing = 0;
    const ask = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => ask((now) => {
        const start = performance.now();
        draw(now);
        window.drawing += performance.now() - start;
    });
"""
# Moves a slider as a held pointer does; returns ms of script and drawing, and ms until the frame was shown.
MOVE_SLIDER = """
    async (slider, share) => {
        window.drawing = 0;
        const start = performance.now();
        slider.valueAsNumber = Math.round(share * slider.max);
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        const script = performance.now() - start;
        await new Promise(requestAnimationFrame);
        const drawn = script + window.drawing;
        await new Promise((done) => setTimeout(done));
        return [drawn, performance.now() - start];
    }
"""
# The gallery's thumbnails, first to last.
TILES = """
    [...document.querySelectorAll("*")].map((host) => host.shadowRoot).filter(Boolean)
        .flatMap((root) => [...root.querySelectorAll(".tile")])
"""
TITLES = f"() => {TILES}.map((tile) => tile.title).join()"
NEW_TILES = f"""
    (before) => {{
        const tiles = {TILES};
        if (!tiles.length || tiles.map((tile) => tile.title).join() === before) return false;
        return tiles[0].querySelector("img").naturalWidth > 0;
    }}
"""


def rows() -> list[Row]:
    """Measure everything and return the table's rows."""
    with server(ROOT / "benchmarks" / "interaction_app.py", dict(os.environ)) as url, chromium() as browser:
        return [
            *_drag_rows(browser, url, 5_000),
            *_drag_rows(browser, url, 500_000),
            *_map_rows(browser, url, 100_000),
            *_map_rows(browser, url, 1_000_000),
        ]


def _drag_rows(browser: Browser, url: str, count: int) -> Iterator[Row]:
    page = opened(browser, f"{url}/?show=scores&count={count}")
    page.get_by_text("the detector keeps").wait_for()
    for name in ("k", "threshold"):
        slider = page.locator(f"input.{name}")
        moves = [slider.evaluate(MOVE_SLIDER, (37 * step % DRAGS) / DRAGS) for step in range(DRAGS)]
        drawn, shown = ([move[part] / 1000 for move in moves[5:]] for part in (0, 1))
        size = f"{count:,} scores"
        yield asked_row(f"drag {name}: script and drawing", size, drawn, REDRAW)
        yield asked_row(f"drag {name}: until the frame is shown", size, shown, REDRAW)
    page.context.close()


def _map_rows(browser: Browser, url: str, count: int) -> Iterator[Row]:
    size = f"{count:,} points"
    note = "" if count == ASKED_COUNT else f"asked for at {ASKED_COUNT:,} points"
    page, timing = _openings(browser, url, count)
    target = f"≤ {OPENING} s" if count == ASKED_COUNT else ""
    yield timing.row("map: from the address to the first picture", size, f"{SMALL:,} points", target)
    page.get_by_label("select with a lasso").check()
    lassos = [draw_lasso(page, step) for step in range(LASSOS)][1:]
    yield asked_row("map: lasso to the gallery's first image", size, lassos, LASSO, note)
    page.get_by_label("move", exact=True).check()
    yield asked_row("map: drawing one frame while moving", size, _pan(page), FRAME)
    page.context.close()


def _openings(browser: Browser, url: str, count: int) -> tuple[Page, Timing]:
    """Open the map and one of 1,000 points in turn; return the last page and the seconds."""
    ours, peer = [], []
    for turn in range(OPENINGS + 1):
        small, other = _open_map(browser, url, SMALL)
        other.context.close()
        large, page = _open_map(browser, url, count)
        if turn:
            ours.append(large)
            peer.append(small)
        if turn < OPENINGS:
            page.context.close()
    return page, Timing(tuple(ours), tuple(peer))


def _open_map(browser: Browser, url: str, count: int) -> tuple[float, Page]:
    start = time.perf_counter()
    page = opened(browser, f"{url}/?show=map&count={count}")
    page.locator(f".stage[data-drawn='{count}']").wait_for()
    return time.perf_counter() - start, page


def draw_lasso(page: Page, step: int) -> float:
    """Draw around another part of the map; return the seconds until other thumbnails are there."""
    before = page.evaluate(TITLES)
    box = page.locator(".stage").bounding_box()
    assert box is not None
    left, top = box["x"] + box["width"] * (0.3 + 0.03 * step), box["y"] + box["height"] * 0.2
    page.mouse.move(left, top)
    page.mouse.down()
    for right, down in ((120, 10), (150, 90), (120, 260), (10, 250), (-20, 90)):
        page.mouse.move(left + right, top + down, steps=6)
    start = time.perf_counter()
    page.mouse.up()
    page.wait_for_function(NEW_TILES, arg=before, polling="raf")
    return time.perf_counter() - start


def _pan(page: Page) -> list[float]:
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    frames = []
    for step in range(DRAGS):
        page.evaluate("() => { window.drawing = 0; }")
        page.mouse.move(box["x"] + 300 + 2 * step, box["y"] + 200 + step)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        frames.append(page.evaluate("() => window.drawing") / 1000)
    page.mouse.up()
    return frames[5:]


def asked_row(name: str, size: str, seconds: list[float], asked: float, note: str = "") -> Row:
    """Return a row that compares with the time asked for."""
    ours = statistics.median(seconds)
    ratios = [asked / value for value in seconds]
    target = f"≤ {1000 * asked:.0f} ms"
    return Row(name, size, ours, "asked for", asked, asked / ours, min(ratios), max(ratios), target, note)


def opened(browser: Browser, address: str) -> Page:
    """Return a new page that has been sent to an address."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.add_init_script(TIME_FRAMES)
    page.goto(address)
    return page


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a Chromium without a GPU."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=find_chromium(playwright), args=FLAGS)


@contextmanager
def server(script: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a Streamlit script; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script)],
        cwd=ROOT,
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "STREAMLIT_SERVER_PORT": str(port),
            "STREAMLIT_SERVER_HEADLESS": "true",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").close())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(attempt: Callable[[], None], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    print(markdown(rows()))
