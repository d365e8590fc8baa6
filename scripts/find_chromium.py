"""The Chromium of tests, benchmarks and trials; `python -m scripts.find_chromium` prints its path."""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Playwright, sync_playwright

__all__ = ["find_chromium"]

# The shell draws the same pages as the browser for a quarter less computing.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium(playwright: Playwright) -> str | None:
    """Return the path of Playwright's own Chromium where it is installed, else the system's, else None."""
    own = playwright.chromium.executable_path
    return own if Path(own).exists() else next(filter(_runs, map(shutil.which, _NAMES)), None)


def _runs(path: str | None) -> bool:
    """Return whether it is a browser: Ubuntu's chromium-browser may only tell how to install a snap."""
    return path is not None and subprocess.run([path, "--version"], capture_output=True).returncode == 0


if __name__ == "__main__":
    with sync_playwright() as started:
        found = find_chromium(started)
    if found is None:
        sys.exit("No Chromium is installed.")
    print(found)
