"""Odd, malformed and hostile zips: every case of the tests, and many more damaged ones."""

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from hardening.table import Row, must_be_zero
from hardening.trying import counted
from tests import zip_corpus
from tests.trial_errands import open_zip
from tests.trials import attempt

__all__ = ["rows"]

DAMAGED = 750  # cut, and as many flipped


def rows() -> list[Row]:
    """Return the table's lines."""
    with tempfile.TemporaryDirectory() as folder:
        lines = counted("zips", attempt(open_zip, _cases(Path(folder))))
        strays = sum(path.is_file() and path.name != "x.zip" for path in Path(folder).rglob("*"))
    return [*lines, must_be_zero("zips", "files written", strays)]


def _cases(folder: Path) -> Iterator[tuple[str, Any, str]]:
    for place, case in enumerate(chain(zip_corpus.zips(), zip_corpus.damage(DAMAGED))):
        path = folder / str(place) / "x.zip"
        path.parent.mkdir()
        case.make(path)
        expected = "^ok$" if case.refused is None else case.refused
        yield case.name, (path, tuple(case.kept), dict(case.reasons)), expected
