"""Names that users gave, shown literally: no markup, no control or direction-changing characters."""

import html
import re
import string

from nnguide_core.names import csv_safe, visible

__all__ = ["cell", "counted", "literal", "markdown_text", "plotly_text", "shorten"]

_ADDRESS = re.compile(r"//|www(?=\.)|@", re.IGNORECASE)
_JOINER = "\u2060"

literal = visible  # a page shows names as messages, reports and tables do


def cell(text: str) -> str:
    """Return text for a table on a page: a browser's own download of it has no line for a spreadsheet to run.

    >>> cell("=HYPERLINK(1)"), cell("cat")
    ("'=HYPERLINK(1)", 'cat')
    """
    return csv_safe(literal(text))


def counted(number: int, one: str, more: str = "") -> str:
    """Return a number with the word for what is counted; more is its plural where that is not one + "s".

    >>> counted(1, "image"), counted(2000, "image"), counted(0, "query", "queries")
    ('1 image', '2,000 images', '0 queries')
    """
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def shorten(text: str, limit: int = 40) -> str:
    """Return text with its middle replaced by "…" where it is longer than limit characters.

    >>> shorten("a long folder name", 9)
    'a lo…name'
    """
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


def markdown_text(text: str) -> str:
    r"""Return text for Streamlit calls that read Markdown (errors, captions), where it renders literally.

    What looks like an address would become a link, whatever is escaped: an invisible joiner keeps it apart.

    >>> print(markdown_text("![x](a.png) :red[b]"))
    \!\[x\]\(a\.png\) \:red\[b\]
    """
    apart = _ADDRESS.sub(f"\\g<0>{_JOINER}", literal(text))
    return "".join(f"\\{each}" if each in string.punctuation else each for each in apart)


def plotly_text(text: str, limit: int | None = None) -> str:
    """Return text for a Plotly title, tick, legend or hover, where it renders literally.

    Plotly reads a subset of HTML in every text, so `<`, `>` and `&` become entities; it would show the entity
    of a quote as it is. Hover templates also read `%{...}`: names go there as customdata only.

    >>> plotly_text("<b>cat</b>")
    '&lt;b&gt;cat&lt;/b&gt;'
    """
    shown = literal(text)
    return html.escape(shorten(shown, limit) if limit is not None else shown, quote=False)
