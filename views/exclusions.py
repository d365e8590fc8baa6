"""The bank images of a question that a person decided to leave out, kept in the workspace as verdicts are."""

from collections.abc import Iterable

from views import resources
from views.current import View
from views.frame import errors_as_sentences

__all__ = ["leave_out", "left_out", "put_back"]


def left_out(view: View) -> frozenset[int]:
    """Return the bank rows that are on the list; images with the same bytes are on it together."""
    chosen = frozenset(resources.workspace().setting(_name(view), ()))
    return frozenset(row for row, image in enumerate(view.evaluation.bank.ids) if image in chosen)


@errors_as_sentences()
def leave_out(view: View, rows: Iterable[int]) -> None:
    """Put bank rows on the list; what other sessions put there stays."""
    new = _ids(view, rows)
    resources.workspace().change_setting(_name(view), lambda ids: sorted({*ids, *new}), ())


@errors_as_sentences()
def put_back(view: View, rows: Iterable[int]) -> None:
    """Take bank rows off the list; what other sessions have put there since stays."""
    old = _ids(view, rows)
    resources.workspace().change_setting(_name(view), lambda ids: sorted({*ids} - old), ())


def _ids(view: View, rows: Iterable[int]) -> frozenset[str]:
    return frozenset(view.evaluation.bank.ids[row] for row in rows)


def _name(view: View) -> str:
    return f"left_out.{view.run.question}"
