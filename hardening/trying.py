"""From trials of hostile inputs to lines of the table: how many there were, and how many ended badly."""

import sys
from collections.abc import Iterable, Sequence

from hardening.table import Row, must_be_zero
from tests.trials import MOST_BYTES, MOST_SECONDS, Trial

__all__ = ["counted"]


def counted(name: str, trials: Iterable[Trial]) -> list[Row]:
    """Try all, name the bad ones on standard error, and return the lines."""
    tried: Sequence[Trial] = list(trials)
    for trial in tried:
        if trial.is_bad:
            print(f"{name}: {str(trial)[:500]}", file=sys.stderr)
    limits = f"{MOST_SECONDS:.0f} s of computing, {MOST_BYTES / 2**30:.0f} GiB"
    return [
        Row(name, "inputs tried", len(tried), least=1, note=f"each in a child process; {limits}"),
        Row(name, "of these read", sum(getattr(each.came, "verdict", "") == "ok" for each in tried)),
        must_be_zero(name, "crashes", sum(each.crashed for each in tried)),
        must_be_zero(name, "hangs", sum(each.hung for each in tried)),
        must_be_zero(name, "over the memory limit", sum(each.is_excessive for each in tried)),
        must_be_zero(name, "unnamed errors", sum(each.is_unnamed for each in tried)),
        must_be_zero(name, "read or refused otherwise than expected", sum(each.is_wrong for each in tried)),
    ]
