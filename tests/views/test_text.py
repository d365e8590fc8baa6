"""Names are shown as they are, whatever is in them."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from views.text import cell, literal, markdown_text, plotly_text, shorten


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("cat", "cat"),
        ("chat noir – été", "chat noir – été"),
        ("猫", "猫"),
        ("קטן", "קטן"),
        ("a\tb\r\n", "a\\x09b\\x0d\\x0a"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\udcff", "\\udcff"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)
def test_what_cannot_be_seen_is_written_out(given_name, shown):
    assert literal(given_name) == shown


@given(st.text(), st.integers(3, 60))
def test_a_shortened_name_fits_and_keeps_both_ends(text, limit):
    short = shorten(text, limit)
    assert len(short) <= limit
    if len(text) > limit:
        assert text.startswith(short.split("…")[0])
        assert "…" in short
    else:
        assert short == text


@given(st.text())
def test_plotly_gets_no_markup_and_reads_back_the_literal_name(text):
    escaped = plotly_text(text)
    assert not set("<>") & set(escaped)
    assert html.unescape(escaped) == literal(text)


@pytest.mark.parametrize("text", ["http://a.b/c", "HTTPS://a.b", "www.a.b", "WWW.a.b", "me@a.b", "//a.b"])
def test_what_looks_like_an_address_is_kept_apart_and_reads_the_same(text):
    shown = markdown_text(f"see {text}.")
    assert "\u2060" in shown
    assert not re.search(r"https?:\\?//\w|www\\?\.\w|\w@\w", shown.replace("\\", ""), re.IGNORECASE)
    assert shown.replace("\\", "").replace("\u2060", "") == f"see {text}."


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\uff1d1"])
def test_a_cell_of_a_table_never_begins_like_a_formula(text):
    assert cell(text) == f"'{text}"
    assert cell(f"a{text}") == f"a{text}"
