"""Names are shown as they are, whatever is in them."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from views.text import literal, plotly_text, shorten


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("cat", "cat"),
        ("chat noir – été", "chat noir – été"),
        ("猫", "猫"),
        ("קטן", "קטן"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
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
