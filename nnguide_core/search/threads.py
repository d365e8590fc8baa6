"""Threads that each run torch on one core, so that a tile stays in the cache of the core that made it."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["run_all", "thread_count"]

Result = TypeVar("Result")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_building = threading.Lock()


def thread_count() -> int:
    """Return how many tasks run at once: as many as torch may use threads here."""
    return torch.get_num_threads()


def run_all(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run every task and return the results in order; the first error is raised once all have ended.

    Tasks must not call run_all.
    """
    if len(tasks) < 2 or thread_count() < 2:
        return [task() for task in tasks]
    pool = _pool(thread_count())
    running = [pool.submit(task) for task in tasks]
    wait(running)
    return [task.result() for task in running]


def _pool(count: int) -> ThreadPoolExecutor:
    with _building:
        # A forked process has none of its parent's threads.
        key = (os.getpid(), count)
        if key not in _pools:
            _pools[key] = _start(count)
        return _pools[key]


def _start(count: int) -> ThreadPoolExecutor:
    started = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, thread_name_prefix="search", initializer=_use_one_core)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    # Each thread's setting is its own, but also the default of threads that start later.
    torch.set_num_threads(count)
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # the first question overwrites the thread's setting with the default
    torch.set_num_threads(1)
