"""Odd, damaged and hostile checkpoints: every case of the tests, and many more damaged ones."""

import tempfile
from itertools import chain
from pathlib import Path

from hardening.table import Row, must_be_zero
from hardening.trying import counted
from tests import checkpoint_corpus, pickle_corpus
from tests.trial_errands import load_checkpoint
from tests.trials import attempt, made

__all__ = ["rows"]

DAMAGED = 120  # of each kind cut, as many flipped, and four times as many with a flipped pickle


def rows() -> list[Row]:
    """Return the table's lines."""
    cases = chain(checkpoint_corpus.checkpoints(), checkpoint_corpus.damaged(DAMAGED, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        endless = made(pickle_corpus.endless(), Path(folder, "endless"), "weights.pth")
        trials = chain(
            attempt(load_checkpoint, made(cases, Path(folder), "weights.pth")),
            attempt(load_checkpoint, endless, timeout=5),
        )
        lines = counted("checkpoints", trials)
        sprung = sum(1 for _ in Path(folder).rglob(checkpoint_corpus.SPRUNG))
    return [*lines, must_be_zero("checkpoints", "ran code", sprung)]
