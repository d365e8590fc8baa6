"""Everything that tries to break the program, as one table of counts: python -m hardening [name ...].

Each module has rows(). The exit code is 1 if a count is not what it must be, or if a module fails.
"""

import importlib
import sys
import time
import traceback

from benchmarks.__main__ import machine
from hardening.table import Row, markdown

__all__ = ["NAMES", "main"]

NAMES: tuple[str, ...] = (
    "images",
    "zips",
    "checkpoints",
    "features",
    "fuzz",
    "kills",
    "limits",
    "sessions",
    "injection",
)


def main(names: list[str]) -> int:
    """Run the named modules, all if none is named; return 1 if a count is not as it must be."""
    print(machine() + "\n", flush=True)
    rows: list[Row] = []
    failed = []
    for name in names or NAMES:
        print(f"trying {name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            rows += importlib.import_module(f"hardening.{name}").rows()
        except (ImportError, OSError, RuntimeError, ValueError, AssertionError):
            traceback.print_exc()
            failed.append(name)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(markdown(rows))
    for name in failed:
        print(f"\n{name} failed: see above.")
    return 1 if failed or not all(row.is_met for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
