"""What the program imports is what requirements.txt declares, each with its reason."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {"nnguide_core", "views", "pages"}
OPTIONAL = {"timm"}  # used where it is installed
PART_OF_ANOTHER = {"starlette"}  # what Streamlit's server is made of: its version is Streamlit's to choose
LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?P<range>[^#]*?)\s+# (?P<reason>.+)")


def declared():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {each["name"].lower(): each["range"] for each in found}


def imported():
    """The names of the packages that the program imports, at the top of a module or inside a function."""
    files = [ROOT / "app.py", *(path for part in sorted(OURS) for path in (ROOT / part).rglob("*.py"))]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_bytes()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return (
        {name.partition(".")[0] for name in names}
        - OURS
        - OPTIONAL
        - PART_OF_ANOTHER
        - set(sys.stdlib_module_names)
    )


def test_every_package_that_is_imported_is_declared():
    homes = packages_distributions()
    assert {homes[name][0].lower() for name in imported()} - declared().keys() == set()


def test_every_requirement_has_a_range():
    assert [name for name, bounds in declared().items() if ">=" not in bounds or "<" not in bounds] == []
