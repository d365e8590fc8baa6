"""The bank images of a question that a person decided to leave out, kept in the workspace as verdicts are."""

from collections.abc import Iterable

from views import resources
from views.current import View

__all__ = ["empty_list", "leave_out", "left_out"]


def left_out(view: View) -> frozenset[int]:
    """Return the bank rows that are on the list; images with the same bytes are on it together."""
    chosen = _kept_ids(view)
    return frozenset(row for row, image in enumerate(view.evaluation.bank.ids) if image in chosen)


def leave_out(view: View, rows: Iterable[int]) -> None:
    """Put bank rows on the list."""
    ids = _kept_ids(view) | {view.evaluation.bank.ids[row] for row in rows}
    resources.workspace().save_setting(_name(view), sorted(ids))


def empty_list(view: View) -> None:
    """Take every bank row off the list."""
    resources.workspace().save_setting(_name(view), [])


def _kept_ids(view: View) -> frozenset[str]:
    return frozenset(resources.workspace().setting(_name(view), ()))


def _name(view: View) -> str:
    return f"left_out.{view.run.question}"
