"""The table of hardening: what is not as it must be is marked, and makes the command fail."""

import importlib
import math
from types import SimpleNamespace

import pytest

from hardening import __main__ as command
from hardening.table import Row, markdown, must_be_zero


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
    assert ("✗" in markdown([row])) is not met


def test_one_count_that_should_be_zero_or_one_failed_module_fails_the_command(monkeypatch, capsys):
    def module_of(name):
        if name == "hardening.broken":
            raise ValueError("no such thing")
        return SimpleNamespace(rows=lambda: [must_be_zero("x", "crashes", {"hardening.bad": 2}.get(name, 0))])

    monkeypatch.setattr(importlib, "import_module", module_of)
    monkeypatch.setattr(command, "machine", lambda: "a machine")
    assert command.main(["good"]) == 0
    assert command.main(["good", "bad"]) == 1
    assert "| x | crashes | **2** ✗ | 0 |  |" in capsys.readouterr().out
    assert command.main(["good", "broken"]) == 1
    assert "broken failed: see above." in capsys.readouterr().out


def test_every_module_that_is_named_is_there():
    for name in command.NAMES:
        assert callable(importlib.import_module(f"hardening.{name}").rows)
