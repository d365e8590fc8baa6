"""What the documents say of the tree is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = re.compile(
    r"(?:^|[`( ])((?:nnguide_core|views|pages|tests|hardening|benchmarks|scripts|docs)/[\w/.]*\w)",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md"])
def test_every_file_that_a_document_names_is_there(name):
    named = set(PLACES.findall((ROOT / name).read_text("utf-8")))
    assert len(named) > 2
    assert [each for each in sorted(named) if not (ROOT / each).exists()] == []


def test_the_layout_names_what_the_core_has():
    layout = (ROOT / "README.md").read_text("utf-8").partition("## Layout")[2]
    indented = " ".join(re.findall(r"^  ((?:\w+, )*\w+)  ", layout, re.MULTILINE)).replace(",", "").split()
    assert len(indented) > 15
    core = ROOT / "nnguide_core"
    assert [
        each for each in indented if not ((core / each).is_dir() or (core / f"{each}.py").is_file())
    ] == []
    packages = {path.parent.name for path in core.glob("*/__init__.py")}
    assert packages <= set(indented)
