"""The same work without a browser: `nnguide` and `python -m nnguide_core`."""

from nnguide_core.cli.program import INTERRUPTED, main

__all__ = ["INTERRUPTED", "main"]
