"""Runs on a disk that is too small and in memory that is too small, with a little more each time."""

from hardening.kills import summed
from hardening.table import Row

__all__ = ["rows"]

STEPS = 24


def rows() -> list[Row]:
    """Return the table's lines."""
    return [
        *summed("full disk", "disk", STEPS, "times the disk was full"),
        *summed("little memory", "memory", STEPS, "times the memory was too small"),
    ]
