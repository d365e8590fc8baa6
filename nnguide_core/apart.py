"""Reading one file from anyone in a worker process of its own, under limits of memory and time.

Whatever the file does to its reader, the caller keeps its memory, and nobody else waits for it.
"""

import os
import pickle
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from nnguide_core.errors import CancelledError, NNGuideError, WorkersError
from nnguide_core.progress import Cancelled
from nnguide_core.worker_process import TIME_SIGNALS, Failure, Task, WorkerProcess
from nnguide_core.workers import death

__all__ = ["Bounds", "read_apart"]

_PAUSE = 0.1  # seconds between two questions whether to stop
_UNBOUNDED = 2**62  # bytes, until the libraries are loaded
_TOO_LARGE = "Too large: reading it needs more memory than the limit allows."
_STATUS = Path("/proc/self/status")  # on Linux


@dataclass(frozen=True)
class Bounds:
    """What reading a file may cost."""

    memory: int  # bytes, on top of what the loaded libraries take
    seconds: float  # of computing; ten times as many by the clock


def read_apart(
    function: Callable[..., Any],
    file: BinaryIO,
    *arguments: Any,
    bounds: Bounds,
    refused: Callable[[str], NNGuideError],
    cancelled: Cancelled | None = None,
    shared: Sequence[int] = (),
) -> Any:
    """Return function(file, *arguments), computed in a worker process.

    Args:
        function: importable. It gets the open file from its start on, and returns something small.
        file: opened by the caller, so that no name is looked up a second time.
        arguments: picklable.
        bounds: of memory and time.
        refused: turns a reason into the error to raise where the file exceeds its bounds or crashes its
            reader.
        cancelled: asked ten times a second; True ends the process.
        shared: further handles that the process gets, under the same numbers.

    Raises:
        NNGuideError: what function raised, or what refused made.
        CancelledError: cancelled returned True.
        WorkersError: the process does not start.
        RuntimeError: a defect in function, with its traceback.
    """
    item = (file.fileno(), bounds.memory, arguments)
    worker = WorkerProcess(_UNBOUNDED, [file.fileno(), *shared])
    try:
        worker.send(Task(pickle.dumps(partial(_on_file, function)), bounds.seconds, [item]))
        kind, results = "started", list[Any]()
        while kind == "started":
            _wait_for(worker, cancelled)
            kind, results = worker.receive()
        result = results[0] if kind == "done" else _post_mortem(worker, bounds)
    finally:
        worker.kill()
    if isinstance(result, Failure):
        raise refused(result.reason)
    if isinstance(result, _Refusal):
        raise result.error
    return result


@dataclass(frozen=True)
class _Refusal:
    """What the function raised of a file."""

    error: NNGuideError


def _wait_for(worker: WorkerProcess, cancelled: Cancelled | None) -> None:
    """Wait until the worker says something or is gone."""
    while not worker.channel.poll(_PAUSE):
        if cancelled is not None and cancelled():
            raise CancelledError("Stopped while a file was read.")
        if worker.due is not None and worker.due < time.monotonic():
            raise WorkersError("A worker process does not start. Close other programs, and try again.")


def _post_mortem(worker: WorkerProcess, bounds: Bounds) -> Failure:
    """Return what the worker died of."""
    begun, status = worker.post_mortem()
    if not begun:
        raise WorkersError(f"A worker process does not start: {death(status)}. Close other programs.")
    if -status in TIME_SIGNALS:
        return Failure(f"Too slow: reading it took longer than {bounds.seconds:g} s.", "too slow")
    if status in (1, -9):  # without memory for its answer, or killed by a system that has no more
        return Failure(_TOO_LARGE, "refused")
    return Failure(f"Reading it crashed: {death(status)}.", "crashed")


def _on_file(function: Callable[..., Any], item: tuple[int, int, tuple[Any, ...]]) -> Any:
    """Call a function with an open file, in a worker process."""
    handle, memory, arguments = item
    _allow(memory)
    with os.fdopen(handle, "rb") as file:
        file.seek(0)
        try:
            return function(file, *arguments)
        except NNGuideError as error:
            return _Refusal(error)
        except MemoryError:
            pass  # what was running when it was raised holds the memory until here
    return Failure(_TOO_LARGE, "refused")


def _allow(memory: int) -> None:
    """Let this process take so many bytes beside what it has."""
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        wanted = int(fields["VmData"].split()[0]) * 1024 + memory
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
