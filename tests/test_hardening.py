"""The table of hardening: what is not as it must be is marked, and makes the command fail."""

import importlib
import math

import pytest

from hardening import __main__ as command
from hardening.table import Row, from_json, heading, line, to_json


@pytest.mark.parametrize(
    ("value", "least", "most", "met", "wanted"),
    [
        (0, 0, 0, True, "0"),
        (1, 0, 0, False, "0"),
        (99, 100, None, False, "≥ 100"),
        (1.95, None, 2, True, "≤ 2"),
        (3, 1, 2, False, "≥ 1 and ≤ 2"),
        (12_345, None, None, True, ""),
        (math.nan, None, 2, False, "≤ 2"),
    ],
)
def test_a_value_outside_its_range_is_marked(value, least, most, met, wanted):
    row = Row("kills", "half-written files", value, least, most)
    assert row.is_met is met
    assert row.wanted == wanted
    assert ("✗" in line(row)) is not met
    assert line(row).count("|") == heading().splitlines()[0].count("|")
    assert repr(from_json(to_json(row))) == repr(row)


MODULES = {
    "good": "def rows():\n    return [must_be_zero('good', 'crashes', 0)]",
    "bad": "def rows():\n    return [must_be_zero('bad', 'crashes', 2)]",
    "broken": "def rows():\n    yield must_be_zero('broken', 'crashes', 0)\n    raise KeyError('gone')",
    "killed": "def rows():\n    yield must_be_zero('killed', 'crashes', 0)\n    os.kill(os.getpid(), 9)",
    "slow": "def rows():\n    yield must_be_zero('slow', 'crashes', 0)\n    time.sleep(600)",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Put modules beside those of the package, for this process's children."""
    (tmp_path / "hardening").mkdir()
    for name, text in MODULES.items():
        head = "import os, time\nfrom hardening.table import must_be_zero\n"
        (tmp_path / "hardening" / f"{name}.py").write_text(head + text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "machine", lambda: "a machine")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(("name", "status"), [("good", 0), ("bad", 1), ("broken", 1), ("killed", 1)])
def test_one_bad_count_or_one_failed_module_fails_the_command_and_the_others_run(capfd, name, status):
    assert command.main([name, "good"]) == status
    printed = capfd.readouterr().out
    assert "| good | crashes | 0 | 0 |  |" in printed
    assert f"| {name} | crashes |" in printed
    assert (f"{name} failed: exit status" in printed) is (name in ("broken", "killed"))


@pytest.mark.usefixtures("modules")
def test_a_module_that_never_ends_is_ended_and_its_rows_are_kept():
    rows, reason = command.apart("slow", seconds=20)
    assert [row.name for row in rows] == ["slow"]
    assert reason == "not over after 20 s"


def test_every_module_that_is_named_is_there():
    for name in command.NAMES:
        assert callable(importlib.import_module(f"hardening.{name}").rows)
