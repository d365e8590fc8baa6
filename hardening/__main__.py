"""Everything that tries to break the program, as one table of counts: python -m hardening [name ...].

Each module has rows() and runs in a process of its own, so that whatever becomes of one, the others run and
their counts are printed. The exit code is 1 if a count is not what it must be, or if a module fails.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.__main__ import machine
from hardening.table import Row, from_json, heading, line, to_json

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
    "waiting",
    "injection",
)
_ONE = "--one"  # as the first argument: run one module here, and write its rows to a file
_MOST_SECONDS = 5400.0  # for one module, after which it counts as failed


def main(names: list[str]) -> int:
    """Run the named modules, all if none is named; return 1 if a count is not as it must be."""
    print(machine() + "\n\n" + heading(), flush=True)
    failed, missed = [], 0
    for name in names or NAMES:
        print(f"trying {name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        rows, reason = apart(name)
        for row in rows:
            print(line(row), flush=True)
        missed += sum(not row.is_met for row in rows)
        if reason:
            failed.append(f"{name} failed: {reason}; see standard error.")
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    for sentence in failed:
        print(f"\n{sentence}")
    return 1 if failed or missed else 0


def apart(name: str, seconds: float = _MOST_SECONDS) -> tuple[list[Row], str]:
    """Run one module in a process of its own; return the rows it came to, and why it failed, "" if not."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "rows.jsonl"
        told.touch()
        command = [sys.executable, "-m", "hardening", _ONE, name, told]
        child = subprocess.Popen(
            command, stdout=sys.stderr, cwd=Path(__file__).parents[1], start_new_session=True
        )
        try:
            status = child.wait(seconds)
            reason = "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            reason = f"not over after {seconds:.0f} s"
        finally:
            _end_all_of(child)
        return [from_json(each) for each in told.read_text().splitlines()], reason


def _end_all_of(child: subprocess.Popen[bytes]) -> None:
    """Kill a module's process and all that it started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _run_here(name: str, told: Path) -> None:
    with told.open("a") as file:
        for row in importlib.import_module(f"hardening.{name}").rows():
            print(to_json(row), file=file, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [_ONE]:
        _run_here(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))
