"""One worker process: how it is started, what is sent to and fro, and what it does until it dies."""

import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn

from nnguide_core.errors import NNGuideError

__all__ = ["MOST_ITEMS", "TIME_SIGNALS", "Failure", "WorkerProcess", "receive", "send", "serve"]

MOST_ITEMS = 10_000  # per message; the pipe of progress marks holds 65,536
TIME_SIGNALS = (signal.SIGPROF, signal.SIGALRM)  # what a worker dies of when an item takes too long
_PATIENCE = 10  # seconds by the clock for each second of computing: a busy machine makes no image slow
_MEMORY_LIMIT = (
    1_200_000_000  # bytes that one worker may fill; a WebP of 64 million pixels takes 1.03 billion
)
_ENVIRONMENT = {
    # One thread each: the cores are shared among the workers already.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Else glibc returns every batch of arrays to the kernel and faults it in again, a tenth of all time.
    "MALLOC_MMAP_THRESHOLD_": str(16 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2),
}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nnguide_core.worker_process import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One item without a result, and why in words."""

    reason: str
    kind: Literal["refused", "crashed", "too slow"]


class WorkerProcess:
    """One worker process, seen from the caller's side."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self._progress, marks = os.pipe()
        self._function: bytes | None = None  # what the process has loaded
        handles = (theirs.fileno(), marks)
        folders = json.dumps([folder for folder in sys.path if isinstance(folder, str)])
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and arguments made here
                [sys.executable, "-P", "-c", _BOOT, folders, *map(str, handles)],
                pass_fds=handles,
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        finally:
            theirs.close()
            os.close(marks)

    def send(self, function: bytes, timeout: float, items: Sequence[Any]) -> None:
        """Send items, timeout seconds of computing for each; a dead worker shows when received from."""
        changed = None if function == self._function else function
        self._function = function
        with suppress(BrokenPipeError, ConnectionResetError):
            send(self.channel, (changed, timeout, items))

    def receive(self, count: int) -> list[Any] | None:
        """Return the results of the count items that were sent last, None if the worker died."""
        try:
            kind, value = receive(self.channel)
        except (EOFError, ConnectionResetError):
            return None
        if kind == "raised":
            raise RuntimeError(f"A worker's function failed.\n{value}")
        os.read(self._progress, count)
        return list(value)

    def post_mortem(self) -> tuple[int, int]:
        """Return how many of the items sent last were begun, and the dead process's status."""
        started = len(os.read(self._progress, MOST_ITEMS))
        self.kill()
        return started, self._process.returncode

    def kill(self) -> None:
        """End the process, if it still runs, and free its handles."""
        self._process.kill()
        self._process.wait()
        self.channel.close()
        os.close(self._progress)


def serve(channel_handle: int, progress_handle: int) -> None:
    """Work in a worker process until the caller hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides when to stop
    for each in TIME_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # kills the process, inside C code too
    _limit_memory()
    channel = socket.socket(fileno=channel_handle)
    _tell_defects(channel)
    function: Callable[[Any], Any] = _nothing
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            changed, timeout, items = receive(channel)
            if changed is not None:
                function = pickle.loads(changed)  # noqa: S301 - from the process that started this one
                _silence_libraries()
            send(channel, ("done", _work(function, items, timeout, progress_handle)))


def send(channel: socket.socket, message: object) -> None:
    """Send a message: the sizes of its parts, its pickle, then the bytes of its arrays as they are."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(head), *(array.raw() for array in arrays)]
    sizes = struct.pack(f"<I{len(parts)}Q", len(parts), *(part.nbytes for part in parts))
    channel.sendall(sizes + head)
    for part in parts[1:]:
        channel.sendall(part)


def receive(channel: socket.socket) -> Any:
    """Wait for a message that send sent; EOFError if the other process is gone."""
    (count,) = struct.unpack("<I", _exactly(channel, 4))
    sizes = struct.unpack(f"<{count}Q", _exactly(channel, 8 * count))
    head = _exactly(channel, sizes[0])
    bytes_of_arrays, start, arrays = _exactly(channel, sum(sizes[1:])), 0, []
    for size in sizes[1:]:
        arrays.append(bytes_of_arrays[start : start + size])
        start += size
    return pickle.loads(head, buffers=arrays)  # noqa: S301 - from the process at the other end


def _work(function: Callable[[Any], Any], items: Sequence[Any], timeout: float, progress: int) -> list[Any]:
    results = []
    for item in items:
        os.write(progress, b".")
        _limit_time(timeout)
        results.append(_result(function, item))
    _limit_time(0)
    return results


def _limit_time(seconds: float) -> None:
    """Die after so many seconds of computing, or of waiting for much longer; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _PATIENCE)


def _result(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        try:
            return function(item)
        except NNGuideError as error:
            return Failure(str(error), "refused")
    except MemoryError:
        pass  # what was running when it was raised holds the memory until here
    return Failure("Too large: reading it needs more memory than a worker may use.", "refused")


def _tell_defects(channel: socket.socket) -> None:
    """Send the traceback of whatever ends this process to the caller, who raises it."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _limit_time(0)
        if issubclass(kind, MemoryError):
            os._exit(1)  # no defect, and telling would need memory
        send(channel, ("raised", "".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = tell


def _limit_memory() -> None:
    """Make an allocation over the limit fail here, before the kernel ends some other process for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(_MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _silence_libraries() -> None:
    """Send stderr nowhere and warn of nothing: libraries print a line for each damaged file."""
    warnings.simplefilter("ignore")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 2)


def _nothing(item: object) -> NoReturn:
    raise RuntimeError(f"No function was sent before the item {item!r}.")


def _exactly(channel: socket.socket, size: int) -> memoryview:
    """Receive size bytes; EOFError if the other end is gone before."""
    view = memoryview(bytearray(size))
    got = 0
    while got < size:
        count = channel.recv_into(view[got:], size - got, socket.MSG_WAITALL)
        if count == 0:
            raise EOFError(f"The other process ended after {got} of {size} bytes.")
        got += count
    return view
