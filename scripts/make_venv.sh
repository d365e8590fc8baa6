#!/bin/sh
# Create a virtual environment: make_venv.sh PYTHON FOLDER. Debian ships Python without venv: install it if we may.
set -eu
python=$1
folder=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed, and '$python' is $("$python" --version 2>&1). Try: make PYTHON=python3.12" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    echo "Python's venv module is missing: installing $package." >&2
    elevate=''
    [ "$(id -u)" = 0 ] || elevate=sudo
    if ! { $elevate apt-get update -q && $elevate apt-get install -y -q "$package"; }; then
        echo "Install the package $package, then run the command again." >&2
        exit 1
    fi
fi
"$python" -m venv "$folder"
