"""Processes that write to one workspace at once, or are killed while they do; run by the tests.

Usage: python tests/store_processes.py crowd|kill FOLDER COUNT
"""

import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from nnguide_core.records import Dataset, ImageRef, Role, Verdict, fingerprint
from nnguide_core.store import Workspace
from tests.processes import fork, succeeded

KEYS = [fingerprint(str(number)) for number in range(4)]
IMAGES = tuple(ImageRef(fingerprint(str(n)), "d", f"{n}.png", None, f"{n}.png") for n in range(2000))
DATASET = Dataset("d", Role.ID, Path("/data"), IMAGES)


def verdict(number: int) -> Verdict:
    return Verdict(str(number), "unsure", "", datetime.now(UTC))


def save(workspace: Workspace, value: int) -> None:
    rows = torch.full((50_000 * (1 + value % 3),), float(value))
    workspace.save("banks", KEYS[value % len(KEYS)], {"rows": rows}, {"value": value})


def is_whole(workspace: Workspace, key: str) -> bool:
    if (found := workspace.load("banks", key)) is None:
        return not workspace.all_set_aside()
    tensors, about = found
    return bool((tensors["rows"] == about["value"]).all())


def crowd(root: Path, count: int) -> str:
    """Let processes do the same at the same moment; each opens the workspace itself."""

    def work() -> None:
        workspace = Workspace(root)
        for number in range(25):
            workspace.add_verdicts([verdict(number)])
            workspace.claim_upload("everyone", 1, limit=10**6)
            save(workspace, number)
            assert is_whole(workspace, KEYS[(number + 1) % len(KEYS)])
            if number % 10 == 0:
                workspace.save_dataset(DATASET)
                assert workspace.dataset(DATASET.fingerprint) == DATASET

    whole = succeeded(*(fork(work) for _ in range(count)))
    return f"{count} processes, {0 if whole else 'some'} errors"


def kill(root: Path, count: int) -> str:
    """Kill a writer again and again, while a reader looks at all that is there."""
    chance = random.Random(0)  # noqa: S311 - moments, no secrets
    reading, stop = os.pipe()
    reader = fork(lambda: _read_until(root, reading))
    told, losses = -1, 0
    for _ in range(count):
        told = max(told, _kill_a_writer(root, told + 1, chance.uniform(0.01, 0.15)))
        kept = {int(verdict.image) for verdict in Workspace(root).verdicts()}
        losses += not kept >= set(range(told + 1))
    os.write(stop, b"x")
    broken = 0 if succeeded(reader) else 1
    workspace = Workspace(root)
    broken += len(workspace.all_set_aside()) + sum(not is_whole(workspace, key) for key in KEYS)
    return f"{count} kills, {losses} losses, {broken} half-written files"


def _kill_a_writer(root: Path, first: int, seconds: float) -> int:
    # Returns the last verdict that the writer was told to be saved.
    reading, writing = os.pipe()
    writer = fork(lambda: _write_for_ever(root, first, writing))
    os.close(writing)
    os.read(reading, 1)
    time.sleep(seconds)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    told = b""
    while piece := os.read(reading, 65536):
        told += piece
    os.close(reading)
    return first + len(told) - 1


def _write_for_ever(root: Path, number: int, writing: int) -> None:
    workspace = Workspace(root)
    os.write(writing, b"!")
    while True:
        workspace.add_verdicts([verdict(number)])
        os.write(writing, b".")
        save(workspace, number)
        workspace.thumbnails.put({str(number): bytes(1000)}, 96)
        if number % 5 == 0:
            workspace.save_dataset(DATASET)
        number += 1


def _read_until(root: Path, reading: int) -> None:
    os.set_blocking(reading, False)
    workspace = Workspace(root)
    while True:
        for key in KEYS:
            assert is_whole(workspace, key)
        assert workspace.dataset(DATASET.fingerprint) in (None, DATASET)
        workspace.thumbnails.get(["1"], 96)
        try:
            os.read(reading, 1)
            return
        except BlockingIOError:
            time.sleep(0.005)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder, count = sys.argv[1:]
    print({"crowd": crowd, "kill": kill}[what](Path(folder), int(count)))  # noqa: T201 - read by the test
