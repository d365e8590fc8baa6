"""kill -9 at random moments: of runs, computed as the app computes them, and of writers of a workspace."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hardening.table import Row, must_be_zero

__all__ = ["rows", "summed"]

KILLS = 100
TESTS = Path(__file__).parents[1] / "tests"


def rows() -> Iterator[Row]:
    """Yield the table's lines as they are known."""
    yield from _store()
    yield from summed("kills", "kill", KILLS, "kill -9 survived")


def summed(name: str, what: str, count: int, tried: str) -> list[Row]:
    """Run tests/build_processes.py and return its counts as lines."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, TESTS / "build_processes.py", what, folder, str(count)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    counts = json.loads(found.stdout)
    for sentence in counts["sentences"]:
        print(f"{name}: {sentence}", file=sys.stderr)
    return [
        Row(name, tried, counts["tried"], least=count if what == "kill" else 1, note="scan to scores"),
        Row(name, "runs completed afterwards", counts["completed"], least=1),
        Row(name, "images not computed again", counts["resumed"], least=0 if what == "memory" else 1),
        must_be_zero(name, "images of finished batches computed again", counts["lost"]),
        must_be_zero(name, "runs with other features, bank or scores, bit for bit", counts["different"]),
        must_be_zero(name, "half-written files seen", counts["half_written"]),
        must_be_zero(name, "unnamed errors", counts["unnamed"]),
        must_be_zero(name, "crashes", counts["crashed"]),
        must_be_zero(name, "runs that waited for ever and were killed", counts["stalled"]),
    ]


def _store() -> list[Row]:
    """Kill writers of a workspace while another process reads it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "workspace"
        command = [sys.executable, TESTS / "store_processes.py", "kill", place, str(KILLS)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    kills, losses, broken = (int(part.split()[0]) for part in found.stdout.split(", "))
    return [
        Row("kills", "kill -9 of a writer survived", kills, least=KILLS, note="verdicts, tensors, datasets"),
        must_be_zero("kills", "saved verdicts lost", losses),
        must_be_zero("kills", "half-written files seen beside a writer", broken),
    ]
