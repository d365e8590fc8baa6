"""Threads that each compute on cores of their own, so that batches never wait for each other.

A network that runs on several cores waits for the slowest of them after every layer, and most of all when
other processes, such as those that decode its images, use the same cores.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

import torch

__all__ = ["ComputeThreads"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_MOST = 8  # threads; Python runs the code between layers in one thread at a time


class ComputeThreads:
    """A pool of threads for one kind of device; leave its with block to stop it.

    Args:
        device: on "cpu", the cores that torch may use are shared out; any other device gets two threads, so
            that one puts a batch together while the other's is computed.
    """

    def __init__(self, device: str) -> None:
        cores = torch.get_num_threads()
        self.count = min(cores, _MOST) if device == "cpu" else 2
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="compute")
        ready = threading.Barrier(self.count + 1)
        for _ in range(self.count):
            self._pool.submit(_take_cores, max(1, cores // self.count), ready)
        ready.wait()
        # Setting it in a thread also sets what threads to come start with.
        torch.set_num_threads(cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **options: Parameters.kwargs
    ) -> Future[Result]:
        """Call a function in one of the threads."""
        return self._pool.submit(function, *args, **options)


def _take_cores(count: int, ready: threading.Barrier) -> None:
    # Asking makes torch take its defaults for this thread now, and not over what is set here.
    torch.get_num_threads()
    torch.set_num_threads(count)
    ready.wait()
