#!/bin/sh
# Make sure that a Chromium is there for the browser tests: get_chromium.sh BIN_FOLDER_OF_THE_ENVIRONMENT.
set -eu
bin=$1

is_there() { "$bin/python" -m scripts.find_chromium >/dev/null 2>&1; }
is_there && exit 0

elevate=''
[ "$(id -u)" = 0 ] || elevate=sudo
if "$bin/playwright" install --with-deps chromium && is_there; then
    exit 0
fi
if $elevate apt-get update -q; then
    for name in chromium-headless-shell chromium; do # Debian has both, others have the second alone
        if $elevate apt-get install -y -q "$name" && is_there; then
            exit 0
        fi
    done
fi
echo "No Chromium could be installed: install one as 'chromium' on the PATH, then run 'make test' again." >&2
exit 1
