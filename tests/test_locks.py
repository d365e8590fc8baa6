"""Locks: one holder at a time, let go of also by those who are killed."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnguide_core.errors import CancelledError
from nnguide_core.locks import is_locked, locked

HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_held_in_the_block_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        assert path.stat().st_mode & 0o777 == 0o600
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_let_go_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a.lock"):
        {}["x"]
    assert not is_locked(tmp_path / "a.lock")


def test_many_threads_are_never_in_the_block_together(tmp_path):
    inside, most, turns = [], [], []

    def enter() -> None:
        for _ in range(5):
            with locked(tmp_path / "a.lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()
                turns.append(1)

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(turns) == 30


def test_the_lock_of_a_killed_process_is_free_again(tmp_path):
    path = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        with (
            pytest.raises(CancelledError, match="Stopped while waiting"),
            locked(path, cancelled=lambda: True),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    assert not is_locked(path)
    with locked(path):
        pass


def test_a_lock_file_that_changed_hands_between_opening_and_locking_is_not_taken_for_the_lock(
    tmp_path, monkeypatch
):
    path, lock = tmp_path / "a.lock", fcntl.flock

    def replaced_before(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        path.unlink()
        path.touch()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", replaced_before)
    with locked(path):
        assert is_locked(path)


def test_a_folder_that_is_not_there_is_an_error_and_not_a_wait(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "absent" / "a.lock"):
        pass
