"""Odd, damaged and hostile features files: every case of the tests, and many more damaged ones."""

import tempfile
from itertools import chain
from pathlib import Path

from hardening.table import Row, must_be_zero
from hardening.trying import counted
from tests import features_corpus
from tests.trial_errands import load_features
from tests.trials import attempt, made

__all__ = ["rows"]

DAMAGED = 200  # of each kind cut, as many flipped, and twice as many with a flipped array


def rows() -> list[Row]:
    """Return the table's lines."""
    cases = chain(features_corpus.features_files(), features_corpus.damaged(DAMAGED, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        lines = counted("features files", attempt(load_features, made(cases, Path(folder), "own.data")))
        sprung = sum(1 for _ in Path(folder).rglob("sprung"))
    return [*lines, must_be_zero("features files", "ran code", sprung)]
