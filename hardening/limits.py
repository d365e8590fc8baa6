"""Runs on a disk that is too small and in memory that is too small, with a little more each time."""

from collections.abc import Iterator

from hardening.kills import summed
from hardening.table import Row

__all__ = ["rows"]

STEPS = 24


def rows() -> Iterator[Row]:
    """Yield the table's lines as they are known; the disk's come last, since they need the right to mount."""
    yield from summed("little memory", "memory", STEPS, "times the memory was too small")
    yield from summed("full disk", "disk", STEPS, "times the disk was full")
