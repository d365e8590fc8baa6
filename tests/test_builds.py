"""A run that is killed, or lacks disk or memory: nothing is lost but the batches under way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disks import small_disk

SCRIPT = Path(__file__).parent / "build_processes.py"


def build(what, folder, count):
    command = [sys.executable, SCRIPT, what, folder, str(count)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def assert_nothing_lost(counts):
    assert counts["completed"] >= 1
    for name in ("lost", "different", "half_written", "unnamed"):
        assert counts[name] == 0, counts


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bank_bit_for_bit(tmp_path):
    kills = int(os.environ.get("NNGUIDE_KILLS", "5"))
    counts = build("kill", tmp_path, kills)
    assert counts["tried"] == kills
    assert_nothing_lost(counts)


def test_a_run_on_a_full_disk_says_so_and_goes_on_once_there_is_room(tmp_path):
    with small_disk(tmp_path / "probe", 1):  # skips where this user may not mount one
        counts = build("disk", tmp_path, 8)
    assert counts["tried"] >= 2
    assert counts["resumed"] > 0
    assert all("disk is full" in sentence for sentence in counts["sentences"])
    assert counts["crashed"] == 0
    assert_nothing_lost(counts)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits of memory are Linux's")
def test_a_run_without_enough_memory_says_so_and_goes_on_once_there_is_more(tmp_path):
    counts = build("memory", tmp_path, 8)
    assert counts["tried"] >= 1
    assert any("not enough memory" in sentence for sentence in counts["sentences"]), counts
    assert_nothing_lost(counts)
