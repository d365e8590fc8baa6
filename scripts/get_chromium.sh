#!/bin/sh
# Make sure that a Chromium is there for the browser tests: get_chromium.sh BIN_FOLDER_OF_THE_ENVIRONMENT.
set -eu
bin=$1

for name in chromium chromium-browser google-chrome; do
    # Ubuntu's chromium-browser may be a stub that only tells how to install a snap.
    if command -v "$name" >/dev/null 2>&1 && "$name" --version >/dev/null 2>&1; then
        exit 0
    fi
done
has_own() { "$bin/python" -c '
from pathlib import Path
from playwright.sync_api import sync_playwright
with sync_playwright() as play:
    raise SystemExit(not Path(play.chromium.executable_path).exists())'; }
has_own && exit 0

elevate=''
[ "$(id -u)" = 0 ] || elevate=sudo
if "$bin/playwright" install --with-deps chromium && has_own; then
    exit 0
fi
if $elevate apt-get update -q && $elevate apt-get install -y -q chromium; then
    exit 0
fi
echo "No Chromium could be installed: install one as 'chromium' on the PATH, then run 'make test' again." >&2
exit 1
