"""A Streamlit server per script, and pages of a real Chromium that fail on errors and on foreign requests."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from scripts.find_chromium import find_chromium

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_LIMIT = 60  # seconds; torch alone takes several on a busy machine
WAIT = 60_000  # ms for anything to appear, also on a busy machine

# An address that names a page makes Streamlit's client try that page's own path for the server's, and see
# that it is not there, before it takes the right one: two requests that no setting avoids.
STREAMLIT_PROBES = re.compile(
    r"http://127\.0\.0\.1:\d+/(scores|map|triage|export)/_stcore/(health|host-config)"
)

# A page that is shown while the one before still loads its images asks for some that the server has dropped.
REPLACED_IMAGE = re.compile(r"http://127\.0\.0\.1:\d+/media/\w+\.(jpg|png)")
BROKEN_IMAGES = """() => [...document.images]
    .filter((each) => each.complete && each.src && !each.naturalWidth)
    .map((each) => each.src)"""

collect_ignore = ["apps"]
expect.set_options(timeout=WAIT)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@dataclass(frozen=True)
class Server:
    """A running Streamlit server."""

    url: str
    log: Path
    process: subprocess.Popen

    def stop(self):
        """End it as Ctrl+C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Start streamlit on a script: server("app.py", {"NNGUIDE_HOME": ...}) -> Server, kept for the session.

    The same script and environment give the same server again, unless fresh=True asks for a new one.
    """
    running, started = {}, []

    def start(script, env=None, *, fresh=False):
        key = (str(script), tuple(sorted((env or {}).items())))
        if fresh or key not in running:
            running[key] = _start(ROOT / script, env or {}, tmp_path_factory.mktemp("server"))
            started.append(running[key].process)
        return running[key]

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    """Playwright's own Chromium where it is installed, the system's otherwise."""
    with sync_playwright() as playwright:
        found = find_chromium(playwright)
        if found is None:
            pytest.fail('No Chromium was found. Install one, or leave these tests out with -m "not browser".')
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a page: open_page(url=None, theme="light", width=1280, height=900) -> Playwright's Page.

    The test fails at its end if a page logged an error, threw one, shows an image that did not load, or asked
    another host for anything.
    """
    contexts, trouble = [], []

    def opened(url=None, theme="light", width=1280, height=900):
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
        contexts.append(context)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        _watch(page, trouble)
        if url is not None:
            page.goto(url)
        return page

    yield opened
    for context in contexts:
        trouble += [
            f"broken image: {each}" for page in context.pages for each in page.evaluate(BROKEN_IMAGES)
        ]
        context.close()
    assert not trouble, "\n".join(trouble)


@pytest.fixture
def page(open_page):
    """An empty page in the light theme, watched like every page."""
    return open_page()


@pytest.fixture
def screenshot():
    """Save what a page shows: screenshot(page, "name") -> screenshots/name.png, for people to look at."""

    def save(page, name):
        folder = ROOT / "screenshots"
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"{name}.png")

    return save


@pytest.fixture
def settled():
    """Wait until a page's script has run and two frames were drawn: settled(page)."""

    def wait(page):
        page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    return wait


@pytest.fixture
def go_to(settled):
    """Follow a link of the navigation once a page is at rest: go_to(page, "Triage")."""

    def go(page, name):
        settled(page)
        page.get_by_role("link", name=name).click()
        page.wait_for_url(re.compile(r"/(\?|$)" if name == "Data" else rf"/{name.lower()}(\?|$)"))

    return go


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(script, env, folder):
    port = _free_port()
    log = folder / "streamlit.log"
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NNGUIDE_HOME": str(folder / "workspace"),
        "STREAMLIT_SERVER_PORT": str(port),
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        **env,
    }
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(script)],
            cwd=ROOT,
            env=settings,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    _wait_until_healthy(process, port, log)
    return Server(f"http://127.0.0.1:{port}", log, process)


def _wait_until_healthy(process, port, log):
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    process.kill()
    pytest.fail(f"streamlit did not start:\n{log.read_text()}")


def _watch(page, trouble):
    page.on("console", lambda message: _check_message(message, trouble))
    page.on("pageerror", lambda error: trouble.append(f"thrown: {error}"))
    page.on("request", lambda request: _check_host(request.url, trouble))
    page.on("websocket", lambda socket: _check_host(socket.url, trouble))


def _check_message(message, trouble):
    address = message.location.get("url", "")
    is_probe = "404" in message.text and STREAMLIT_PROBES.fullmatch(address)
    is_replaced = "404" in message.text and REPLACED_IMAGE.fullmatch(address)
    is_its_echo = message.text.startswith("Client Error: Image source error") and REPLACED_IMAGE.search(
        message.text
    )
    if message.type == "error" and not (is_probe or is_replaced or is_its_echo):
        trouble.append(f"console: {message.text} ({address})")


def _check_host(url, trouble):
    parts = urlsplit(url)
    if parts.scheme not in {"data", "blob", "file"} and parts.hostname != "127.0.0.1":
        trouble.append(f"asked another host: {url}")
