"""How far long work is, how fast it goes and how long it still takes."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Cancelled", "OnProgress", "Progress"]


@dataclass(frozen=True)
class Progress:
    """A moment in long work over a known number of items."""

    done: int
    total: int
    seconds: float  # since this work started, resumed items not counted
    resumed: int = 0  # of done, how many were found finished at the start
    step: str = ""  # what is being done, in words

    @property
    def rate(self) -> float:
        """Items per second since the start, 0.0 before the first is done."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left at this rate, None before the first item is done."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


OnProgress = Callable[[Progress], None]
Cancelled = Callable[[], bool]
