"""What is installed: the whole core with the demo's files, and the command as its usage text names it."""

import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from nnguide_core import cli
from nnguide_core.cli.arguments import parser

ROOT = Path(__file__).parents[1]
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt")
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built package; made of a copy, because building leaves files behind."""
    folder = tmp_path_factory.mktemp("copy")
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nnguide_core", folder / "nnguide_core", ignore=skipped)
    built = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True, text=True
    )
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as archive:
        yield archive


def test_every_file_of_the_core_is_installed_and_nothing_else_at_the_top(wheel):
    ours = [
        path
        for path in (ROOT / "nnguide_core").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    wanted = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in ours}
    found = {each.filename: each.file_size for each in wheel.infolist() if ".dist-info/" not in each.filename}
    assert found == wanted


def test_the_command_is_installed_under_the_name_that_its_usage_shows(wheel):
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/entry_points.txt"))
    scripts = ConfigParser()
    scripts.read_string(wheel.read(name).decode())
    assert dict(scripts["console_scripts"]) == {parser().prog: "nnguide_core.cli:main"}
    assert callable(cli.main)


@pytest.mark.parametrize("target", ["run", "install", "test"])
def test_make_installs_the_package_itself_where_nothing_is_installed(tmp_path, target):
    commands = subprocess.run(
        ["make", "-n", f"VENV={tmp_path}", target], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert re.search(r"-m pip install .*(-e|--editable) \.( |$)", commands, re.MULTILINE)
