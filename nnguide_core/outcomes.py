"""How a block of work ended, for threads that must not die of what they run."""

from types import TracebackType
from typing import Literal, Self

__all__ = ["Outcome"]


class Outcome:
    """Takes down what a block raised, whatever it was, instead of letting it go on.

    >>> with Outcome() as working:
    ...     raise OSError("full")
    >>> working.error
    OSError('full')
    """

    error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[True]:
        self.error = error
        return True
