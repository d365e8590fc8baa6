"""How long a person waits from `streamlit run` to the demo's first chart, beside a bare page with a chart.

    python -m benchmarks.startup

Each server is started anew, on a workspace that does not exist yet, and a running Chromium opens its page.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.interaction import ROOT, chromium, opened, server
from benchmarks.table import Row, interleaved, markdown

__all__ = ["rows"]

ROUNDS = 5
OURS, BARE = "input.k", "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg"
LIMIT = 120_000  # ms


def rows() -> list[Row]:
    """Measure both starts in turn and return the row; a ratio of 0.5 is twice the bare page's time."""
    with chromium() as browser:
        timing = interleaved(
            _start(browser, ROOT / "app.py", OURS),
            _start(browser, ROOT / "benchmarks" / "bare_app.py", BARE),
            ROUNDS,
        )
    return [
        timing.row("from streamlit run to the demo's chart", "demo", "a bare page with a chart", "≥ 0.5×")
    ]


def _start(browser: Browser, script: Path, chart: str) -> Callable[[], None]:
    """Return what starts a script's server, waits for its first chart and ends it."""

    def start() -> None:
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "NNGUIDE_HOME": f"{home}/workspace"}
            with server(script, environment) as url:
                page = opened(browser, url)
                page.locator(chart).first.wait_for(timeout=LIMIT)
                page.context.close()

    return start


if __name__ == "__main__":
    print(markdown(rows()))
