import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnguide_core.names import csv_safe, visible


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Katze 猫 кошка قطة.jpg", "Katze 猫 кошка قطة.jpg"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("cat\u202egpj.exe", "cat\\u202egpj.exe"),
        ("two\nlines\ttab\x00nul\x1b[31m", "two\\x0alines\\x09tab\\x00nul\\x1b[31m"),
        ("latin1 \udce9", "latin1 \\udce9"),
        ("private \ue000, unassigned \u0378", "private \\ue000, unassigned \\u0378"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("<b>&amp;</b> [link](http://x)", "<b>&amp;</b> [link](http://x)"),
    ],
)
def test_a_name_is_shown_as_it_is_with_what_hides_written_out(name, shown):
    assert visible(name) == shown


@given(st.text(st.characters(), max_size=30))
def test_a_shown_name_is_one_line_of_utf8_without_controls(name):
    shown = visible(name)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    hidden = {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"}
    assert not hidden & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_a_cell_that_a_spreadsheet_would_run_is_defused(start):
    assert csv_safe(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("name", ["", "cat", "a=b", "'quoted", "1-2"])
def test_a_harmless_cell_is_left_as_it_is(name):
    assert csv_safe(name) == name
