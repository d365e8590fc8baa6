"""Names that came from outside, made safe to show and to put into a table, with nothing left out."""

import unicodedata
from collections.abc import Sequence

__all__ = ["brief", "csv_safe", "listed", "visible"]

# Joiners shape letters and hold emoji together; every other format character hides or reorders.
_JOINERS = "\u200c\u200d"
# Controls, format characters, surrogates, private and unassigned ones, line and paragraph separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NAMED = 8  # names in a sentence
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")  # also full-width


def visible(text: str) -> str:
    r"""Return text with every character that hides or changes the direction written as an escape.

    The result is printable, one line, encodable as UTF-8, and equal to text where nothing is hidden.

    >>> print(visible("cat\u202egpj.exe\n"))
    cat\u202egpj.exe\x0a
    """
    if text.isprintable():
        return text
    return "".join(_escape(character) if _is_hidden(character) else character for character in text)


def brief(text: str, most: int = 80) -> str:
    """Return text as visible does, cut to about so many characters: what a file says of itself has no limit.

    >>> brief("layer" * 100, 12), brief("conv.weight")
    ('layerlayerla…', 'conv.weight')
    """
    return visible(text) if len(text) <= most else f"{visible(text[:most])}…"


def listed(names: Sequence[str]) -> str:
    """Return the first names with commas between them, and how many more there are.

    >>> listed("abc"), listed("abcdefghij")
    ('a, b, c', 'a, b, c, d, e, f, g, h and 2 more')
    """
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def csv_safe(text: str) -> str:
    """Return text that no spreadsheet runs: a leading = + - @, tab or line break gets a ' before it.

    >>> csv_safe("=HYPERLINK(1)"), csv_safe("cat")
    ("'=HYPERLINK(1)", 'cat')
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE and character not in _JOINERS


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
