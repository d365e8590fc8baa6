"""Names that users gave, shown literally: no markup, no control or direction-changing characters."""

import html
import string
import unicodedata

__all__ = ["literal", "markdown_text", "plotly_text", "shorten"]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode categories that show as nothing
_JOINERS = frozenset("\u200c\u200d")  # joiners inside words of Persian, Hindi and others, and inside emoji


def literal(text: str) -> str:
    r"""Return text with every invisible or direction-changing character written as its escape.

    >>> literal("a\u202eb\n")
    'a\\u202eb\\n'
    """
    return "".join(character if _is_shown(character) else _escape(character) for character in text)


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

    >>> print(markdown_text("![x](a.png) :red[b]"))
    \!\[x\]\(a\.png\) \:red\[b\]
    """
    return "".join(f"\\{each}" if each in string.punctuation else each for each in literal(text))


def plotly_text(text: str, limit: int | None = None) -> str:
    """Return text for a Plotly title, tick, legend or hover, where it renders literally.

    Plotly reads a subset of HTML in every text, so `<`, `>` and `&` become entities; it would show the entity
    of a quote as it is. Hover templates also read `%{...}`: names go there as customdata only.

    >>> plotly_text("<b>cat</b>")
    '&lt;b&gt;cat&lt;/b&gt;'
    """
    shown = literal(text)
    return html.escape(shorten(shown, limit) if limit is not None else shown, quote=False)


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _HIDDEN


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
