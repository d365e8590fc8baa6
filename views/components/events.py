"""What a user did in a component, heard once each, in order, even where a run was cut off by the next.

The browser keeps telling what was not answered, as the component's state; the session remembers what was
heard. (A trigger would be lost when another follows before the run that it asked for.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from views import state

__all__ = ["Event", "Inbox"]


@dataclass(frozen=True)
class Event:
    """Something the user did."""

    name: str
    value: Any  # as JSON gave it: to be checked


class Inbox:
    """The events of one run that no earlier run has finished answering."""

    def __init__(self, key: str, told: Any) -> None:
        """Read what the browser tells under a component's key; anything malformed is no event."""
        self._memory = f"heard.{key}"
        heard = int(state.kept(self._memory, 0))
        new = [(stamp, event) for stamp, event in _read(told) if stamp > heard]
        self.events = tuple(event for _, event in new)
        self.heard = max((stamp for stamp, _ in new), default=heard)

    def close(self) -> None:
        """Remember that these events were answered."""
        state.keep(self._memory, self.heard)


def _read(told: Any) -> Iterator[tuple[int, Event]]:
    for part in told if isinstance(told, list) else []:
        if (
            isinstance(part, dict)
            and isinstance(part.get("stamp"), int)
            and isinstance(part.get("name"), str)
        ):
            yield part["stamp"], Event(part["name"], part.get("value"))
